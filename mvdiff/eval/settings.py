"""Settings of a scoring, free of torch; the string under a field is its help on the command line."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mvdiff.files.paths import expanded_values

PAPER_SIZE = 1024
FEWEST_RESAMPLES = 100
"""Smallest number of bootstrap resamples: the ends of an interval of fewer are chance."""
PairRule = Literal["adjacent", "overlapping"] | Sequence[tuple[int, int]]
"""Rule to choose pairs of views by, or the pairs; "adjacent" of views with depth: consecutive ones."""
FREE = ("inception_weights", "toy_features", "truth", "batch_size", "device")
"""Settings that no protocol holds: places of files, and how the work is done."""


class SettingError(ValueError, ArgumentTypeError):
    """Raised for a wrong setting, before any work; as an `ArgumentTypeError` it ends the command with status 2."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Protocol of the metrics; defaults follow the paper (section 5).

    Raises:
        SettingError: A value is out of range.
    """

    inception_weights: str | None = None
    """weight file of FID's Inception network, weights-inception-2015-12-05-6726825d.pth (default: torch's cache, or a
    download)"""
    inception_hash: str = "6726825d"
    """first hex digits of the SHA-256 hash that the file of --inception_weights must have"""
    clip_model: str = "ViT-B-16"
    """open_clip architecture, or a folder with a transformers CLIPModel"""
    clip_weights: str | None = None
    """weight file or tag for open_clip (default: openai)"""
    toy_features: str | None = None
    """folder of the network that toy_fid, toy_inception_score and caption_agreement use (default: the packaged one)"""
    truth: str | None = None
    """JSON file of true labels for caption_agreement, one object (or null) per view: {sample id: [{"object": ...,
    "colour": ..., "walls": ...}, ...]} (default: the labels stored with the samples)"""
    judge_heads: tuple[str, ...] | None = None
    """kinds of labels that caption_agreement checks; the packaged network has object, colour and walls (default:
    all)"""
    overlap_size: int = PAPER_SIZE
    """height in pixels to which views are resized for overlap PSNR; 0: no resizing; views with depth are never
    resized"""
    overlap_pairs: PairRule = "adjacent"
    """pairs of views for the overlap PSNR: adjacent (with depth: consecutive views), overlapping, or a list of
    pairs such as [[0, 1], [1, 2]]"""
    overlap_depth_error: float = 0.5
    """for overlap PSNR of views with depth: ignore pixels whose depths disagree by more than this, in metres"""
    num_splits: int = 10
    """splits of the Inception Score"""
    batch_size: int = 32
    """images per forward pass"""
    device: str = "auto"
    """auto (the GPU if there is one), cpu or cuda"""
    seed: int = 0
    """random seed of the Inception Score's shuffle and of bootstrap resampling"""
    num_resamples: int = 1000
    """bootstrap resamples, at least 100, for confidence intervals of per-sample means and KID, with 30 samples or more
    (8 to 29: Student's t; fewer: no interval)"""
    fid_resamples: int = 0
    """bootstrap resamples, at least 100, for the intervals of fid, toy_fid, realnet_distance and erp_* with 30 samples
    or more; 0: no interval there. A resample of 74 panoramas takes 4 ms with the toy network and 0.04 s with others
    (docs/evaluate.md)"""

    def __post_init__(self) -> None:
        for name in ("inception_weights", "clip_model", "clip_weights", "toy_features", "truth"):
            object.__setattr__(self, name, expanded_values(getattr(self, name)))
        for name in ("num_splits", "batch_size"):
            _check_range(name, getattr(self, name), 1)
        for name in ("overlap_size", "overlap_depth_error", "seed"):
            _check_range(name, getattr(self, name), 0)
        check_resamples("num_resamples", self.num_resamples)
        check_resamples("fid_resamples", self.fid_resamples, or_none=True)
        if self.judge_heads is not None and not self.judge_heads:
            raise SettingError("judge_heads must name at least one head; got none.")
        pairs = self.overlap_pairs
        is_rule = pairs in ("adjacent", "overlapping")
        if not is_rule and (isinstance(pairs, str) or not pairs or not all(map(_is_pair, pairs))):
            raise SettingError(
                "overlap_pairs must be adjacent, overlapping, or a list of pairs of two different views from 0 on; got "
                f"{pairs!r}."
            )


def check_resamples(name: str, value: int, or_none: bool = False) -> None:
    """Raise SettingError for too few resamples; with `or_none`, 0 passes, which asks for no interval."""
    if value < FEWEST_RESAMPLES and not (or_none and value == 0):
        none = ", or 0 for no interval" * or_none
        raise SettingError(f"{name} must be at least {FEWEST_RESAMPLES}{none}; got {value}.")


def _is_pair(pair: Sequence[int]) -> bool:
    return len(pair) == 2 and pair[0] != pair[1] and min(pair) >= 0


def _check_range(name: str, value: float, least: int) -> None:
    if not (math.isfinite(value) and value >= least):
        raise SettingError(f"{name} must be at least {least}; got {value}.")
