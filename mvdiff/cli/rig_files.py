"""Rigs in files, for the commands that read sample folders without cameras."""

from pathlib import Path


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
