"""The Dockerfile, which is not built here: what it copies is there and makes the package, what it runs exists."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from mvdiff.cli.main import NAMES

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
STEPS = re.findall(r"^([A-Z]+) (.+)$", TEXT, flags=re.MULTILINE)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def steps(name: str) -> list[str]:
    return [rest for step, rest in STEPS if step == name]


def copied() -> list[str]:
    return [source for rest in steps("COPY") for source in rest.split()[:-1]]


def test_the_base_image_is_pinned_and_as_new_as_the_package_needs():
    (base,) = steps("FROM")
    version = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", base)
    least = re.fullmatch(r">=(\d+)\.(\d+)", PROJECT["requires-python"])
    assert tuple(map(int, version.groups())) >= tuple(map(int, least.groups()))


def test_what_is_copied_is_there_and_not_ignored():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == set(copied())
    assert "*" in lines
    assert not [name for name in copied() if not (ROOT / name).exists()]
    left_out = [line for line in lines if line[:1] not in ("", "#", "!", "*")]
    assert not any(fnmatch(name, pattern) for name in copied() for pattern in left_out)


def test_what_is_copied_builds_the_package(tmp_path):
    source = tmp_path / "source"
    for name in copied():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, source / name)
    build = [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", str(tmp_path)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {"mvdiff/configs/pano.yaml", "mvdiff/configs/slurm/fit.sbatch", "mvdiff/cli/main.py"} <= set(names)


@pytest.mark.skipif(sys.platform != "linux", reason="commands of Debian")
def test_what_runs_exists():
    commands = [shlex.split(part) for rest in steps("RUN") for part in rest.split("&&")]
    assert [
        words[0]
        for words in commands
        if words[0] != "pip" and shutil.which(words[0], path="/usr/sbin:/usr/bin") is None
    ] == []
    (pip,) = [words for words in commands if words[0] == "pip"]
    extras = re.fullmatch(r"\.\[(.*)\]", pip[-1])[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    assert steps("ENTRYPOINT") == ['["mvdiff"]']
    assert "mvdiff" in PROJECT["scripts"]
    shown = re.findall(r"^# docker run .* mvdiff (\w+)", TEXT, flags=re.MULTILINE)
    assert shown
    assert set(shown) <= set(NAMES)


def test_the_user_is_not_root_and_owns_the_cache():
    made = " ".join(steps("RUN"))
    (user,) = steps("USER")
    assert steps("ARG") == ["UID=1000"]
    assert f'--uid "$UID" {user} ' in made
    (volume,) = steps("VOLUME")
    assert re.search(rf"--owner {user} .*{volume}", made)
    assert f"HF_HOME={volume}" in steps("ENV")
    assert [name for name, _ in STEPS].index("USER") > [name for name, _ in STEPS].index("RUN")
