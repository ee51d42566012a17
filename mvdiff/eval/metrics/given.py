"""Outpainting: PSNR of the known pixels, and overlap PSNR of the given views with the others."""

from __future__ import annotations

import math
from typing import ClassVar

from mvdiff.eval.given import given_overlap_errors, known_psnr
from mvdiff.eval.metric import Column, MissingMetricError, PerSampleMetric, Result
from mvdiff.eval.sources import ScoredSample


class Given(PerSampleMetric):
    """Compare generated views with what was given of them."""

    name = "given"
    columns = (
        Column("known_psnr", "given pixels, not put back, PSNR", "dB", higher_is_better=True),
        Column("given_overlap_psnr", "neighbours against the given views, PSNR", "dB", higher_is_better=True),
    )
    needs: ClassVar = {"given": "no sample says what was given of it. Score samples of `mvdiff generate outpaint`."}

    def update(self, sample: ScoredSample, real: bool) -> None:
        """Compare a generated sample; a real one, and a sample of which nothing was given, has no number."""
        if not real and sample.given is not None and bool((sample.given[1] > 0.5).any()):
            super().update(sample, real)

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Compare a sample with what was given of it."""
        images, (given, known) = sample.images_uint8, sample.given
        return {
            "known_psnr": math.nan if sample.pasted_back else known_psnr(images, given, known),
            "given_overlap_psnr": given_overlap_errors(images, given, known, sample.K, sample.R).mean_psnr(),
        }

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Average over samples; `known_psnr` only where no given pixels were put back."""
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
                f"the given pixels were put back into {num_pasted} of {len(samples)} samples. Generate them with "
                "--no_paste_back."
            )
        if bool(samples[:, 1].isnan().all()):
            overlap = MissingMetricError("no view that was not given shows what was given elsewhere.")
        return {"known_psnr": known, "given_overlap_psnr": overlap}
