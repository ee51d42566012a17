"""Methods that need no model: the real views with noise of a known strength."""

import torch

from mvdiff.methods.references import GroundTruth
from mvdiff.recipes.compared import BASE, CAA, FOREIGN, ROUND_TRIP, SILENT, TRUTH

STRENGTHS = {TRUTH: 0, ROUND_TRIP: 2, CAA: 10, BASE: 20, FOREIGN: 30, SILENT: 40}
"""Standard deviation of each method's noise, of 255."""


class Noisy(GroundTruth):
    """The real views with the noise of a method."""

    def generate(self, batch, sampling, seed):
        generator = torch.Generator().manual_seed(STRENGTHS[self.name])
        noise = torch.randn(batch.images.shape, generator=generator) * STRENGTHS[self.name] / 127.5
        return (batch.images + noise).clamp(-1, 1)
