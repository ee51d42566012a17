"""Two processes log, write and score what one does, though the samples cannot be split evenly."""

import json
from collections import Counter

import pytest

from mvdiff.samples import find_samples
from tests.forked import end, rank_variables, start
from tests.training.together import prepare, run

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what one and two processes noted and wrote."""
    folder = tmp_path_factory.mktemp("together")
    prepare(folder)
    ranks = [start(folder / f"log{i}", run, folder, 2, **environ) for i, environ in enumerate(rank_variables(2))]
    run(folder, 1)
    assert end(*ranks, status=0) == [0, 0], [(folder / f"log{rank}").read_text() for rank in range(2)]
    return folder


def noted(folder, devices, rank):
    return json.loads((folder / f"{devices}_{rank}.json").read_text())


def curves(folder, devices):
    """Numbers that the first rank logged, in order; those of the test are in results.json, too."""
    return [
        (step, name, value)
        for step, line in noted(folder, devices, 0)["lines"]
        for name, value in line.items()
        if name != "epoch"
    ]


def test_the_curves_are_those_of_one_process(folder):
    one, two = curves(folder, 1), curves(folder, 2)
    assert [entry[:2] for entry in one] == [entry[:2] for entry in two]
    for (step, name, value), (_, _, other) in zip(one, two, strict=True):
        assert other == pytest.approx(value, rel=2e-4, abs=1e-6), (step, name)
    names = Counter(name for _, name, _ in one)
    assert names["train/loss"] == names["train/lr"] == names["train/grad_norm"] == 2
    assert 2 <= sum(count for name, count in names.items() if name.startswith("train/loss_q")) <= 8
    assert names["val/loss"] == 4  # twice in training, by itself, and of one sample


def test_each_process_trains_on_every_second_sample(folder):
    order = noted(folder, 1, 0)["seen"]["train"]
    assert len(order) == 8
    assert sorted(order[:4]) == sorted(order[4:]) == ["room0", "room1", "room2", "room3"]
    assert [noted(folder, 2, rank)["seen"]["train"] for rank in range(2)] == [order[::2], order[1::2]]


def test_a_process_without_a_sample_of_its_own_to_validate_takes_a_copy(folder):
    """The last validation has fewer samples than processes."""
    one, first, second = (noted(folder, *which)["seen"]["val"] for which in ((1, 0), (2, 0), (2, 1)))
    assert one == [["room4", True], ["room5", True], ["room6", True]] * 3 + [["room6", True]]
    assert first == [["room4", True], ["room6", True]] * 3 + [["room6", True]]
    assert second == [["room5", True], ["room4", False]] * 3 + [["room6", False]]


def test_each_sample_is_scored_by_one_process(folder):
    for kind in ("generated", "reference"):
        scored = [noted(folder, 2, rank)["seen"][kind] for rank in range(2)]
        assert scored == [["room7", "room9"], ["room8"]]


def test_each_sample_is_predicted_by_one_process(folder):
    written = [[name for ids in noted(folder, 2, rank)["written"] for name in ids] for rank in range(2)]
    assert written == [["room7", "room9"], ["room8"]]
    assert [path.name for path in find_samples(folder / "out2" / "generated")] == ["room7", "room8", "room9"]


def test_the_scores_are_those_of_one_process(folder):
    one, two = (json.loads((folder / f"out{n}" / "results.json").read_text()) for n in (1, 2))
    assert len(one["metrics"]) == 4  # two columns each
    assert all("value" in result for result in one["metrics"].values())
    assert two["pairing"] == one["pairing"]
    assert two["pairing"]["num_paired"] == 3
    for name, result in one["metrics"].items():
        other = two["metrics"][name]
        assert other.keys() == result.keys()
        assert other["value"] == pytest.approx(result["value"], rel=1e-3)
        own, its = result.get("per_sample", {}), other.get("per_sample", {})  # pooled columns have none
        assert its == pytest.approx(own, rel=1e-3)
        assert list(its) == list(own)
