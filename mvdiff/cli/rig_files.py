"""Rigs in files, for the commands that read sample folders without cameras."""

from pathlib import Path
from typing import Any


def read_rig(path: Path | None):
    """Read a rig from a JSON file (as `rig` in sample.json), or None.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no rig.
    """
    if path is None:
        return None
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(
            f'--rig must be a JSON file with views, height, width ("rig" of a sample.json); got {path}, which {found}.'
        )
    from mvdiff.files.text import read_json_object
    from mvdiff.geometry.cameras import Rig

    try:
        return Rig.from_dict(read_json_object(path))
    except (OSError, ValueError) as error:
        raise ValueError(f"--rig must be a JSON file with views, height, width; got {error}, in {path}.") from error


def read_cameras(path: Path | None) -> tuple[Any, dict[str, Any] | None]:
    """Read a rig, or single cameras (as `cameras` in sample.json), from a JSON file; return (rig, cameras) or Nones.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds neither.
    """
    if path is None or not path.is_file():
        return read_rig(path), None
    from mvdiff.files.text import read_json_object
    from mvdiff.samples.record_checks import check_record

    values = read_json_object(path)
    views = values.get("views")
    if not (isinstance(views, list) and views and isinstance(views[0], dict)):
        return read_rig(path), None
    try:
        check_record({"sample_id": "0", "prompts": [""] * len(views), "cameras": values}, str(path))
    except ValueError as error:
        raise ValueError(f"--rig: {str(error).removesuffix(' Correct it, or generate the sample again.')}") from error
    return None, values
