"""MultiDiffusion: denoise all views of a panorama jointly with the plain base, without training.

Axes: B samples, V views, C latent channels, h w latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.diffusion import clean_from_prediction, prediction_from_clean
from mvdiff.geometry.correspondence import apply_homography, homography
from mvdiff.geometry.sampling import cell_centres, cell_from_pixel, normalized_from_pixel, sample_bilinear
from mvdiff.methods.independent import Independent
from mvdiff.models.attention.base import shared_cameras
from mvdiff.models.autoencoder import autoencoder_stride
from mvdiff.settings import Sampling


class MultiDiffusion(Independent):
    """Denoise the views of one sphere and average what they predict wherever they overlap, at every step.

    Source: Bar-Tal et al. 2023 (MultiDiffusion), who denoise crops of one canvas. Crops share their pixels, so their
    noisy latents can be averaged. Perspective views do not: to average noisy latents they would have to be resampled,
    which takes variance out of the noise, and the base then renders blur. As Kim et al. 2024 (SyncTweedies) found to
    work best, the clean latents that each view predicts are averaged instead, in directions: at each cell of a view,
    its own prediction and those of all other views that see the cell's direction, by homography and bilinear
    interpolation. A view's weight falls from its centre to its borders, as in `mvdiff.geometry.panorama.stitch`, so
    that no border shows. Each view keeps its own noise. Views without overlap are those of the method independent.

    It needs a text-to-image base, or a model, whose base it runs (`--base` or `--model`).
    """

    name = "multidiffusion"
    tasks = ("panorama",)

    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Sample all views jointly; see `Method.generate`."""
        coupling = OverlapAverage.of(batch, autoencoder_stride(self.pipeline.vae), self.pipeline.scheduler)
        how = {"seed": seed, "controls": self.controls}
        return self.pipeline.generate(batch, sampling, **how, coupling=coupling).images


@dataclass(frozen=True)
class OverlapAverage:
    """Replace the predictions of all views by their weighted average in every direction; see `MultiDiffusion`.

    Attributes:
        own: [h, w] weight of a view at its own cells.
        seen: For each view, the other views that see some of its cells: index, positions [h, w, 2] of the cells in the
            other view (x, y, in cells), and weights [h, w] there, 0 where it does not see them.
        valid: [B, V] bool, False for padding, which takes no part.
        scheduler: Scheduler of the base.
    """

    own: Tensor
    seen: list[list[tuple[int, Tensor, Tensor]]]
    valid: Tensor
    scheduler: Any

    @classmethod
    def of(cls, batch: MultiViewBatch, stride: int, scheduler: Any) -> Self:
        """Find which views see which cells.

        Args:
            batch: Batch whose samples share their cameras.
            stride: Pixels per latent cell along each side.
            scheduler: Scheduler of the base.
        """
        K, R = shared_cameras(batch)
        height, width = batch.images.shape[-2:]
        centres = cell_centres(height, width, stride)
        seen = []
        for view in range(len(K)):
            others = []
            for other in range(len(K)):
                xy, visible = apply_homography(homography(K[view], R[view], K[other], R[other]), centres, height, width)
                if other != view and bool(visible.any()):
                    weight = _weight(xy, height, width) * visible
                    others.append((other, cell_from_pixel(xy, stride).float(), weight))
            seen.append(others)
        return cls(_weight(centres, height, width), seen, batch.view_valid, scheduler)

    def __call__(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Return the averaged prediction [B, V, C, h, w]; cells that no other view sees are unchanged."""
        device, samples = prediction.device, len(prediction)
        clean = clean_from_prediction(self.scheduler, prediction, noisy, timesteps)
        valid = self.valid.to(device)
        averaged = []
        for view, others in enumerate(self.seen):
            own = self.own.to(device).expand(samples, 1, -1, -1)
            total, weights, shared = own * clean[:, view], own, torch.zeros_like(own, dtype=torch.bool)
            for other, xy, weight in others:
                weight = weight.to(device) * valid[:, other, None, None, None]
                xy = xy.to(device).expand(samples, -1, -1, -1)
                total = total + weight * sample_bilinear(clean[:, other], xy, padding="border")
                weights, shared = weights + weight, shared | (weight > 0)
            mean = prediction_from_clean(self.scheduler, total / weights, noisy[:, view], timesteps)
            averaged.append(torch.where(shared, mean, prediction[:, view]))
        return torch.stack(averaged, dim=1)


def _weight(xy: Tensor, height: int, width: int) -> Tensor:
    """Return weights [...] of pixel positions [..., 2]: 1 at a view's centre, 0 at its borders and beyond."""
    return (1 - normalized_from_pixel(xy, height, width).abs()).clamp(min=0).prod(dim=-1).float()
