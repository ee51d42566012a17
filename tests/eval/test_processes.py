"""Several processes score together: a metric's states sync, and `mvdiff evaluate` under torchrun equals one process."""

import json
from pathlib import Path

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.eval.sources import FolderSource
from mvdiff.samples import SampleRecord, sample_folder, write_sample
from tests.eval.gathering import gather, scores
from tests.eval.worlds import RIG, views, write_judge, write_samples
from tests.forked import command, run
from tests.launched import said, torchrun

BESIDE = ("overlap_chance", "overlap_zncc", "border_ratio")
pytestmark = [pytest.mark.distributed, pytest.mark.slow]
METRICS = ("toy_fid", "toy_inception_score", "overlap_psnr", "caption_agreement", "sharpness", *BESIDE)


def numbers_of(path: Path) -> dict:
    """Read results without what differs from run to run: seconds and the command."""
    results = json.loads(path.read_text())
    assert results.pop("run")["seconds"] > 0
    return results


def write_truth(path: Path, label: str = "red") -> str:
    """State the same of two samples, one of the first and one of the second process."""
    truth = {
        name: [{"object": "sofa", "colour": colour, "walls": "white"}] * 8
        for name, colour in (("s0", "red"), ("s3", label))
    }
    path.write_text(json.dumps(truth))
    return str(path)


def test_a_sample_on_two_processes_counts_once_and_one_may_have_none(tmp_path):
    generated, real = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b")
    settings = {
        "toy_features": str(write_judge(tmp_path / "judge")),
        "truth": write_truth(tmp_path / "truth.json"),
        "overlap_size": 0,
        "num_splits": 2,
        "num_resamples": 100,
    }
    plan = {"generated": str(generated), "real": str(real), "metrics": METRICS, "settings": settings}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    run(tmp_path / "log", gather, tmp_path, ranks=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    expected = scores(list(FolderSource(generated)), list(FolderSource(real)), METRICS, settings)
    for entries in (first, second, expected):  # each process knows the names of its own samples alone
        for entry in entries.values():
            entry["per_sample"] = list(entry.get("per_sample", {}).values())
    assert json.loads(json.dumps(expected)) == first == second


def test_evaluate_under_torchrun_gives_the_numbers_of_one_process(tmp_path):
    """With a broken sample, a metric that fails at a sample of the second process, and one of a user's."""
    generated, real = write_samples(tmp_path / "a", num=5, noise=0.2), write_samples(tmp_path / "b", num=3)
    (generated / "s2" / "3.png").write_bytes(b"broken")
    arguments = ["--generated", str(generated), "--reference", str(real), "--overlap_size", "0", "--num_splits", "2"]
    arguments += ["--metrics", *METRICS, "tests.extend.outside.my_metric.Brightness", "--num_resamples", "100"]
    arguments += ["--toy_features", str(write_judge(tmp_path / "judge"))]
    arguments += ["--truth", write_truth(tmp_path / "truth.json", label="unknown")]
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert main(["evaluate", *arguments, "--num_workers", "0", "--out", str(one)]) == 0
    caching = ["--cache", str(tmp_path / "cache"), "--num_workers", "1"]  # both processes write into one folder
    done = torchrun(tmp_path, "evaluate", *arguments, *caching, "--out", str(two))
    assert done.returncode == 0, said(tmp_path)[-4000:] + done.stderr[-2000:]
    results = numbers_of(two)
    assert results == numbers_of(one)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 4  # two passes of two processes
    assert results["generated"]["num_unreadable"] == 1
    assert "3.png" in results["generated"]["unreadable"][0]["reason"]
    brightness = results["metrics"]["brightness"]["per_sample"]
    assert list(brightness) == ["s0", "s1", "s3", "s4"]
    assert brightness["s4"] == pytest.approx(views(4, noise=0.2).mean() / 255)
    missing = results["metrics"]["caption_agreement"]["missing"]
    assert "colour='unknown'" in missing
    assert "at generated sample 's3'" in missing


def write_given(root: Path) -> Path:
    """Write samples whose first view was given, each off by its own noise."""
    alpha = torch.zeros(8, 12, 12, 1, dtype=torch.uint8)
    alpha[0] = 255
    for seed in range(3):
        given = torch.cat([torch.from_numpy(views(seed)) * (alpha > 0), alpha], dim=-1)
        record = SampleRecord(f"s{seed}", ["a sofa"] * 8, rig=RIG.to_dict(), settings={"paste_back": False})
        made = views(seed, noise=0.05 * (seed + 1))
        write_sample(sample_folder(root, f"s{seed}"), record, made, given=given)
    return root


def test_kid_and_scores_of_given_pixels_are_those_of_one_process(tmp_path):
    generated, real = write_given(tmp_path / "a"), write_samples(tmp_path / "b", num=3)
    arguments = ["--generated", str(generated), "--reference", str(real), "--num_workers", "0"]
    arguments += ["--metrics", "tests.eval.gathering.ToyKID", "given"]
    arguments += ["--toy_features", str(write_judge(tmp_path / "judge"))]
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    assert main(["evaluate", *arguments, "--out", str(one)]) == 0
    run(tmp_path / "log", command, ["evaluate", *arguments, "--out", str(two)], ranks=2)
    results = numbers_of(two)
    assert results == numbers_of(one)
    assert abs(results["metrics"]["kid"]["value"]) > 1e-6
    for name in ("known_psnr", "given_overlap_psnr"):
        assert list(results["metrics"][name]["per_sample"]) == ["s0", "s1", "s2"]
