"""What results record of prompts and of the commit."""

import hashlib
import subprocess

import numpy as np
import pytest
import scipy

import mvdiff
from mvdiff.eval.provenance import are_versions_of_now, code_name, library_versions, prompts_hash


def test_the_hash_of_prompts_depends_on_ids_views_and_words():
    text = "a\t0\tone\na\t1\ttwo\nb\t0\tone\n"
    prompts = {"b": ["one"], "a": ["one", "two"]}
    assert prompts_hash(prompts) == hashlib.sha256(text.encode()).hexdigest()
    others = (
        {"b": ["one"], "a": ["two", "one"]},
        {"c": ["one"], "a": ["one", "two"]},
        {"b": ["One"], "a": ["one", "two"]},
    )
    assert len({prompts_hash(one) for one in (prompts, *others)}) == 4


def test_versions_name_every_library_that_computes_numbers():
    versions = library_versions()
    assert {
        "numpy",
        "scipy",
        "pillow",
        "torchmetrics",
        "efficientnet-lite-pytorch",
        "torch-fidelity",
    } <= versions.keys()
    assert versions["numpy"] == np.__version__
    assert versions["scipy"] == scipy.__version__


def test_versions_of_earlier_results_are_compared_as_far_as_they_go():
    now = library_versions()
    assert are_versions_of_now(now)
    assert are_versions_of_now({name: now[name] for name in ("python", "mvdiff", "torch")})
    assert not are_versions_of_now(now | {"torch": "1.0"})
    assert not are_versions_of_now({"python": now["python"], "a library of old": "1.0"})
    assert not any(map(are_versions_of_now, (None, {}, "1.0")))


@pytest.fixture
def git(tmp_path):
    def run(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    return run


def test_the_name_of_code_is_its_commit_or_outside_of_a_checkout_its_version(tmp_path, git):
    package = tmp_path / "package"
    package.mkdir()
    (package / "code.py").write_text("1\n")
    installed = f"mvdiff {mvdiff.__version__}, no git checkout"
    assert code_name.__wrapped__(package) == installed
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    assert code_name.__wrapped__(package) == git("rev-parse", "HEAD").strip()
    (package / "code.py").write_text("2\n")
    assert code_name.__wrapped__(package) == git("rev-parse", "HEAD").strip() + "-dirty"
    inner = package / "venv" / "installed"  # an installed package in another project's repository
    inner.mkdir(parents=True)
    assert code_name.__wrapped__(inner) == installed


def test_a_checkout_whose_commit_git_does_not_tell_is_no_installed_package(tmp_path, git, monkeypatch):
    git("init", "-q")
    monkeypatch.setenv("PATH", str(tmp_path))  # no git there
    assert code_name.__wrapped__(tmp_path / "package") is None
