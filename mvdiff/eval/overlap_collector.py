"""The collector of the overlap PSNR: by homography, or by depth and pose where samples have depths."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mvdiff.eval.bootstrap import bootstrap
from mvdiff.eval.collectors import GENERATED, REFERENCE, MissingError, Result, with_reference
from mvdiff.eval.depth_overlap import depth_overlap_errors
from mvdiff.eval.overlap import PAPER_SIZE, PairErrors, PairRule, combine, overlap_errors, psnr_from_mse
from mvdiff.eval.sources import ScoredSample
from mvdiff.geometry.depth import DEFAULT_DEPTH_TOLERANCE, DepthTolerance

_AVERAGES = {  # of rows (sum of PSNRs, pairs, sum of squared errors, values), one per sample
    "overlap_psnr_mean_of_pairs": lambda sums: float(sums[:, 0].sum() / sums[:, 1].sum()),
    "overlap_psnr_pooled": lambda sums: psnr_from_mse(float(sums[:, 2].sum() / sums[:, 3].sum())),
}
_AVERAGE_NAMES = {
    "overlap_psnr_mean_of_pairs": "mean over pairs",
    "overlap_psnr_pooled": "squared error pooled over all pixels",
}


@dataclass
class OverlapCollector:
    """Overlap PSNR, both averages.

    Args:
        size: Size of images that share a centre, see `mvdiff.eval.overlap.overlap_errors`; others keep their own.
        pairs: Which views to compare, see `mvdiff.eval.overlap.view_pairs` and `depth_view_pairs`.
        depth_error: Metres; pixels of views with depth that are off by more are discarded.
        seed: Seed of the resamples.
        num_resamples: Bootstrap resamples.
    """

    size: int | tuple[int, int] | None = PAPER_SIZE
    pairs: PairRule = "adjacent"
    depth_error: float = 0.5
    seed: int = 0
    num_resamples: int = 1000
    samples: dict[str, list[PairErrors]] = field(default_factory=lambda: {GENERATED: [], REFERENCE: []})
    unoccluded: dict[str, list[PairErrors]] = field(default_factory=lambda: {GENERATED: [], REFERENCE: []})
    ids: dict[str, list[str]] = field(default_factory=lambda: {GENERATED: [], REFERENCE: []})
    by_depth: bool | None = None

    def update(self, which: str, sample: ScoredSample) -> None:
        """Compare a sample's overlaps.

        Raises:
            ValueError: Some samples have depths and others have none, or views without depths share no centre.
        """
        by_depth = sample.depths is not None
        if self.by_depth not in (None, by_depth):
            raise ValueError(
                "samples must all have depths, or none, for one overlap PSNR; got both. Score them in folders of "
                "their own, and give a reference of the same kind."
            )
        self.by_depth = by_depth
        images = sample.images_uint8
        if sample.depths is None:
            if sample.t is not None and bool((sample.t - sample.t[:1]).norm(dim=-1).max() > 1e-4):
                raise ValueError(
                    "views with poses must have depths to be compared; got none. Write depth/<i>.png into the samples."
                )
            self.samples[which].append(overlap_errors(images, sample.K, sample.R, self.size, self.pairs))
        else:
            t = sample.R.new_zeros(len(sample.R), 3) if sample.t is None else sample.t
            views = images, sample.depths, sample.K, sample.R, t, self.pairs
            self.samples[which].append(depth_overlap_errors(*views, DepthTolerance(self.depth_error, 0.0)))
            self.unoccluded[which].append(depth_overlap_errors(*views, DEFAULT_DEPTH_TOLERANCE))
        self.ids[which].append(sample.sample_id)

    def forget(self, which: str) -> None:
        """Drop one set's pairs."""
        self.samples[which], self.unoccluded[which], self.ids[which] = [], [], []

    def result(self, metric: str) -> Result:
        """Return ``overlap_psnr_mean_of_pairs`` or ``overlap_psnr_pooled``, in dB.

        With a reference also its value and the quotient ``ratio_to_reference``; the mean over pairs also the
        ``mean_of_pair_ratios`` and the means ``per_sample``. Views with depth also have ``unoccluded``: the same
        number over pixels that pass the stricter `DEFAULT_DEPTH_TOLERANCE`.
        """
        generated, reference = self.samples[GENERATED], self.samples[REFERENCE]
        numbers = combine(generated)
        if not numbers["num_pairs"]:
            raise MissingError("no pair of views overlaps.")
        out: Result = {
            "value": numbers[metric],
            "model": "depth and pose" if self.by_depth else "homography",
            "variant": f"{_AVERAGE_NAMES[metric]}; {self._protocol()}",
            "num_pairs": numbers["num_pairs"],
        }
        sums = np.array(
            [
                (sum(s.psnr_of_pairs()), len(s.pairs), sum(s.squared_error), sum(s.num_values))
                for s in generated
                if s.pairs
            ]
        )
        interval = bootstrap(_AVERAGES[metric], sums, num_resamples=self.num_resamples, seed=self.seed)
        out["interval"] = [interval.low, interval.high]
        out |= _beside_reference(numbers[metric], reference, metric)
        if self.by_depth:
            value = combine(self.unoccluded[GENERATED])
            if value["num_pairs"]:
                theirs = _beside_reference(value[metric], self.unoccluded[REFERENCE], metric)
                out["unoccluded"] = {"value": value[metric], "num_pairs": value["num_pairs"]} | theirs
        if metric == "overlap_psnr_mean_of_pairs":
            out |= self._mean_of_ratios()
            means = zip(self.ids[GENERATED], generated, strict=True)
            out["per_sample"] = {name: sample.mean_psnr() for name, sample in means if sample.pairs}
        return out

    def _protocol(self) -> str:
        rule = self.pairs if isinstance(self.pairs, str) else "given"
        if self.by_depth:
            rule = "consecutive" if rule == "adjacent" else rule
            return f"{rule} pairs; the images' own size; pixels whose depth is off by at most {self.depth_error:g} m"
        size = "the images' own size" if self.size is None else f"images resized to {self.size}"
        return f"{rule} pairs; {size}; pixels whose warped mask is exactly one"

    def _mean_of_ratios(self) -> Result:
        """Mean of per-pair quotients over the pairs of samples that both sets have (not the quotient of means)."""
        theirs = dict(zip(self.ids[REFERENCE], self.samples[REFERENCE], strict=True))
        ratios = []
        for name, own in zip(self.ids[GENERATED], self.samples[GENERATED], strict=True):
            truth = theirs.get(name)
            if truth is not None and truth.pairs == own.pairs:
                both = zip(own.psnr_of_pairs(), truth.psnr_of_pairs(), strict=True)
                ratios += [a / b for a, b in both if b > 0]
        return {"mean_of_pair_ratios": float(np.mean(ratios))} if ratios else {}


def _beside_reference(value: float, reference: list[PairErrors], metric: str) -> Result:
    theirs = combine(reference)
    return with_reference(value, [theirs[metric]]) if theirs["num_pairs"] else {}
