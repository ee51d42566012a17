"""Damaged files of every kind end in one sentence that names the file, and take no more memory than they promise."""

import os
import random
import shutil
import warnings
from zlib import crc32

import pytest

from tests.files.kinds import KINDS
from tests.files.mutation import Memory, mutant

ROUNDS = int(os.environ.get("MVDIFF_FUZZ_ROUNDS", "12"))
"""Damaged copies of a file of usual speed; more of them by hand."""
MORE_BYTES = 64 << 20
"""Memory that a reader may take beyond twice the size of its file."""
SEED = 20260


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_named(tmp_path, name):
    kind = KINDS[name]
    sound, folder = tmp_path / "sound", tmp_path / "damaged"
    kind.write(sound)
    content = (sound / kind.file).read_bytes()
    numbers = random.Random(crc32(f"{SEED} {name}".encode()))
    shutil.copytree(sound, folder, symlinks=True)
    path = folder / kind.file
    failures = []
    for number in range(max(2, round(ROUNDS * kind.rounds))):
        damaged = content if number == 0 else mutant(content, path.suffix, numbers)
        path.write_bytes(damaged)
        before = Memory.start() if number else 0  # the first reading imports libraries
        failure = _failure(kind, folder, path)
        taken = Memory.taken(before)
        if taken > 2 * len(damaged) + MORE_BYTES:
            failure = f"took {taken >> 20} MiB for a file of {len(damaged)} bytes"
        if failure:
            failures.append(f"{number}: {failure}; {damaged[:300]!r}")
    assert not failures, f"{len(failures)} of {ROUNDS * kind.rounds:g}:\n" + "\n".join(failures[:20])


def _failure(kind, folder, path) -> str | None:
    """Read the folder; return what is wrong with the way in which it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(folder)
    except (ValueError, OSError) as error:
        if not any(text in str(error) for text in (path.name, str(folder))):
            return f"{type(error).__name__} without the file's name: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
