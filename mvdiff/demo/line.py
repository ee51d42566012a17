"""The line of visitors: one run at a time, each of which can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class RunStopped(Exception):
    """Raised inside a run that was stopped."""


class Ticket:
    """A visitor's place in the line.

    Args:
        visitor: Session of the visitor.

    Attributes:
        done: Finished steps.
        total: Total steps; 0 before the first one.
        stopped: The run ends at its next step.
        replaced: The same visitor has asked again, so that nobody waits for this run.
    """

    def __init__(self, visitor: str) -> None:
        self.visitor = visitor
        self.done = self.total = 0
        self.stopped = self.replaced = False

    def step(self, done: int, total: int) -> None:
        """Note the finished steps.

        Raises:
            RunStopped: The run was stopped.
        """
        self.done, self.total = done, total
        self.check()

    def check(self) -> None:
        """Raise `RunStopped` if the run was stopped."""
        if self.stopped:
            raise RunStopped(f"Stopped after {self.done} of {self.total} steps." if self.total else "Stopped.")


class Line:
    """Visitors in the order in which they came; the first one runs.

    A line of our own, since Gradio's queue can neither stop a run nor skip a visitor who has left.

    Args:
        max_waiting: Largest number of visitors who wait.
    """

    def __init__(self, max_waiting: int = 10) -> None:
        self.max_waiting = max_waiting
        self._tickets: list[Ticket] = []
        self._changed = threading.Condition()

    @property
    def num_active(self) -> int:
        """Number of runs, waiting ones included, that were not stopped."""
        with self._changed:
            return sum(not ticket.stopped for ticket in self._tickets)

    @contextmanager
    def place(self, visitor: str) -> Iterator[Ticket]:
        """Join the line until the end of the block. A visitor's earlier run is stopped.

        Raises:
            ValueError: Too many visitors wait already.
        """
        with self._changed:
            others = sum(not ticket.stopped and ticket.visitor != visitor for ticket in self._tickets)
            if others > self.max_waiting:
                raise ValueError(f"the line is full ({others} visitors). Try again in a few minutes.")
            for earlier in self._stop(lambda ticket: ticket.visitor == visitor):
                earlier.replaced = True
            ticket = Ticket(visitor)
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    def waits(self, ticket: Ticket) -> Iterator[int]:
        """Wait for a ticket's turn; yield the number of other visitors before it, each time that it has changed.

        Raises:
            RunStopped: The run was stopped.
        """
        told = 0
        while True:
            with self._changed:
                while not ticket.stopped and (before := self._before(ticket)) and self._num_others(ticket) == told:
                    self._changed.wait()
                told = self._num_others(ticket)
            ticket.check()
            if not before:
                return
            yield told

    def stop(self, visitor: str) -> bool:
        """Stop a visitor's run at its next step; return False if there is none."""
        with self._changed:
            return bool(self._stop(lambda ticket: ticket.visitor == visitor))

    def close(self) -> None:
        """Stop every run."""
        with self._changed:
            self._stop(lambda ticket: True)

    def _before(self, ticket: Ticket) -> list[Ticket]:
        return self._tickets[: self._tickets.index(ticket)]

    def _num_others(self, ticket: Ticket) -> int:
        return sum(other.visitor != ticket.visitor for other in self._before(ticket))

    def _stop(self, concerns) -> list[Ticket]:
        stopped = [ticket for ticket in self._tickets if concerns(ticket)]
        for ticket in stopped:
            ticket.stopped = True
        self._changed.notify_all()
        return stopped
