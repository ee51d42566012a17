"""Options of every task of `mvdiff generate`."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.cli.opening import ModelOptions
from mvdiff.settings import Controls, PanoramaPictures, Sampling


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Output and randomness."""

    out: Path
    """folder for the sample folders"""
    seed: int = 0
    """random seed; each sample's noise depends on the seed and the sample's id"""
    no_caa: bool = False
    """run only the base, each view independently: no correspondence-aware attention (CAA) or other adapter layers; for
    comparison"""
    overwrite: bool = False
    """regenerate samples that are already complete"""

    def arguments(self, sampling: Sampling) -> dict[str, Any]:
        """Return what the functions that generate into folders share."""
        return {
            "seed": self.seed,
            "sampling": sampling,
            "controls": Controls(caa=not self.no_caa),
            "overwrite": self.overwrite,
        }


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """Prompts (--prompt or --prompts is required)."""

    prompt: list[str] | None = None
    """one prompt for all views; or repeat the option, once per view in order"""
    prompts: Path | None = None
    """file of prompts, instead of --prompt: .txt with one line per panorama, a prompt for all its views; or
    .json/.jsonl with one entry per panorama: a string, a list of strings (one per view), or {"prompt": ..., "id":
    ...}"""
    num_samples: int = 1
    """panoramas per prompt"""
    batch_size: int = 1
    """panoramas generated in parallel"""

    def __post_init__(self) -> None:
        if (self.prompt is None) == (self.prompts is None):
            raise ArgumentTypeError("exactly one of --prompt and --prompts must be given")
        check_prompts(self.prompt)


def check_places(out: Path, model: ModelOptions, reference: Path | None = None) -> None:
    """Check the folders of generated and real samples before any work.

    Raises:
        ValueError: They are the same, or one is a folder of weights.
        OSError: One cannot be written.
    """
    from mvdiff.cli.out_files import check_folder
    from mvdiff.files.writing import check_apart

    names = ("model", "base", "vae", "controlnet")
    weights = {f"--{name}": getattr(model, name) for name in names if hasattr(model, name)}
    check_apart("--out", out, weights, around=False)
    if reference is not None:
        check_apart("--out", out, {"--reference": reference}, around=False)
        check_apart("--reference", reference, weights, around=False)
        check_folder(reference, "--reference")


def write_pictures(out: Path, sample_ids: Iterable[str], pictures: PanoramaPictures) -> None:
    """Write the pictures that were asked for beside those of every sample folder."""
    if pictures == PanoramaPictures():
        return
    from mvdiff.report.panorama_files import write_panorama_pictures
    from mvdiff.samples import read_sample, sample_folder

    for sample_id in sample_ids:
        write_panorama_pictures(read_sample(sample_folder(out, sample_id)), pictures)


def check_prompts(prompts: list[str] | None) -> None:
    """Raise ValueError where one of the prompts is empty."""
    if not all(prompt.strip() for prompt in prompts or ()):
        raise ValueError("--prompt must describe the scene; got an empty text.")
