"""Task: the base it needs, what it adds to the UNet's input and blocks, and where correspondences come from.

Training and sampling share a task's condition and `denoiser`. Loops over steps, windows and samples live above.

Axes: B samples, V views, C latent channels, h w latent, H W image, L text tokens, D text width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.settings import AdapterSettings, Controls

NO_CONTROLS = Controls()


class Encoder(Protocol):
    """The frozen autoencoder with keyed noise; training and sampling key it differently."""

    vae_stride: int

    def pictures(self, images: Tensor, purpose: str) -> Tensor:
        """Encode pictures of the batch's size [B, V, 3, H, W] to [B, V, C, h, w]; `purpose` is part of the key."""

    def given(self, views: Tensor) -> Tensor:
        """Encode the batch's own images in the views [B, V] that are given; other views hold anything finite."""


@dataclass(frozen=True)
class Condition:
    """What a task adds to a UNet besides noisy latents and text.

    Attributes:
        channels: [B, V, channels, h, w], joined behind the noisy latents; None: nothing.
        given: [B, V, C + 1, h, w], input of the adapter's image-condition blocks; None: nothing.
        active: [B] bool, the samples that `given` is for.
    """

    channels: Tensor | None = None
    given: Tensor | None = None
    active: Tensor | None = None


class Task(ABC):
    """One task. A task has no settings: those belong to the adapter, the model or the data."""

    name: ClassVar[str]
    """One lower-case word; a task that is not the paper's is stored by its class path."""
    default_base: ClassVar[str | None] = None
    """Hub id of the paper's base; None where training must name one."""
    prompt_prefix: ClassVar[str] = ""
    """Prefix of the paper's prompts."""
    adapter: ClassVar[AdapterSettings] = AdapterSettings()
    """Settings of a fresh adapter where they are not the adapter's own defaults."""
    pipeline: ClassVar[str] = "mvdiff.pipelines.base.MultiViewPipeline"
    """Class path of the pipeline that users call."""
    views_return: ClassVar[bool] = False
    """Views come back in other samples, so that cached latents are kept view by view."""
    paste_back: ClassVar[bool] = False
    """Known pixels can be put back into decoded views, see `finish`."""
    uses_depth: ClassVar[bool] = False
    """Correspondences always come from depths."""
    view_fields: ClassVar[tuple[str, ...]] = ("rig",)
    """What a model folder says of its views, read from the data module: `rig`, or `height` and `width`."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    @classmethod
    def spec(cls) -> str:
        """Return what model folders and checkpoints store: the name of a task of the paper, else the class path."""
        return cls.name if cls._of_paper() else f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def command(cls) -> str:
        """Return the command that generates with models of this task."""
        return f"mvdiff generate {cls.name}" if cls._of_paper() else "mvdiff generate dataset"

    @classmethod
    def _of_paper(cls) -> bool:
        """Tell whether `opening` finds the class by its name, which is also that of its module here."""
        return cls.__module__ == f"mvdiff.tasks.{cls.name}"

    @abstractmethod
    def check_base(self, unet: Any, latent_channels: int) -> None:
        """Raise ValueError where a base's UNet does not take the input of this task."""

    def check_adapter(self, adapter: MultiViewAdapter) -> None:
        """Raise ValueError where an adapter's blocks are those of another kind of task."""
        if self.uses_depth:
            adapter.mid_block.check_depth()
        else:
            adapter.mid_block.check_shared_centre()

    def add_input(self, unet: Any) -> None:
        """Give a text-to-image UNet the input channels of this task with zero weights, in place.

        Raises:
            ValueError: The UNet takes more than latents already, or the task adds nothing.
        """
        raise ValueError(f"add_input must be false for the task {self.name}, which adds no input channels; got true.")

    def check_batch(self, batch: MultiViewBatch) -> None:  # noqa: B027 (nothing to check is a fine default)
        """Raise ValueError where a batch lacks a field that this task needs."""

    def check_cached_data(self, data: Any) -> None:  # noqa: B027 (all may come back)
        """Raise ValueError where what `condition` encodes hardly comes back from a data module."""

    def correspondences(self, batch: MultiViewBatch) -> MultiViewBatch:
        """Return the batch reduced to the fields that define correspondences: with depths, or without."""
        return batch

    def single_views(self, batch: MultiViewBatch, seed: int) -> MultiViewBatch:
        """Return the batch as training on single views sees it, checked."""
        self.check_batch(batch)
        return batch

    def condition(self, batch: MultiViewBatch, encoder: Encoder) -> Condition:
        """Make what the UNet gets besides noisy latents and text."""
        return Condition()

    def modes(self, batch: MultiViewBatch) -> list[str]:
        """Name each sample's mode, whose held-out loss is also logged by itself; "" where there are no modes."""
        return [""] * batch.batch_size

    @abstractmethod
    def overlap_psnr(self, views: Tensor, batch: MultiViewBatch, index: int) -> float:
        """Score generated views [V, 3, H, W] in [-1, 1] of one sample: mean over pairs in dB, NaN without overlap."""

    def scheduler_keys(self, batch: MultiViewBatch, index: int) -> tuple[int | str, ...]:
        """Return what keys a stochastic scheduler's noise of one sample, beside seed and sample id."""
        return ()

    def describe_given(self, batch: MultiViewBatch, index: int) -> tuple[dict[str, Any], Tensor | None]:
        """Describe what was given of a sample.

        Returns:
            Entries for `settings` in `sample.json`, and uint8 [V, H, W, 4] with alpha 255 where given, or None.
        """
        return {}, None

    def finish(self, images: Tensor, batch: MultiViewBatch) -> Tensor:
        """Put the exactly known pixels back into decoded views [B, V, 3, H, W]."""
        return images


def denoiser(
    unet: MultiViewUNet,
    batch: MultiViewBatch,
    condition: Condition,
    geometry: Any,
    controls: Controls = NO_CONTROLS,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Make the function that predicts the noise of a batch, for one pass or the two of guidance.

    Args:
        unet: Base and adapter.
        batch: Of B samples; `view_valid` says which views are padding.
        condition: The task's.
        geometry: The adapter's correspondences (`MultiViewAdapter.geometry`), or None: every view by itself.
        controls: Only `neighbour_batch` counts here.

    Returns:
        (latents [N, V, C, h, w], timesteps [N], text [N, V, L, D]) -> prediction [N, V, C, h, w], with N a multiple of
        B.
    """
    dtype, device = unet.unet.dtype, batch.view_valid.device
    lenders = controls.neighbour_batch
    lenders = None if lenders is None else torch.as_tensor(list(lenders), device=device)
    given, active = condition.given, condition.active
    skippable = unet.adapter.condition_blocks is None or not torch.is_grad_enabled()
    if given is not None and skippable and not bool(active.any()):
        given = active = None  # a sample without given frames takes exactly nothing from the blocks
    repeated: dict[int, Mapping[str, Any]] = {}

    def context(passes: int) -> Mapping[str, Any]:
        if passes not in repeated:
            repeated[passes] = {
                "geometry": geometry if geometry is None or passes == 1 else geometry.repeat(passes),
                "view_valid": torch.cat([batch.view_valid] * passes),
                "neighbour_batch": None
                if lenders is None
                else torch.cat([lenders + run * batch.batch_size for run in range(passes)]),
                "condition": None if given is None else torch.cat([given] * passes).to(dtype),
                "condition_active": None if active is None else torch.cat([active] * passes),
            }
        return repeated[passes]

    def predict(latents: Tensor, timesteps: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        passes = len(latents) // batch.batch_size
        if condition.channels is not None:
            channels = condition.channels.to(latents)
            latents = torch.cat([latents, torch.cat([channels] * passes)], dim=2)
        return unet(latents.to(dtype), timesteps, encoder_hidden_states.to(dtype), **context(passes))

    return predict
