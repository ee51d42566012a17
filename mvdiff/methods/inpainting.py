"""Inpainting: warp the views that exist into the next one, and let an inpainting base fill the hole.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.given import overlay_given, warp_given
from mvdiff.methods.model import ModelMethod
from mvdiff.methods.parts import Parts
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.prompt_files import expand_negative_prompt
from mvdiff.pipelines.sample_folders import described_settings
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.outpaint import OutpaintTask
from mvdiff.tasks.task import Task


class NextViewTask(OutpaintTask):
    """Inpaint single views, of which nothing may be known."""

    def check_batch(self, batch: MultiViewBatch) -> None:
        """Accept views of which nothing is known, unlike `OutpaintTask`."""

    def scheduler_keys(self, batch: MultiViewBatch, index: int) -> tuple[int | str, ...]:
        """Return the view's name: views of a sample are sampled one after the other."""
        return tuple(batch.names_of(index))


class Inpainting(ModelMethod):
    """Make the views one after the other: warp those that exist into the next, and inpaint its hole.

    Table 1's "Inpainting". View 0, and any other view of which nothing exists, comes from the prompt alone: from the
    base of a text-to-image model, if one is given, else from the inpainting base. All earlier views are warped into the
    next one by homography; where several see a pixel, the one that looks closest to the next view's direction counts.
    The inpainting base fills the hole, and the warped pixels are kept as they are. The last view of a ring is known
    from both of its neighbours, which closes the loop. Errors add up from view to view.

    It needs an inpainting base (`--base`), and takes a text-to-image model (`--model`).

    Args:
        name: See `Method`.
        pipeline: Inpainting base with `NextViewTask`.
        text_pipeline: Pipeline that makes views of which nothing is known; None: `pipeline`.
    """

    name = "inpainting"
    unused_parts = ("controlnet",)
    tasks = ("panorama",)
    controls = Controls(caa=False)
    makes_single_views = True

    def __init__(
        self, name: str | None, pipeline: MultiViewPipeline, text_pipeline: MultiViewPipeline | None = None
    ) -> None:
        super().__init__(name, pipeline)
        self.task = task_from("panorama")
        self.text_pipeline = text_pipeline

    @property
    def pipelines(self) -> tuple[MultiViewPipeline, ...]:
        """Return the inpainting pipeline and, if there is one, that of views of which nothing is known."""
        return (self.pipeline,) if self.text_pipeline is None else (self.pipeline, self.text_pipeline)

    @classmethod
    def open(cls, parts: Parts, task: Task | None = None) -> Self:
        """Open the inpainting base and, if one is given, the model; see `Method.open`."""
        needed = f"an inpainting base, such as {OutpaintTask.default_base} or mvdiff://toy-inpainting-base"
        pipeline = parts.open_base(cls.name, NextViewTask(), needed)
        # `--base` and `--vae` are those of the inpainting base
        model = replace(parts, base=None, vae=None)
        text = None if parts.model is None else model.open_model(cls.name, task_from("panorama"))
        return cls(cls.name, pipeline, text)

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return the settings of base and sampling."""
        settings = super().describe(sampling)
        settings.pop("paste_back", None)  # there are no given pixels, and warped ones are always kept
        text = self.text_pipeline
        return (
            settings if text is None else settings | {"first_view": described_settings(text, sampling, self.controls)}
        )

    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Make the views in order; see `Method.generate`."""
        views: list[Tensor] = []
        negatives = expand_negative_prompt(sampling.negative_prompt, batch.num_views)
        for view in range(batch.num_views):
            warped = [self._warped(batch, sample, views, view) for sample in range(batch.batch_size)]
            images, known = (torch.stack(part) for part in zip(*warped, strict=True))
            one = replace(batch.one_view(view), images=images, known=known)
            how = replace(sampling, negative_prompt=negatives[view])
            pipeline = self.pipeline if self.text_pipeline is None or bool(known.any()) else self.text_pipeline
            made = pipeline.generate(one, how, seed=seed, controls=self.controls, paste_back=True)
            views.append(made.images[:, 0])
        return torch.stack(views, dim=1)

    def _warped(self, batch: MultiViewBatch, sample: int, views: Sequence[Tensor], view: int) -> tuple[Tensor, Tensor]:
        """Return what a sample's earlier views show of a view: [1, 3, H, W], and `known` [1, 1, H, W]."""
        height, width = batch.images.shape[-2:]
        K, R, valid = batch.K[sample].cpu(), batch.R[sample].cpu(), batch.view_valid[sample].tolist()
        towards = R[:, :, 2] @ R[view, :, 2]  # cosine of the angle between the directions of the views
        earlier = [other for other in range(len(views)) if valid[other] and valid[view]]
        earlier.sort(key=lambda other: -round(float(towards[other]), 4))
        blank = torch.zeros(1, 3, height, width), torch.zeros(1, 1, height, width)
        cameras = K[view : view + 1], R[view : view + 1], height, width
        return overlay_given(
            [warp_given(views[other][sample], K[other], R[other], *cameras) for other in earlier] or [blank]
        )
