"""Score small methods and write their results files, for tests of comparisons."""

from collections.abc import Mapping
from pathlib import Path

from mvdiff.cli.main import main
from tests.eval.worlds import write_judge, write_samples

METRICS = ("overlap_psnr", "sharpness", "toy_fid", "tests.eval.gathering.ToyKID", "toy_inception_score")


def score_methods(tmp_path: Path, noises: Mapping[str, float], num: int = 8, cache: bool = True) -> dict[str, Path]:
    """Write `<method>.json` for methods that differ in noise; the reference has none and 6 samples."""
    judge = tmp_path / "judge"
    if not judge.exists():
        write_judge(judge)
        write_samples(tmp_path / "real", 6)
    return {name: score(tmp_path, write_samples(tmp_path / name, num, noise), cache) for name, noise in noises.items()}


def score(tmp_path: Path, root: Path, cache: bool = True, *more: str, out: str = "") -> Path:
    """Score a folder of samples."""
    path = tmp_path / f"{out or root.name}.json"
    words = ["evaluate", "--generated", str(root), "--reference", str(tmp_path / "real"), "--metrics", *METRICS]
    words += ["--overlap_size", "0", "--num_splits", "2", "--num_resamples", "100", "--num_workers", "0"]
    words += ["--toy_features", str(tmp_path / "judge"), "--out", str(path), *more]
    assert main([*words, *(["--cache", str(tmp_path / "cache")] if cache else [])]) == 0
    return path
