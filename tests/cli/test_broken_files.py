"""A file that cannot be read in the middle of a run is one line, whichever process reads it."""

import copy
import multiprocessing
import re
import shutil

import pytest

from mvdiff.cli.main import main
from tests.data.folders import truncate
from tests.training.tiny_run import tiny_config, write_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run whose data the tests copy and damage."""
    config = tiny_config(tmp_path_factory.mktemp("tiny"))
    config["trainer"] |= {"logger": False, "enable_progress_bar": False, "num_sanity_val_steps": 0, "max_epochs": 1}
    config["trainer"]["callbacks"] = []
    config["model"]["init_args"]["num_validation_samples"] = 0
    return config


@pytest.fixture
def said(config, tmp_path, capsys):
    """Run a command on data where files were damaged; return its status and what it printed to stderr."""

    def run(command, damage, num_workers, data_class=None):
        folder = tmp_path / "data"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(config["data"]["init_args"]["root"], folder)
        for room in range(10):
            damage(folder, f"room{room}")
        run = copy.deepcopy(config)
        run["trainer"]["default_root_dir"] = str(tmp_path / "run")
        run["data"]["init_args"] |= {"root": str(folder), "num_workers": num_workers}
        run["data"]["class_path"] = data_class or run["data"]["class_path"]
        status = main([command, "--config", str(write_config(tmp_path / "run.yaml", run))])
        assert multiprocessing.active_children() == []
        return status, capsys.readouterr().err

    return run


def cut_off(folder, room):
    truncate(folder / f"{room}.png")


def no_image(folder, room):
    (folder / f"{room}.png").write_bytes(b"<html>not found</html>")


def no_json(folder, room):
    (folder / f"{room}.json").write_text('{"prompts": ')


def nothing(folder, room):
    pass


CASES = [("fit", damage) for damage in (cut_off, no_image, no_json)]
CASES += [(command, cut_off) for command in ("validate", "test", "predict")]


@pytest.mark.parametrize(("command", "damage"), CASES)
def test_a_damaged_file_is_the_same_line_with_workers_as_without(said, tmp_path, command, damage):
    lines = []
    for num_workers in (0, 2):
        status, error = said(command, damage, num_workers)
        assert status == 1
        assert "Traceback" not in error
        assert "worker" not in error.replace("num_workers", "")
        lines += [line for line in error.splitlines() if ": error: " in line]
    assert lines[0] == lines[1]
    assert str(tmp_path / "data" / "room") in lines[0]


def test_a_killed_worker_is_one_line(said):
    status, error = said("fit", nothing, 1, "tests.training.deadly_data.DeadlyDataModule")
    assert status == 3
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("mvdiff fit: error: ")]
    # torch notices either the signal or the missing process
    pattern = (
        r"reads data (was killed \(Killed\)|ended unexpectedly), as happens when memory runs out\. Lower num_workers"
    )
    assert re.search(pattern, line)
