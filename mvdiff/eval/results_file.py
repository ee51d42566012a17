"""Write the results of an evaluation, and read its numbers for a logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvdiff.files.sharing import shared_name, shared_values
from mvdiff.samples import write_json

_FILES = ("inception_weights", "clip_model", "clip_weights", "toy_features", "truth")
"""Settings that may be paths of files and folders."""


def write_results(results: Mapping[str, Any], path: str | Path) -> Path:
    """Write results as JSON, atomically; create the folder if absent.

    Paths are written as `mvdiff.files.sharing` says: those of the samples relative to the file, so that `mvdiff report`
    finds them; those of networks by their names, whose hashes are recorded.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_json(path, _for_others(results, path.parent))
    except OSError as error:
        raise OSError(error.errno, f"--out must be writable; got {error.strerror or error}, in {path}") from error


def _for_others(results: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return results without absolute paths, for a file in `folder`."""
    settings = results.get("settings") or {}
    networks = {name: shared_name(settings[name]) for name in _FILES if isinstance(settings.get(name), str)}
    return shared_values({**results, "settings": {**settings, **networks}} if networks else dict(results), folder)


def flat_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the computed numbers by name, for a logger; missing ones are omitted."""
    return {name: float(entry["value"]) for name, entry in results["metrics"].items() if "value" in entry}
