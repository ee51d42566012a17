"""docs/extend.md, "A metric"."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.cli.main import main
from tests.extend.taking_through import take_through
from tests.training.tiny_run import tiny_config, write_config

SPEC = {"class_path": "my_metric.Brightness", "init_args": {"scale": 2.0}}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("tiny"), output={"metrics": [SPEC]})


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    return take_through(tmp_path_factory.mktemp("run") / "metric", config, json.dumps(SPEC))


def brightness(root) -> dict[str, float]:
    """Twice the mean grey of each sample, straight from its files."""
    files = {folder.name: [folder / f"{view}.png" for view in range(3)] for folder in sorted(root.glob("room*"))}
    return {
        name: 2 * np.mean([np.asarray(Image.open(file), np.float64) for file in of]) / 255 for name, of in files.items()
    }


def test_its_number_is_that_of_the_files(run):
    generated, real = brightness(run.folder / "generated"), brightness(run.folder / "real")
    entry = run.results["metrics"]["brightness"]
    assert generated.keys() == real.keys() == {"room8", "room9"}
    assert entry["per_sample"] == pytest.approx(generated, abs=1e-12)
    assert entry["value"] == pytest.approx(np.mean(list(generated.values())), abs=1e-12)
    assert entry["reference"] == pytest.approx(np.mean(list(real.values())), abs=1e-12)
    assert entry["ratio_to_reference"] == pytest.approx(entry["value"] / entry["reference"])
    assert entry["interval_rule"] == "none: 2 samples, fewer than 8"


def test_table_and_page_show_it_with_title_unit_and_digits(run):
    value = run.results["metrics"]["brightness"]["value"]
    row, how = (line for line in run.printed.splitlines() if line.split()[:1] == ["brightness"])
    assert row.split()[1] == f"{value:.3f}"
    assert how.startswith("brightness (share, higher is better): mean grey; mean over pixels, then samples; 2 samples,")
    assert "mean brightness" in run.page
    assert "share" in run.page
    assert f"{value:.3f}" in run.page


def test_the_test_command_scores_what_the_yaml_names(run, config, tmp_path, capsys):
    config = config | {"trainer": config["trainer"] | {"default_root_dir": str(tmp_path), "enable_progress_bar": False}}
    assert main(["test", "--config", str(write_config(tmp_path / "run.yaml", config))]) == 0
    (results,) = tmp_path.rglob("results.json")
    entry = json.loads(results.read_text())["metrics"]["brightness"]
    assert entry["value"] == pytest.approx(np.mean(list(brightness(results.parent / "generated").values())), abs=1e-12)
    assert "test/brightness" in capsys.readouterr().out


def test_order_and_repetition_change_nothing():
    from my_metric import Brightness

    from mvdiff.eval.sample import ScoredSample

    samples = [
        ScoredSample(f"s{i}", torch.full((2, 3, 4, 4), 51 * i, dtype=torch.uint8), torch.eye(3), torch.eye(3), ["", ""])
        for i in range(3)
    ]
    computed = []
    for order in ([0, 1, 2], [2, 0, 1, 2, 0]):
        metric = Brightness()
        for i in order:
            metric.update(samples[i], real=False)
        computed.append(metric.compute()["brightness"])
    assert computed[0] == computed[1]
    assert computed[0].value == pytest.approx(0.2)
