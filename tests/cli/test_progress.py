"""Progress in a log file: a line every 30 seconds, by a clock of our own."""

import io

import pytest
from rich.console import Console

import mvdiff.cli.progress
from mvdiff.cli.main import main
from mvdiff.cli.progress import ProgressBar
from tests.data.folders import write_matterport3d
from tests.data.scenes import write_scannet


class Clock:
    """A clock that goes on by a step with each look at it."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 100.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def lines_of(file: io.StringIO) -> list[str]:
    """Return lines without the time of day at which they expect the end."""
    return [line.split(", until ")[0] for line in file.getvalue().splitlines()]


def test_a_line_every_30_seconds_with_the_time_left_by_the_mean_speed():
    file, clock = io.StringIO(), Clock()
    with ProgressBar(Console(file=file, width=20), clock) as bar:
        progress = bar.counted("samples")
        for done in range(500, 541):  # as a run that goes on after 499 samples; 10 s each
            progress(done, 1000)
            clock.now += 10
    lines = lines_of(file)
    assert len(lines) == 13
    assert lines[0] == "samples: 503 of 1000, 1 h 23 min left"
    assert lines[1] == "samples: 506 of 1000, 1 h 22 min left"
    assert lines[-1] == "samples: 539 of 1000, 1 h 17 min left"


def test_what_takes_less_says_nothing_and_an_unknown_end_is_left_out():
    file, clock = io.StringIO(), Clock()
    with ProgressBar(Console(file=file), clock) as bar:
        rooms = bar.add_task("rooms", total=None)
        for _ in range(3):
            bar.advance(rooms)
            clock.now += 9.9
        assert lines_of(file) == []
        clock.now += 1
        bar.advance(rooms, 2)
    assert lines_of(file) == ["rooms: 5"]


def test_a_terminal_has_the_bar_alone():
    file, clock = io.StringIO(), Clock(step=31)
    with ProgressBar(Console(file=file, force_terminal=True), clock) as bar:
        bar.counted("samples")(1, 2)
    assert "samples" in file.getvalue()
    assert "1 of 2" not in file.getvalue()


@pytest.mark.parametrize("kind", ["panoramas", "recordings"])
def test_shards_say_what_they_are_at(tmp_path, kind, monkeypatch):
    file, clock = io.StringIO(), Clock(step=16)  # two looks are enough for a line
    monkeypatch.setattr(mvdiff.cli.progress, "progress_bar", lambda: ProgressBar(Console(file=file), clock))
    write = {"panoramas": write_matterport3d, "recordings": write_scannet}[kind]
    source, out = write(tmp_path / "in", num_train=2, num_test=1), tmp_path / "out"
    assert main(["data", "shard", str(source), "--out", str(out), "--shard_size", "1"]) == 0
    assert main(["data", "check", str(out)]) == 0
    said = list(dict.fromkeys(line.split(":")[0] for line in lines_of(file)))
    assert said == ["opening"] * (kind == "recordings") + ["planning", "samples", "shards"]
    assert any(line.startswith("planning: 3 of ") for line in lines_of(file))
