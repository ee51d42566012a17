"""docs/extend.md, "A method"."""

import json

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.samples import read_sample
from tests.extend.taking_through import Run, take_through
from tests.training.tiny_run import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained model, for the real views and a row beside the method's."""
    folder = tmp_path_factory.mktemp("run")
    return take_through(folder / "model", tiny_config(folder / "tiny"))


@pytest.fixture(scope="module")
def scored(run) -> Run:
    """The method's samples and scores, and one page of both."""
    import my_method

    assert my_method.run(run.folder / "run.yaml", run.folder / "means").written == 2
    assert my_method.run(run.folder / "run.yaml", run.folder / "means").skipped == 2
    results = run.folder / "means.json"
    evaluate = ["evaluate", "--generated", str(run.folder / "means"), "--reference", str(run.folder / "real")]
    assert main([*evaluate, "--metrics", "sharpness", "--num_workers", "0", "--out", str(results)]) == 0
    names, page = ["ours", "mean colour"], run.folder / "report.html"
    report = ["report", str(run.folder / "results.json"), str(results), "--names", *names, "--out", str(page)]
    assert main(report) == 0
    return Run(run.folder, "")


def test_its_samples_are_what_it_gives(scored):
    for name in ("room8", "room9"):
        real = scored.views("real", name).double().mean(dim=(-2, -1), keepdim=True)
        means = scored.views("means", name)
        assert (means - real).abs().max() <= 0.5 + 1e-4
        assert torch.equal(means, means[..., :1, :1].expand_as(means))
    record = read_sample(scored.folder / "means" / "room8").record
    assert record.seed is None
    assert record.prompts[0] == "a red lamp 8"


def test_it_is_scored_and_shown_beside_a_model(scored):
    entry = json.loads((scored.folder / "means.json").read_text())["metrics"]["sharpness_gradient_energy"]
    assert entry["value"] == 0.0  # one colour has no edges
    assert entry["reference"] > 0
    assert '"name": "mean colour"' in scored.page
    assert '"name": "ours"' in scored.page
