"""Sources of a page: folders of samples, folders that `mvdiff test` wrote, and results of `mvdiff evaluate`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvdiff.eval.table import check_results
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import Sample, read_sample, scan_samples

RESULTS_NAME = "results.json"
GENERATED_NAME, REFERENCE_NAME = "generated", "reference"
TRUTH, GIVEN_DEPTH = "ground truth", "depth, as given"


@dataclass
class Method:
    """The samples of one method.

    Attributes:
        name: Name shown beside its pictures.
        root: Folder of its samples.
        samples: Samples that can be opened, by id, in the order of their folders.
        problems: Sentences with folder and reason of what cannot be opened.
        natural: Show the ground truth that upstream's layout has beside generated views.
    """

    name: str
    root: Path
    samples: dict[str, Sample] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    natural: bool = False


@dataclass(frozen=True)
class Source:
    """One DIR of the command line.

    Attributes:
        path: DIR itself.
        method: Its samples.
        truth: Ground truth beside them, or None.
        results: Results of `mvdiff evaluate` or `mvdiff test` for them, or None.
    """

    path: Path
    method: Method
    truth: Method | None = None
    results: dict[str, Any] | None = None


def open_sources(paths: Sequence[Path], names: Sequence[str] | None = None, rig: Rig | None = None) -> list[Source]:
    """Open sources that a page shows side by side.

    Args:
        paths: A root of samples, one sample, a folder of `mvdiff test` (`generated`, `reference`, `results.json`), or
            the results file of `mvdiff evaluate`, which names the folder of its samples.
        names: Names of the methods; default: names of the folders.
        rig: Cameras of samples in upstream's layout, see `mvdiff.samples.read_sample`.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: Names do not fit the paths, a file is no results file, or a folder holds a sample id twice.
    """
    if names is None:
        names = [_own_name(path) for path in paths]
        names = names if len(set(names)) == len(names) else [str(path) for path in paths]
    if len(names) != len(paths):
        raise ValueError(f"--names must be one for each DIR ({len(paths)}); got {len(names)}.")
    if len({*names, TRUTH, GIVEN_DEPTH}) < len(names) + 2:
        raise ValueError(
            f"--names must differ from each other, from {TRUTH!r} and from {GIVEN_DEPTH!r}; got {', '.join(names)}."
        )
    return [_open(path, name, rig) for path, name in zip(paths, names, strict=True)]


def _own_name(path: Path) -> str:
    resolved = path.resolve()
    return resolved.parent.name if path.is_file() else resolved.name


def _open(path: Path, name: str, rig: Rig | None) -> Source:
    if not path.exists():
        raise FileNotFoundError(f"DIR must exist; got {path}.")
    results = None
    if path.is_file():
        results = _read_results(path)
        if results is None:
            raise ValueError(f"DIR must be a folder, or results of `mvdiff evaluate`; got another file, {path}.")
        root = _scored_folder(results.get("generated"), path)
        reference = _scored_folder(results.get("reference"), path)
    else:
        inside = path / GENERATED_NAME
        root, reference = (inside, path / REFERENCE_NAME) if inside.is_dir() else (path, None)
        if (path / RESULTS_NAME).is_file():
            results = _read_results(path / RESULTS_NAME)
    method = _read_method(root, name, rig)
    if root is None:
        method.problems.append(f"samples of {name}: scored at {_named_path(results['generated'])}, which is not there")
    truth = None
    if reference is not None and reference.is_dir() and (root is None or reference.resolve() != root.resolve()):
        truth = _read_method(reference, TRUTH, rig)
    elif any(sample.natural_paths for sample in method.samples.values()):
        samples = {key: sample for key, sample in method.samples.items() if sample.natural_paths}
        truth = Method(TRUTH, method.root, samples, natural=True)
    return Source(path, method, truth, results)


def _read_results(path: Path) -> dict[str, Any] | None:
    """Read results of an evaluation; return None for other JSON."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"results must be JSON; got {error}, in {path}.") from error
    if not (isinstance(values, dict) and isinstance(values.get("metrics"), dict) and "generated" in values):
        return None
    check_results(values, str(path))
    return values


def _named_path(described: Any) -> str | None:
    return described.get("path") if isinstance(described, dict) else None


def _scored_folder(described: Any, results: Path) -> Path | None:
    """Return the folder of scored samples, as named or relative to the results file; None if it is not there."""
    named = _named_path(described)
    candidates = [] if named is None else [Path(named), results.parent / named, results.parent / Path(named).name]
    return next((path for path in candidates if path.is_dir()), None)


def _read_method(root: Path | None, name: str, rig: Rig | None) -> Method:
    if root is None:
        return Method(name, Path())
    method = Method(name, root)
    complete, incomplete = scan_samples(root)
    method.problems += [f"{folder}: incomplete, its sample.json is missing" for folder in incomplete]
    for folder in complete:
        try:
            sample = read_sample(folder, rig)
        except (ValueError, OSError) as error:
            method.problems.append(str(error))
            continue
        first = method.samples.setdefault(sample.record.sample_id, sample)
        if first is not sample:
            raise ValueError(
                f"DIR must hold each sample id once; got {sample.record.sample_id!r} in {first.folder} and in "
                f"{folder}. {_advice(first.folder, folder)}"
            )
    return method


def _advice(first: Path, second: Path) -> str:
    """Tell how to resolve two folders with one sample id."""
    roots = first.parent, second.parent
    if any(one.is_relative_to(other) for one, other in (roots, roots[::-1])):  # one root, or one within the other
        return "Remove one of them, or give it another sample_id in its sample.json."
    return f"Give the folders of the methods side by side: mvdiff report {roots[0]} {roots[1]}."
