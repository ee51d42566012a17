"""Look through files for what they must not tell."""

from pathlib import Path


def telling(folder: Path, *secrets: object) -> list[str]:
    """Return "file: secret" for every file below a folder, or the file itself, whose bytes hold one of the secrets."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()] if folder.is_dir() else [folder]
    assert files, f"{folder} must have files to look through"
    return [
        f"{path.relative_to(folder.parent)}: {secret}"
        for path in files
        for secret in map(str, secrets)
        if secret.encode() in path.read_bytes()
    ]
