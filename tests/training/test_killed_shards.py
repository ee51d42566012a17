"""A training from shards that is killed, and resumed with other ranks and workers, ends as an uninterrupted one.

`MVDIFF_KILL_ROUNDS=10 pytest tests/training/test_killed_shards.py` kills more runs, at other steps and places.
"""

import os
import random
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mvdiff.data.prepare.shard import image_content
from mvdiff.data.shards.writing import write_shards
from tests.forked import end, rank_variables
from tests.forked import start as start_forked
from tests.training import shard_run

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork and kill"),
]

KILLS = random.Random(3).sample(range(shard_run.EVERY, shard_run.STEPS), 2)
"""Steps before which the two runs are killed: of 1 rank without workers, and of 2 ranks with 2 workers each."""
ROUNDS = int(os.environ.get("MVDIFF_KILL_ROUNDS", "1"))
OTHERS = [(1, 2, 0), (2, 0, 0), *((ranks, n, i) for i in range(1, ROUNDS) for ranks in (1, 2) for n in (0, 2))]
"""Ranks, workers and round of further killed runs."""


class Run:
    """A run that has ended: samples of each step over all ranks, in order, losses of rank 0, and final weights."""

    def __init__(self, folder: Path) -> None:
        ranks = [[line.split() for line in path.read_text().splitlines()] for path in sorted(folder.glob("rank*.txt"))]
        self.folder = folder
        self.losses = {int(step): loss for step, _, loss, *_ in ranks[0]}
        self.samples = {}
        for lines in zip(*ranks, strict=True):
            assert len({(step, epoch) for step, epoch, *_ in lines}) == 1, "ranks are in step"
            in_order = zip(*(ids for _, _, _, *ids in lines), strict=True)  # the order is dealt out in turn
            self.samples[int(lines[0][0])] = (lines[0][1], *(name for names in in_order for name in names))

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / "weights.pt", weights_only=True)

    @property
    def newest(self) -> Path:
        return max(self.folder.glob("step=*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))


@pytest.fixture(scope="module")
def run(tiny_folder, tmp_path_factory):
    """Train in processes of their own: `run(devices, num_workers, ...)`."""
    root = tmp_path_factory.mktemp("killed")
    write_shards(image_content(tiny_folder / "data"), root / "shards", 25_000)
    roots = {"files": tiny_folder / "data", "shards": root / "shards"}

    def start(name, devices, num_workers, data="shards", status=0, **how) -> Run:
        folder = root / name
        folder.mkdir()
        places = (folder, tiny_folder / "base", roots[data], devices)
        ranks = [
            start_forked(folder / f"log{rank}", partial(shard_run.train, **how), *places, rank, num_workers, **environ)
            for rank, environ in enumerate(rank_variables(devices))
        ]
        assert end(*ranks, status=status) == [status] * devices, (folder / "log0").read_text()
        return Run(folder)

    return start


@pytest.fixture(scope="module")
def whole(run):
    """The uninterrupted run from files, of one process without workers."""
    return run("whole", 1, 0, data="files")


@pytest.fixture(scope="module")
def whole_of_two(run):
    """The uninterrupted run of two processes."""
    return run("two", 2, 0)


def assert_follows(resumed: Run, killed: Run, whole: Run) -> None:
    """Compare the samples of all steps, those between the checkpoint and the kill twice, with the whole run's."""
    assert list(whole.samples) == list(range(1, shard_run.STEPS + 1))
    assert len(set(whole.samples.values())) == shard_run.STEPS
    first = min(resumed.samples)
    assert first <= max(killed.samples) + 1
    assert killed.samples | resumed.samples == whole.samples
    assert list(resumed.samples) == list(range(first, shard_run.STEPS + 1))


def assert_near(one: Run, other: Run) -> None:
    for name, value in other.weights.items():
        torch.testing.assert_close(one.weights[name], value, rtol=0, atol=1e-6)


def assert_equal(one: Run, other: Run) -> None:
    for name, value in other.weights.items():
        assert torch.equal(one.weights[name], value), name


def test_two_ranks_see_the_samples_of_one_and_learn_the_same(whole, whole_of_two):
    assert whole_of_two.samples == whole.samples
    assert_near(whole_of_two, whole)


def test_one_rank_is_killed(run, whole, whole_of_two):
    killed = run("killed one", 1, 0, status=-signal.SIGKILL, kill_at=KILLS[0])
    alone = run("one again", 1, 2, ckpt_path=killed.newest)
    assert_follows(alone, killed, whole)
    assert_equal(alone, whole)
    assert killed.losses | alone.losses == whole.losses, "files and shards have the same losses"
    together = run("one to two", 2, 0, ckpt_path=killed.newest)
    assert_follows(together, killed, whole)
    assert_near(together, whole)


def test_two_ranks_are_killed(run, whole, whole_of_two):
    killed = run("killed two", 2, 2, status=-signal.SIGKILL, kill_at=KILLS[1])
    together = run("two again", 2, 0, ckpt_path=killed.newest)
    assert_follows(together, killed, whole)
    assert_equal(together, whole_of_two)
    alone = run("two to one", 1, 2, ckpt_path=killed.newest)
    assert_follows(alone, killed, whole)
    assert_near(alone, whole)


@pytest.mark.parametrize(("ranks", "num_workers", "number"), OTHERS)
def test_runs_are_killed_anywhere(run, whole, whole_of_two, ranks, num_workers, number):
    """In the first round, one rank is killed within a step and goes on as two; two ranks go on with workers."""
    draw = random.Random(f"{ranks} {num_workers} {number}")
    kill = {"kill_at": draw.randrange(shard_run.EVERY, shard_run.STEPS), "kill_in": draw.choice(shard_run.PLACES)}
    later = draw.choice([1, 2])
    if number == 0:
        kill["kill_in"], later = shard_run.PLACES[1 if ranks == 1 else 0], 2
    name = f"{ranks} {num_workers} {number}"
    killed = run(name, ranks, num_workers, status=-signal.SIGKILL, **kill)
    resumed = run(f"{name} again", later, 2 - num_workers, ckpt_path=killed.newest)
    assert_follows(resumed, killed, whole)
    if later == ranks:
        assert_equal(resumed, whole if ranks == 1 else whole_of_two)
    else:
        assert_near(resumed, whole)
