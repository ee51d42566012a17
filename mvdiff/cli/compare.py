"""`mvdiff compare`: paired differences between the results of methods."""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvdiff.cli.command import UNFINISHED, Command, done, plural, typed
from mvdiff.eval.settings import FEWEST_RESAMPLES


@dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """Results and what to make of them."""

    file: tuple[Path, ...] = field(kw_only=False)
    """results of mvdiff evaluate, one file per method; the first is the base of comparison"""
    base: str | None = None
    """name of the method that the others are compared with (default: the first)"""
    names: tuple[str, ...] | None = None
    """names of the methods (default: the names of the files or, where those are equal, of their folders)"""
    cache: Path | None = None
    """folder given to mvdiff evaluate as --cache, with the features of all images; FID and KID need it"""
    allow_different: bool = False
    """compare what results of different protocols, references, samples or networks share, and say what differs"""
    html: Path | None = None
    """page that receives the tables"""
    out: Path | None = None
    """JSON file that receives the differences"""
    num_resamples: int = 2000
    """bootstrap resamples, at least 100, with 30 samples or more (8 to 29: Student's t; fewer: no interval)"""
    fid_resamples: int = 200
    """bootstrap resamples of FID, at least 100, which take seconds each with Inception"""
    seed: int = 0
    """random seed of the bootstrap"""

    def __post_init__(self) -> None:
        if len(self.file) < 2:
            raise ArgumentTypeError(f"FILE must be two or more results; got {len(self.file)}")
        twice = [str(one) for at, one in enumerate(self.file) if one.resolve() in {o.resolve() for o in self.file[:at]}]
        if twice:
            raise ArgumentTypeError(f"FILE must be different files; got {twice[0]} twice")
        if self.names is not None and len(self.names) != len(self.file):
            raise ArgumentTypeError(f"--names must be one for each FILE ({len(self.file)}); got {len(self.names)}")
        if self.names is not None and len(set(self.names)) < len(self.names):
            raise ArgumentTypeError(f"--names must differ; got {', '.join(self.names)}")
        for name, least in (("num_resamples", FEWEST_RESAMPLES), ("fid_resamples", FEWEST_RESAMPLES), ("seed", 0)):
            if getattr(self, name) < least:
                raise ArgumentTypeError(f"--{name} must be at least {least}; got {getattr(self, name)}")


def run(options: CompareOptions) -> int:
    """Print the differences, write page and JSON; return the exit status, 3 if something could not be compared."""
    from mvdiff.eval.comparability import differing, made_differently, read_results
    from mvdiff.eval.comparison import compare
    from mvdiff.eval.feature_cache import FeatureCache
    from mvdiff.report import write_page
    from mvdiff.report.differences import difference_page, not_compared
    from mvdiff.samples import write_json

    _check_places(options)
    names = list(options.names or _names(options.file))
    base = names[0] if options.base is None else options.base
    if base not in names:
        raise ArgumentTypeError(f"--base must be one of {', '.join(names)}; got {base}")
    results = {name: read_results(path) for name, path in zip(names, options.file, strict=True)}
    others = [name for name in names if name != base]
    differs = list(dict.fromkeys(line for one in others for line in differing(*_pair(results, base, one), (base, one))))
    if differs and not options.allow_different:
        print(
            f"mvdiff compare: error: the results differ in more than the method, in {plural(len(differs), 'point')}:",
            file=sys.stderr,
        )
        print("\n".join(differs), file=sys.stderr)
        print("--allow_different compares what they share.", file=sys.stderr)
        return UNFINISHED
    how = (options.num_resamples, options.fid_resamples, options.seed)
    cache = None if options.cache is None else FeatureCache(options.cache)
    found = {one: compare(*_pair(results, base, one), (base, one), cache, *how) for one in others}
    _print(base, found)
    warning = made_differently(results)
    deviations = [f"{name}: {line}" for name in names for line in results[name].get("deviations", ())]
    for line in [line for one in others for line in not_compared(one, found[one])]:
        print(line)
    if warning is not None:
        print(warning)
    for line in [*(f"differs: {line}" for line in differs), *(f"deviation of {line}" for line in deviations)]:
        print(line)
    facts = _facts(options, names, base, results[base])
    if options.html is not None:
        page = difference_page(f"Compared with {base}", base, found, facts, [*differs, *deviations], warning)
        write_page(options.html, page)
    if options.out is not None:
        entries = {one: {name: value.to_json() for name, value in found[one].items()} for one in others}
        told = {"differs": differs, "warning": warning, "differences": entries}
        write_json(options.out, {"schema_version": 1, **facts, **told})
    values = [one for differences in found.values() for one in differences.values()]
    count = sum(one.interval is not None for one in values)
    _say_what_was_done(options, f"{plural(count, 'number')} compared with {base}")
    return UNFINISHED if not count or any(one.interval is None and not one.is_expected for one in values) else 0


def _check_places(options: CompareOptions) -> None:
    from mvdiff.cli.out_files import check_no_sample_file, check_out
    from mvdiff.files.writing import check_apart

    inputs = {"FILE": list(options.file)}
    if options.html is not None:
        check_out(options.html, ".html", "--html")
        check_apart("--html", options.html, inputs | {"--out": options.out})
    if options.out is not None:
        check_out(options.out, ".json")
        check_apart("--out", options.out, inputs)
        check_no_sample_file(options.out)
    if options.cache is not None and not options.cache.is_dir():
        raise FileNotFoundError(f"--cache must be a folder that mvdiff evaluate --cache wrote; got {options.cache}.")


def _names(files: tuple[Path, ...]) -> list[str]:
    """Return the names of files or, where two are equal, of their folders; else their paths."""
    from mvdiff.files.paths import own_name

    for names in ([path.stem for path in files], [own_name(path.parent) for path in files]):
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in files]


def _pair(results: Mapping[str, Any], base: str, other: str) -> tuple[Any, Any]:
    return results[base], results[other]


def _print(base: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    from textwrap import fill

    from mvdiff.eval.text_table import terminal_width, text_table
    from mvdiff.report.differences import difference_table

    width = terminal_width()
    for method, differences in found.items():
        table = difference_table(base, method, differences)
        if table is not None:
            rows = [[str(cell) for cell in row] for row in table.rows]
            print(f"{table.title}\n\n{text_table(list(table.columns), rows, width)}\n\n{fill(table.note, width)}\n")


def _facts(options: CompareOptions, names: list[str], base: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was compared, with files by their names alone."""
    from mvdiff import __version__

    protocol, reference = results.get("protocol") or {}, results.get("reference") or {}
    return {
        "base": base,
        "files": {name: path.name for name, path in zip(names, options.file, strict=True)},
        "protocol": {key: protocol.get(key) for key in ("id", "hash")},
        "reference": reference.get("content_hash"),
        "num_resamples": options.num_resamples,
        "fid_resamples": options.fid_resamples,
        "seed": options.seed,
        "mvdiff": __version__,
    }


def _say_what_was_done(options: CompareOptions, summary: str) -> None:
    written = [str(path) for path in (options.html, options.out) if path is not None]
    if options.html is not None:
        done(f"{', '.join(written)}: {summary}", typed("xdg-open", options.html) + " (or open it in any browser)")
    elif written:
        done(f"{written[0]}: {summary}", typed("mvdiff", "report", *options.file))
    else:
        done(f"{summary}, nothing written", typed("mvdiff", "compare", *options.file, "--html", "compare.html"))


COMMANDS = (
    Command(
        name="compare",
        summary="paired differences between methods, from their results files",
        description="Compare results of mvdiff evaluate by paired differences over equal samples, with intervals. "
        "Prints a table for each method; --html writes them as a page, --out as JSON. Every number with values per "
        "sample is compared, and with --cache also FID and KID. Results of different protocols, references, samples or "
        "networks are refused. Exits with 3 if they are, or if a number could not be compared.",
        example="mvdiff compare base.json ours.json --cache features --html compare.html",
        settings=(CompareOptions,),
        run=run,
    ),
)
