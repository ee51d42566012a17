"""The built wheel, outside the checkout, has all it needs: a small quickstart runs from it to the end."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = {
    "rooms": 8,
    "test_rooms": 2,
    "batch_size": 2,
    "max_steps": 4,
    "continue_steps": 2,
    "num_validations": 2,
    "num_inference_steps": 2,
    "num_workers": 1,
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Unpack the wheel: what an installation puts on the path."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        text=True,
    )
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-m", "mvdiff.cli.main", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_wheel_carries_configs_weights_and_pages(installed):
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    for path in (*(ROOT / "configs").rglob("*.yaml"), *(ROOT / "mvdiff").rglob("*.*")):
        if "__pycache__" not in path.parts:
            relative = path.relative_to(ROOT)
            name = relative.as_posix() if relative.parts[0] == "mvdiff" else f"mvdiff/{relative.as_posix()}"
            assert name in names
    assert not any(name.startswith(("tests/", "benchmarks/", "docs/")) for name in names)
    weights = {path: path.stat().st_size for path in installed.glob("mvdiff/assets/**/*.safetensors")}
    panorama = sum(
        size
        for path, size in weights.items()
        if path.relative_to(installed / "mvdiff" / "assets").parts[0] in ("toy-base", "toy-caa", "toy-features")
    )
    assert 0 < panorama <= 25e6
    assert sum(weights.values()) <= 95e6


@pytest.mark.slow
def test_small_quickstart_runs_from_the_wheel(installed, tmp_path):
    options = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
    done = run(installed, "quickstart", "--out", "out", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    methods = results["scores"]["methods"]
    psnr = {name: values["overlap_psnr_mean_of_pairs"]["estimate"] for name, values in methods.items()}
    # Two panoramas and two steps prove no gain; what must hold at any size are the ends of the scale.
    assert psnr["ground truth"] > psnr["autoencoder round trip"] > psnr["base without CAA"]
    assert f"{psnr['with CAA']:.1f}" in page
    for name in methods:
        assert name in page
    for method in ("caa", "base", "foreign", "silent", "truth", "round_trip"):
        assert len(list((tmp_path / "out" / "samples" / method).glob("*/sample.json"))) == 2
    assert "http://" not in page.replace("http://www.w3.org", "")
    curve = results["curves"]["from scratch"]["val/overlap_psnr"]
    assert curve[0] == [2, 4]
    assert (tmp_path / "out" / "train" / "from scratch" / "model" / "mvdiff.json").is_file()
