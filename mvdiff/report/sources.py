"""Open the sources of a page: folders of samples, folders of `mvdiff test`, and results of `mvdiff evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mvdiff.eval.table import check_results
from mvdiff.files.paths import expanded, own_name
from mvdiff.files.sharing import distinct_names
from mvdiff.files.text import read_json
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import Sample, read_sample, scan_samples

RESULTS_NAME = "results.json"
GENERATED_NAME, REFERENCE_NAME = "generated", "reference"
TRUTH, GIVEN_DEPTH = "ground truth", "depth, as given"


@dataclass
class Method:
    """The samples of one method.

    Attributes:
        name: Name on the page.
        root: Folder of the samples.
        samples: Readable samples by id, in the order of their folders.
        problems: One sentence, with folder and reason, per unreadable sample.
        natural: Show the ground truth that upstream's layout stores next to the generated views.
    """

    name: str
    root: Path
    samples: dict[str, Sample] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    natural: bool = False


@dataclass(frozen=True)
class Source:
    """One DIR argument of the command line.

    Attributes:
        path: Path of DIR.
        method: Samples in DIR.
        truth: Ground truth of the samples, or None.
        results: Results of `mvdiff evaluate` or `mvdiff test` for the samples, or None.
    """

    path: Path
    method: Method
    truth: Method | None = None
    results: dict[str, Any] | None = None


def open_sources(paths: Sequence[Path], names: Sequence[str] | None = None, rig: Rig | None = None) -> list[Source]:
    """Open sources to show side by side.

    Args:
        paths: Each a root of samples, a single sample, a folder of `mvdiff test` (`generated`, `reference`,
            `results.json`), or a results file of `mvdiff evaluate`, which has the path of its samples.
        names: Names of the methods, one per path; default: the names of the folders.
        rig: Cameras of samples in upstream's layout, see `mvdiff.samples.read_sample`.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: The names are not unique or not one per path, a file is not a results file, or a sample id occurs
            twice in a folder.
    """
    if names is None:
        names = [_own_name(path) for path in paths]
        names = names if len(set(names)) == len(names) else distinct_names(paths)
    if len(names) != len(paths):
        raise ValueError(f"--names must be one for each DIR ({len(paths)}); got {len(names)}.")
    if len({*names, TRUTH, GIVEN_DEPTH}) < len(names) + 2:
        raise ValueError(
            f"--names must differ from each other, from {TRUTH!r} and from {GIVEN_DEPTH!r}; got {', '.join(names)}."
        )
    return [_open(path, name, rig) for path, name in zip(paths, names, strict=True)]


def _own_name(path: Path) -> str:
    return own_name(path.parent if path.is_file() else path)


def _open(path: Path, name: str, rig: Rig | None) -> Source:
    if not path.exists():
        raise FileNotFoundError(f"DIR must exist; got {path}.")
    results = None
    if path.is_file():
        results = _read_results(path)
        if results is None:
            raise ValueError(f"DIR must be a folder or a results file of `mvdiff evaluate`; got another file, {path}.")
        root = _scored_folder(results.get("generated"), path)
        reference = _scored_folder(results.get("reference"), path)
    else:
        inside = path / GENERATED_NAME
        root, reference = (inside, path / REFERENCE_NAME) if inside.is_dir() else (path, None)
        if (path / RESULTS_NAME).is_file():
            results = _read_results(path / RESULTS_NAME)
    method = _read_method(root, name, rig)
    if root is None:
        method.problems.append(f"samples of {name}: {_named_path(results['generated'])} does not exist")
    truth = None
    if reference is not None and reference.is_dir() and (root is None or reference.resolve() != root.resolve()):
        truth = _read_method(reference, TRUTH, rig)
    elif any(sample.natural_paths for sample in method.samples.values()):
        samples = {key: sample for key, sample in method.samples.items() if sample.natural_paths}
        truth = Method(TRUTH, method.root, samples, natural=True)
    return Source(path, method, truth, results)


def _read_results(path: Path) -> dict[str, Any] | None:
    """Read results of an evaluation; return None for other JSON."""
    values = read_json(path)
    if not (isinstance(values, dict) and isinstance(values.get("metrics"), dict) and "generated" in values):
        return None
    check_results(values, str(path))
    return values


def _named_path(described: Any) -> str | None:
    return described.get("path") if isinstance(described, dict) else None


def _scored_folder(described: Any, results: Path) -> Path | None:
    """Return the folder of scored samples, absolute or relative to the results file; None if it does not exist."""
    named = _named_path(described)
    candidates = [] if named is None else [results.parent / named, expanded(named), results.parent / Path(named).name]
    try:
        return next((path for path in candidates if path.is_dir()), None)
    except OSError as error:  # a name that no file system takes
        raise ValueError(f"generated and reference must name folders; got {named[:80]!r}, in {results}.") from error


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
        method.samples[sample.record.sample_id] = sample
    return method
