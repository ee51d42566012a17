"""SD (Pano): a base that was finetuned on whole panoramas; views are cut from the panorama that it makes.

Axes: B samples, V views, H W image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.data.whole_panoramas import panorama_prompt
from mvdiff.geometry.panorama import perspective_from_equirectangular
from mvdiff.methods.model import ModelMethod
from mvdiff.methods.parts import Parts, WrongPart, base_size
from mvdiff.pipelines.prompt_files import expand_negative_prompt
from mvdiff.settings import Controls, Sampling
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.task import Task


class SDPano(ModelMethod):
    """Make one equirectangular panorama and cut the views from it, as data modules cut real ones.

    Table 1's "SD (Pano)". The panorama has the height of the images that the base was made for and twice their width
    (the paper: 512 x 1024). Its prompt joins those of the views (`panorama_prompt`), as in the training that
    configs/pano_sd.yaml describes, without a prefix; `sample.json` records null for it. Nothing closes the panorama
    where its sides meet.

    It needs a base that was finetuned on whole panoramas (`--base`).
    """

    name = "sd-pano"
    unused_parts = ("controlnet",)
    tasks = ("panorama",)
    controls = Controls(caa=False)

    @classmethod
    def open(cls, parts: Parts, task: Task | None = None) -> Self:
        """Open the panorama base; see `Method.open`.

        Raises:
            WrongPart: A prompt prefix was given.
        """
        if parts.prompt_prefix is not None:
            problem = f"must be left out: {cls.name} has one text for all views, without a prefix"
            raise WrongPart("prompt_prefix", problem)
        needed = "a base that was finetuned on whole panoramas, see configs/pano_sd.yaml"
        pipeline = parts.open_base(cls.name, task_from("panorama"), needed)
        pipeline.prompt_prefix = ""
        return cls(cls.name, pipeline)

    def describe(self, sampling: Sampling) -> dict[str, Any]:
        """Return the settings of base and sampling; there is no prefix of views."""
        return super().describe(sampling) | {"prompt_prefix": None}

    def generate(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Return the views alone; see `Method.generate`."""
        return self.generate_with_panoramas(batch, sampling, seed)[0]

    def generate_with_panoramas(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> tuple[Tensor, Tensor]:
        """Make the panoramas and cut the views; see `Method.generate_with_panoramas`."""
        panoramas, size = self._panoramas(batch, sampling, seed), batch.images.shape[-2:]
        cameras = zip(panoramas, batch.K.cpu(), batch.R.cpu(), strict=True)
        views = [perspective_from_equirectangular(panorama, K, R, *size) for panorama, K, R in cameras]
        return torch.stack(views).clamp(-1, 1), panoramas

    def _panoramas(self, batch: MultiViewBatch, sampling: Sampling, seed: int) -> Tensor:
        """Make the panoramas [B, 3, H, 2H] in [-1, 1] of a batch; noise is keyed by (seed, sample id, "panorama")."""
        count, height = batch.batch_size, base_size(self.pipeline.unet, self.pipeline.vae)
        eye = torch.eye(3).expand(count, 1, 3, 3)  # a panorama is no pinhole view, and a single view needs no camera
        whole = replace(
            MultiViewBatch.from_cameras(eye, eye, height, 2 * height),
            prompts=[[self._prompt(batch, sample)] for sample in range(count)],
            sample_id=batch.sample_id,
            view_names=[["panorama"]] * count,
        )
        negative = panorama_prompt(expand_negative_prompt(sampling.negative_prompt, batch.num_views))
        how = replace(sampling, negative_prompt=negative)
        return self.pipeline.generate(whole, how, seed=seed, controls=self.controls).images[:, 0]

    def _prompt(self, batch: MultiViewBatch, sample: int) -> str:
        valid = zip(batch.prompts[sample], batch.view_valid[sample].tolist(), strict=True)
        return panorama_prompt([prompt for prompt, is_valid in valid if is_valid])

    def text_notes(self, prompts: Sequence[str], sampling: Sampling) -> dict[str, Any]:
        """Return notes on the joined prompt; see `Method.text_notes`."""
        return self.pipeline.text_notes([panorama_prompt(prompts)], sampling)

    def warn_of_texts(self, prompts: Sequence[str], sampling: Sampling) -> None:
        """Warn of nothing beforehand: the pipeline warns of joined prompts when it samples."""
