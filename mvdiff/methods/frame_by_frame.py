"""FrameByFrame: generate the frames of a sequence one after the other, each from what earlier frames show in it.

Axes: B samples, V frames, H W image.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.methods.method import Method
from mvdiff.methods.warping import MIN_KNOWN, Views, close_cells, warp_by_depth
from mvdiff.models.autoencoder import autoencoder_stride
from mvdiff.models.conditioning import given_frames
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import described_settings
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.depth import DepthTask

BASE_ALONE = Controls(caa=False)


class FrameByFrame(Method):
    """Generate frames in order; a frame keeps what earlier frames show in it by depth and pose.

    Earlier frames are those that are given (`known` is 1) and those already generated; where several show the same
    surface, the nearest in the sequence is used. Given frames stay as they are. The samples of a batch do not affect
    each other.

    Args:
        pipeline: Pipeline whose base generates single frames.
        name: See `Method`.
        min_known: See `close_cells`.
    """

    tasks: ClassVar[tuple[str, ...] | None] = ("depth",)
    makes_single_views: ClassVar[bool] = True

    def __init__(self, pipeline: MultiViewPipeline, name: str | None = None, min_known: float = MIN_KNOWN) -> None:
        super().__init__(name, DepthTask())
        self.pipeline, self.min_known = pipeline, min_known

    @property
    def pipelines(self) -> tuple[MultiViewPipeline, ...]:
        """Return the pipeline."""
        return (self.pipeline,)

    @abstractmethod
    def paint(self, frames: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Generate one frame of each of B samples: [B, 1, 3, H, W] in [-1, 1].

        Args:
            frames: Batch of one frame per sample; `images` and `known` hold what earlier frames show in it, and unknown
                pixels have smooth colours of their surroundings.
            sampling: Number of steps, guidance, negative prompt and eta.
            seed: Random seed.
        """

    @torch.no_grad()
    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Generate frame after frame; see `Method.generate`."""
        DepthTask().check_batch(batch)
        stride, (height, width) = autoencoder_stride(self.pipeline.vae), batch.images.shape[-2:]
        if height % stride or width % stride:
            raise ValueError(
                f"height and width must be multiples of {stride}, the autoencoder's stride; got {[height, width]}."
            )
        batch = batch.to("cpu")  # warping runs in float64
        exists = given_frames(batch.known, batch.view_valid)
        images = torch.where(exists[:, :, None, None, None], batch.images.float(), 0.0)
        for view in range(batch.num_views):
            rows = (batch.view_valid[:, view] & ~exists[:, view]).nonzero()[:, 0].tolist()
            if not rows:
                continue
            warped = [self._warped(batch, images[row], exists[row], row, view, stride) for row in rows]
            frames = batch.rows(rows).one_view(view)
            frames.images, frames.known = (torch.stack(values)[:, None] for values in zip(*warped, strict=True))
            images[rows, view] = self.paint(frames, _of_view(sampling, view), seed)[:, 0].cpu()
            exists[rows, view] = True
        return images

    def _warped(
        self, batch: MultiViewBatch, images: Tensor, exists: Tensor, row: int, view: int, stride: int
    ) -> tuple[Tensor, Tensor]:
        """Warp the existing frames of a sample into a view: image [3, H, W] and `known` [1, H, W]."""
        views = Views(batch.depths[row], batch.K[row], batch.R[row], batch.t[row])
        nearest = sorted(exists.nonzero()[:, 0].tolist(), key=lambda other: abs(other - view))
        sources = Views(*(value[nearest] for value in views))
        return close_cells(*warp_by_depth(images[nearest], sources, views.at(view)), stride, self.min_known)

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return the settings of base, sampling and warping; see `described_settings`."""
        settings = described_settings(self.pipeline, sampling, BASE_ALONE, paste_back=False)
        return settings | {"method": self.name, "min_known": self.min_known}

    def text_notes(self, prompts: Any, sampling: Sampling) -> dict[str, Any]:
        """Return notes on cut and empty prompts; see `Method.text_notes`."""
        return self.pipeline.text_notes(prompts, sampling)


def _of_view(sampling: Sampling, view: int) -> Sampling:
    """Return the sampling settings of one view: its own negative prompt where there is one per view."""
    negative = sampling.negative_prompt
    return sampling if isinstance(negative, str | None) else replace(sampling, negative_prompt=negative[view])
