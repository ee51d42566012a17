"""The commits and machines that made results, and warnings where there are several or one is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mvdiff.eval.provenance import code_name
from mvdiff.recipes.runner import machine


class Maker(NamedTuple):
    """The code and the machine that made a run, or a part of it.

    Attributes:
        commit: Commit of mvdiff, or what else names its code (`code_name`); None: not recorded.
        machine: Processor, cores and Python; None: not recorded.
    """

    commit: str | None = None
    machine: str | None = None

    def __str__(self) -> str:
        at = "a commit that was not recorded" if self.commit is None else self.commit
        return f"{at} on {'a machine that was not recorded' if self.machine is None else self.machine}"

    @property
    def is_known(self) -> bool:
        """True if the commit holds the code: one is recorded, and no files differed from it."""
        return self.commit is not None and not self.commit.endswith("-dirty")


def this_process() -> Maker:
    """Return the maker that this process is."""
    return Maker(code_name(), machine())


def scorer_of(results: Mapping[str, Any]) -> Maker:
    """Return what scored a row, as its results tell; they name no machine."""
    run = results.get("run")
    commit = run.get("commit") if isinstance(run, Mapping) else None
    return Maker(commit if isinstance(commit, str) else None)


def told_makers(makers: Mapping[Maker, Iterable[str]]) -> str:
    """Return makers with the names of what they made as one line."""
    return "; ".join(f"{maker}: {', '.join(names)}" for maker, names in makers.items())


def code_warnings(makers: Mapping[Maker, Iterable[str]]) -> list[str]:
    """Return a sentence if results were made at more than one commit, and one if their code is not that of a commit."""
    lines, commits = [], {maker.commit for maker in makers}
    if len(commits) > 1:
        lines.append(
            f"Warning: these results were made at {len(commits)} commits, so a difference between them may come from "
            f"the code. {told_makers(makers)}."
        )
    unknown = {maker: names for maker, names in makers.items() if not maker.is_known}
    if unknown:
        lines.append(
            "Warning: the code that made these results is not known: no commit was recorded, or files differed from it "
            f"(-dirty). {told_makers(unknown)}."
        )
    return lines


def machine_warnings(makers: Mapping[Maker, Iterable[str]]) -> list[str]:
    """Return a sentence if results were made on more than one machine."""
    machines = {maker.machine for maker in makers}
    if len(machines) < 2:
        return []
    return [
        f"Warning: these results were made on {len(machines)} machines, so their times and memory do not compare. "
        f"{told_makers(makers)}."
    ]
