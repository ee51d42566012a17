"""Outpainting metrics: fidelity of the known pixels, and consistency of the other views with them (own derivation).

`known_psnr` compares the known pixels with the model's own output at these pixels, before they are pasted back.
`given_overlap_errors` warps the known pixels of a view into overlapping views and compares them with the generated
pixels.

Axes: V views, H x W image.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mvdiff.eval.metric import Column, MissingMetricError, PerSampleMetric, Result, check_finite
from mvdiff.eval.overlap import PairErrors, errors_of, psnr_from_mse, shown_by_homography, unit_range
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.warped_pairs import warp_pairs
from mvdiff.shapes import check_shapes


class Given(PerSampleMetric):
    """PSNR of generated views against the given pixels."""

    name = "given"
    columns = (
        Column("known_psnr", "given pixels, not put back, PSNR", "dB", higher_is_better=True),
        Column("given_overlap_psnr", "neighbours against the given views, PSNR", "dB", higher_is_better=True),
    )
    totals = ("num_given_views",)
    needs: ClassVar = {"given": "no sample has given pixels. Score samples of `mvdiff generate outpaint`."}

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Compare a generated sample; skip real samples and samples without given pixels."""
        if not real and sample.given is not None and bool((sample.given[1] > 0.5).any()):
            super().update(sample, real)

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Compare a sample with its given pixels."""
        images, (given, known) = sample.images_uint8, sample.given
        check_finite(known=known, given=torch.where(known > 0.5, given, 0), K=sample.K, R=sample.R)
        errors = given_overlap_errors(images, given, known, sample.K, sample.R)
        numbers = {"num_given_views": int((known > 0.5).flatten(1).any(dim=1).sum())}
        if not sample.pasted_back:
            numbers["known_psnr"] = known_psnr(images, given, known)
        if errors.pairs:
            numbers["given_overlap_psnr"] = errors.mean_psnr()
        return numbers

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Average over samples; `known_psnr` is missing if given pixels were pasted back into any sample."""
        samples = self.rows("numbers", real=False).values
        if len(samples) == 0:
            raise MissingMetricError(self.needs["given"])
        known = self.mean_of(
            "known_psnr",
            model="squared error",
            variant="given pixels as the model makes them, before paste-back; pooled within a sample, then their mean",
        )
        overlap = self.mean_of(
            "given_overlap_psnr",
            model="homography",
            variant="given pixels warped into views of which they were not given; mean over pairs, then samples",
        )
        if num_pasted := int(samples[:, 0].isnan().sum()):
            known = MissingMetricError(
                f"given pixels were pasted back into {num_pasted} of {len(samples)} samples. Generate them with "
                "--no_paste_back."
            )
        if bool(samples[:, 1].isnan().all()):
            overlap = MissingMetricError("no generated pixels overlap the given pixels of another view.")
        return {"known_psnr": known, "given_overlap_psnr": overlap}


def known_psnr(images: Tensor, given: Tensor, known: Tensor) -> float:
    """Return the PSNR of a sample's known pixels in dB; NaN if no pixel is known.

    Args:
        images: [V, 3, H, W] generated views, uint8 or float in [-1, 1].
        given: [V, 3, H, W] given pixels, uint8 or float in [-1, 1]; values of unknown pixels are ignored.
        known: [V, 1, H, W], 1 for given pixels, 0 elsewhere.

    Example:
        >>> known = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
        >>> given = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
        >>> round(known_psnr(torch.zeros(1, 3, 1, 2), given, known), 3)  # 0.1 off in [0, 1]
        20.0
    """
    check_shapes(images=(images, "V 3 H W"), given=(given, "V 3 H W"), known=(known, "V 1 H W"))
    mask = known > 0.5
    if not bool(mask.any()):
        return math.nan
    generated, target = (_known_part(values, mask)[mask.expand_as(values)] for values in (images, given))
    return psnr_from_mse(float((generated - target).square().mean()))


def given_overlap_errors(images: Tensor, given: Tensor, known: Tensor, K: Tensor, R: Tensor) -> PairErrors:
    """Compare the known pixels of each view with the generated pixels of other views in the same directions.

    Args:
        images: [V, 3, H, W] generated views, uint8 or float in [-1, 1].
        given: [V, 3, H, W] given pixels, uint8 or float in [-1, 1]; values of unknown pixels are ignored.
        known: [V, 1, H, W], 1 for given pixels, 0 elsewhere.
        K: [V, 3, 3] intrinsics at H x W, in pixels.
        R: [V, 3, 3] world-from-camera.

    Returns:
        Errors by (target, source), over target pixels that are unknown and whose four bilinear neighbours in the source
        are known.
    """
    views = {"images": (images, "V 3 H W"), "given": (given, "V 3 H W"), "known": (known, "V 1 H W")}
    sizes = check_shapes(**views, K=(K, "V 3 3"), R=(R, "V 3 3"))
    mask = known > 0.5
    sources = mask.flatten(1).any(1).nonzero()[:, 0].tolist()
    pairs = [(target, source) for source in sources for target in range(sizes["V"]) if target != source]
    shown = shown_by_homography(K.double(), R.double(), sizes["H"], sizes["W"])

    def generated_view(view: int) -> Tensor:
        return unit_range(images[view])

    def given_view(view: int) -> Tensor:
        return _known_part(given[view], mask[view])

    return errors_of(warp_pairs(generated_view, given_view, pairs, shown, known=mask.__getitem__))


def _known_part(images: Tensor, mask: Tensor) -> Tensor:
    """Return images in [0, 1] as float64; unknown pixels, which may be NaN, become constant."""
    return unit_range(torch.where(mask, images, 0).to(images.dtype)).double()
