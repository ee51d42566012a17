"""Verdicts on the expectations of tables, of planted results."""

from dataclasses import replace

import numpy as np
import pytest

from mvdiff.eval.metrics import metric_columns
from mvdiff.recipes.benchmarks.outcome import verdict_of
from mvdiff.recipes.benchmarks.table import Expectation
from mvdiff.recipes.scoring import PSNR


def planted(**means: float) -> dict:
    """Results of methods whose 32 per-sample overlap PSNRs scatter around a mean."""
    found = {}
    column = metric_columns()[PSNR]
    for seed, (name, mean) in enumerate(means.items()):
        noise = np.random.default_rng(seed).normal(size=32)
        values = {f"s{number:02d}": mean + float(one) for number, one in enumerate(noise - noise.mean())}
        entry = {"value": mean, "model": "homography", "variant": "x", "per_sample": values}
        found[name] = {
            "protocol": {"id": "p", "hash": "0", "values": {}},
            "generated": {"path": name, "images": {key: ["0"] for key in values}},
            "reference": None,
            "metrics": {PSNR: entry},
            "columns": {PSNR: {"title": column.title}},
        }
    return found


ORDER = Expectation(sentence="a above b, and b above c.", task="panorama", number=PSNR, higher=(("a", "b"), ("b", "c")))


@pytest.mark.parametrize(
    ("means", "answer"),
    [
        ({"a": 30.0, "b": 20.0, "c": 10.0}, "held"),
        ({"a": 30.0, "b": 10.0, "c": 20.0}, "did not hold"),
        ({"a": 10.0, "b": 20.0, "c": 20.0}, "did not hold"),
        ({"a": 30.0, "b": 20.0, "c": 20.0}, "not decided"),
        ({"a": 30.0, "b": 20.0}, "not decided"),
        ({"b": 10.0, "c": 20.0}, "did not hold"),
    ],
)
def test_verdicts(means, answer):
    verdict = verdict_of(ORDER, planted(**means), None)
    assert verdict.answer == answer
    for (higher, lower), found in verdict.pairs.items():
        if {higher, lower} <= means.keys():
            assert found.interval.estimate == pytest.approx(means[higher] - means[lower])
            assert found.num_samples == 32
        else:
            assert found is None


def test_a_verdict_needs_intervals_and_one_protocol():
    few = planted(a=30.0, b=20.0, c=10.0)
    for results in few.values():
        values = results["metrics"][PSNR]["per_sample"]
        results["metrics"][PSNR]["per_sample"] = dict(list(values.items())[:7])
    assert verdict_of(ORDER, few, None).answer == "not decided"
    other = planted(a=30.0, b=20.0, c=10.0)
    other["a"]["protocol"] = {"id": "q", "hash": "1", "values": {}}
    assert verdict_of(ORDER, other, None).answer == "not decided"
    alone = replace(ORDER, higher=(("b", "c"),))
    assert verdict_of(alone, other, None).answer == "held"
