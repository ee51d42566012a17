"""The line of visitors: order, Stop, and visitors who leave."""

import threading

import pytest

from mvdiff.demo.line import Line, RunStopped


def in_thread(target) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def test_visitors_run_one_at_a_time_in_their_order():
    line, order, told, joined = Line(), [], [], threading.Event()

    def visit(name: str) -> None:
        with line.place(name) as ticket:
            joined.set()
            told.extend((name, before) for before in line.waits(ticket))
            order.append(name)

    with line.place("first") as first:
        assert list(line.waits(first)) == []
        threads = []
        for name in ("second", "third"):
            joined.clear()
            threads.append(in_thread(lambda name=name: visit(name)))
            assert joined.wait(10)
        while len(told) < 2:
            threads[-1].join(0.01)
        assert order == []
    for thread in threads:
        thread.join(10)
    assert order == ["second", "third"]
    assert told[:2] == [("second", 1), ("third", 2)]


def test_a_run_stops_at_its_next_step_and_the_next_one_starts():
    line = Line()
    with line.place("a") as ticket:
        ticket.step(1, 5)
        assert not line.stop("b")
        assert line.stop("a")
        with pytest.raises(RunStopped, match=r"Stopped after 2 of 5 steps\."):
            ticket.step(2, 5)
    assert line.num_active == 0
    assert not line.stop("a")
    with line.place("a") as ticket:
        assert list(line.waits(ticket)) == []
        ticket.step(1, 5)


def test_a_waiting_visitor_who_leaves_does_not_hold_up_the_others():
    line, ended = Line(), threading.Event()

    def wait() -> None:
        with pytest.raises(RunStopped, match=r"^Stopped\.$"), line.place("second") as ticket:
            list(line.waits(ticket))
        ended.set()

    with line.place("first"):
        thread = in_thread(wait)
        while line.num_active < 2:
            thread.join(0.01)
        line.stop("second")
        assert ended.wait(10)
        with line.place("third") as third:
            assert next(line.waits(third)) == 1


def test_a_second_run_of_a_visitor_replaces_the_first():
    line = Line()
    with line.place("a") as first, line.place("a") as second:
        assert (first.stopped, second.stopped) == (True, False)


def test_a_full_line_and_a_closed_one():
    line = Line(max_waiting=1)
    with line.place("a") as first, line.place("b") as second:
        with pytest.raises(ValueError, match=r"the line is full \(2 visitors\)"), line.place("c"):
            pass
        line.close()
        assert first.stopped
        assert second.stopped
