"""Each run has a folder of its own, whatever logs it; a second run changes nothing in the first one's."""

import copy
import warnings

import pytest

from mvdiff.cli.doctor.run import RunToCheck
from mvdiff.cli.main import main
from mvdiff.cli.run_config import fingerprint, write_settings
from mvdiff.samples import find_samples
from mvdiff.training.run_folder import NoLogger
from tests.training.test_slurm_jobs import TASK
from tests.training.tiny_run import tiny_config, write_config

SERVER = {"class_path": "tests.training.loggers.ServerLogger", "init_args": {"save_dir": "logs"}}
NOWHERE = {"class_path": "tests.training.loggers.ServerLogger", "init_args": {"save_dir": None}}
CSV = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "logs"}}
WANDB = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"save_dir": "logs", "offline": True}}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A run of one step without validation."""
    config = tiny_config(tmp_path_factory.mktemp("tiny"))
    config["trainer"] |= {"max_steps": 1, "limit_val_batches": 0, "num_sanity_val_steps": 0}
    config["trainer"] |= {"enable_progress_bar": False}
    return config


@pytest.fixture
def run_in(config, tmp_path, monkeypatch):
    """Run a command in an empty folder with a logger; return what the folder's configs are named, and the status."""
    monkeypatch.chdir(tmp_path)

    def run(logger, command="fit", *options):
        changed = copy.deepcopy(config)
        changed["trainer"]["logger"] = logger
        return main([command, "--config", str(write_config(tmp_path / "run.yaml", changed)), *options])

    return run


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def runs_below(folder):
    return {path.parent for path in folder.rglob("config.yaml")}


def two_runs(run_in, root, logger):
    """Train twice; see that the second run has all of its files elsewhere; return the folder of the first."""
    assert run_in(logger) == 0
    (first,) = runs_below(root)
    assert {"config.yaml", "checkpoints", "model"} <= {path.name for path in first.iterdir()}
    before = files_in(first)
    assert run_in(logger) == 0
    (second,) = runs_below(root) - {first}
    assert files_in(first) == before
    assert {path.relative_to(first) for path in first.rglob("*.safetensors")} == {
        path.relative_to(second) for path in second.rglob("*.safetensors")
    }
    assert [path for path in root.rglob("*.ckpt") if first not in path.parents and second not in path.parents] == []
    return first


def test_a_run_that_goes_on_keeps_the_numbers_of_its_earlier_starts(run_in, tmp_path):
    logger = copy.deepcopy(CSV)
    logger["init_args"] |= {"name": "pano", "version": "mine"}
    folder = tmp_path / "logs" / "pano" / "mine"
    numbers = ["--trainer.log_every_n_steps", "1"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert run_in(logger, "fit", *numbers) == 0
        first = (folder / "metrics.csv").read_bytes()
        assert b"train/loss" in first
        (saved,) = folder.rglob("*.ckpt")
        assert run_in(logger, "fit", *numbers, "--trainer.max_steps", "2", "--ckpt_path", str(saved)) == 0
        second = (folder / "metrics.csv").read_bytes()
        assert run_in(logger, "validate", "--trainer.limit_val_batches", "1", "--ckpt_path", str(saved)) == 0
    assert (folder / "metrics-1.csv").read_bytes() == first
    assert (folder / "metrics-2.csv").read_bytes() == second != first
    assert b"val/loss" in (folder / "metrics.csv").read_bytes()
    assert [str(one.message) for one in seen if "exists and is not empty" in str(one.message)] == []


LOGGERS = {"server": SERVER, "server without a folder": NOWHERE, "none": False, "two": [CSV, SERVER]}


@pytest.mark.parametrize("logger", LOGGERS.values(), ids=LOGGERS)
def test_a_second_run_changes_nothing_in_the_first_ones_folder(run_in, tmp_path, logger):
    two_runs(run_in, tmp_path, logger)


def test_weights_and_biases_alone(run_in, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(wandb, "run", None)

    def run(logger, *words):
        wandb.finish()
        return run_in(logger, *words)

    two_runs(run, tmp_path, WANDB)
    wandb.finish()


@pytest.mark.parametrize("logger", [SERVER, False], ids=["server", "none"])
def test_samples_lie_in_the_folder_of_their_run(run_in, tmp_path, logger):
    for number in (1, 2):
        assert run_in(logger, "predict", "--trainer.limit_predict_batches=1") == 0
        runs = runs_below(tmp_path)
        assert len(runs) == number
        assert [len(find_samples(run / "samples")) for run in runs] == [1] * number


def test_a_training_is_refused_in_the_folder_of_another_unless_it_resumes(run_in, tmp_path, capsys):
    fixed = {**CSV, "init_args": CSV["init_args"] | {"version": "mine"}}
    folder = tmp_path / "logs" / "lightning_logs" / "mine"
    assert run_in(fixed, "validate", "--trainer.limit_val_batches=1") == 0
    assert run_in(fixed) == 0  # the settings of validate take nobody's place
    before = files_in(folder)
    assert run_in(fixed) == 1
    error = capsys.readouterr().err
    assert f"a training must have a folder of its own; {folder.relative_to(tmp_path)} has that of another run" in error
    assert "(config-2.yaml)" in error
    assert files_in(folder) == before  # the CSV logger would have removed metrics.csv
    (checkpoint,) = folder.rglob("*.ckpt")
    assert run_in(fixed, "fit", "--trainer.max_steps=2", "--ckpt_path", str(checkpoint)) == 0
    assert sorted(path.name for path in folder.glob("config*")) == ["config-2.yaml", "config-3.yaml", "config.yaml"]


def test_a_job_requeued_before_its_first_checkpoint_goes_on_in_its_folder(run_in, tmp_path, monkeypatch):
    fixed = {**CSV, "init_args": CSV["init_args"] | {"version": "mine"}}
    folder = tmp_path / "logs" / "lightning_logs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("# mvdiff fit\n")
    for name, value in TASK.items() | {("SLURM_JOB_ID", "7")}:
        monkeypatch.setenv(name, value)
    assert run_in(fixed) == 1
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert run_in(fixed) == 0
    assert sorted(path.name for path in folder.glob("config*")) == ["config-2.yaml", "config.yaml"]


def test_settings_tell_the_runs_of_a_job_apart(tmp_path, config):
    cli = RunToCheck(["--config", str(write_config(tmp_path / "run.yaml", config))], tmp_path)

    def run(**changed):
        settings = cli.settings.clone()
        for name, value in changed.items():
            settings[name.replace("__", ".")] = value
        return fingerprint(cli._parser("fit"), settings)

    same = {run(), run(ckpt_path="last"), run(trainer__devices=2, trainer__num_nodes=2)}
    others = {
        run(),
        run(seed_everything=1),
        run(model__init_args__text_dropout=0.25),
        run(trainer__default_root_dir="b"),
    }
    assert (len(same), len(others)) == (1, 4)


def test_an_id_of_an_earlier_run_is_refused_once_it_is_known(run_in, capsys):
    fixed = {**SERVER, "init_args": SERVER["init_args"] | {"id": "mine"}}
    assert [run_in(fixed), run_in(fixed)] == [0, 1]
    assert "logs/lightning_logs/mine has that of another run (config.yaml)" in capsys.readouterr().err


def test_settings_are_written_once_under_names_of_their_own(tmp_path):
    write_settings(tmp_path / "run", "# mvdiff test\na", is_new=False)
    write_settings(tmp_path / "run", "# mvdiff test\na", is_new=False)
    write_settings(tmp_path / "run", "# mvdiff fit\nb", is_new=True)
    written = {path.name: path.read_text() for path in (tmp_path / "run").iterdir()}
    assert written == {"config.yaml": "# mvdiff test\na", "config-2.yaml": "# mvdiff fit\nb"}
    with pytest.raises(ValueError, match=r"has that of another run \(config-2\.yaml\)"):
        write_settings(tmp_path / "run", "# mvdiff fit\nb", is_new=True)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").touch()  # by a run that started a moment before
    with pytest.raises(ValueError, match="must have a folder of its own"):
        write_settings(tmp_path / "new", "# mvdiff fit\nb", is_new=True)


def test_a_run_without_a_logger_takes_the_next_number(tmp_path):
    for name in ("version_3", "version_x", "other"):
        (tmp_path / name).mkdir()
    loggers = [NoLogger(tmp_path), NoLogger(tmp_path)]
    assert [logger.version for logger in loggers] == [4, 5]
    assert [logger.version for logger in loggers] == [4, 5]
    assert (tmp_path / "version_5").is_dir()
