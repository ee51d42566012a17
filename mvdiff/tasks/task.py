"""Task: the base that a task needs, the inputs it adds to the UNet, and the source of its correspondences.

Training and sampling share a task's condition and `denoiser`; loops over steps, windows and samples are in `training`
and `pipelines`.

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
from mvdiff.models.deep_cache import DeepCache
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.settings import AdapterSettings, Controls
from mvdiff.text_states import TextStates, states_to

NO_CONTROLS = Controls()


class Encoder(Protocol):
    """The frozen autoencoder, with keyed noise; training and sampling use different keys.

    Attributes:
        vae_stride: Pixels per latent cell along each side.
    """

    vae_stride: int

    def pictures(self, images: Tensor, purpose: str) -> Tensor:
        """Encode images [B, V, 3, H, W] in [-1, 1] to latents [B, V, C, h, w]; `purpose` is part of the noise key."""

    def given(self, views: Tensor) -> Tensor:
        """Encode the batch's images in the known views.

        Args:
            views: [B, V] bool, True for known views.

        Returns:
            [B, V, C, h, w] latents; those of other views are finite but undefined.
        """


@dataclass(frozen=True)
class Condition:
    """Inputs of the UNet besides noisy latents and text.

    Attributes:
        channels: [B, V, channels, h, w], concatenated after the noisy latents; None: nothing.
        given: [B, V, C + 1, h, w], input of the adapter's image-condition blocks; None: nothing.
        active: [B] bool, True for samples with known frames in `given`.
    """

    channels: Tensor | None = None
    given: Tensor | None = None
    active: Tensor | None = None


class Task(ABC):
    """Base class of tasks. A task has no settings of its own; settings belong to the adapter, the model or the data."""

    name: ClassVar[str]
    """One lower-case word. Model folders store this name for the paper's tasks, and the class path for others."""
    default_base: ClassVar[str | None] = None
    """Hub id of the paper's base; None if training must name a base."""
    prompt_prefix: ClassVar[str] = ""
    """Text that the paper puts before every prompt."""
    adapter: ClassVar[AdapterSettings] = AdapterSettings()
    """Settings of a fresh adapter that differ from the adapter's defaults."""
    pipeline: ClassVar[str] = "mvdiff.pipelines.base.MultiViewPipeline"
    """Class path of the task's pipeline."""
    views_return: ClassVar[bool] = False
    """The same view can occur in several samples, so latents are cached per view instead of per sample."""
    paste_back: ClassVar[bool] = False
    """Known pixels can be pasted into decoded views, see `finish`."""
    uses_depth: ClassVar[bool] = False
    """Correspondences always come from depths."""
    takes_latents: ClassVar[bool] = False
    """Latents and text of a sample are enough to train (shards of latents): `condition` needs no pictures."""
    mode_names: ClassVar[tuple[str, ...]] = ()
    """Names that `modes` may return besides ""."""
    view_fields: ClassVar[tuple[str, ...]] = ("rig",)
    """Attributes of the data module that a model folder stores about its views: `rig`, or `height` and `width`."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    @classmethod
    def spec(cls) -> str:
        """Return the form that model folders and checkpoints store: the name of a paper task, else the class path."""
        return cls.name if cls._of_paper() else f"{cls.__module__}.{cls.__qualname__}"

    @classmethod
    def command(cls) -> str:
        """Return the CLI command that generates with models of this task."""
        return f"mvdiff generate {cls.name}" if cls._of_paper() else "mvdiff generate dataset"

    @classmethod
    def _of_paper(cls) -> bool:
        """Return True for the tasks of this package, whose modules have their names."""
        return cls.__module__ == f"mvdiff.tasks.{cls.name}"

    @abstractmethod
    def check_base(self, unet: Any, latent_channels: int) -> None:
        """Raise ValueError if a base's UNet does not take the input of this task.

        Args:
            unet: UNet of the base.
            latent_channels: Number of latent channels of the autoencoder.
        """

    def check_adapter(self, adapter: MultiViewAdapter) -> None:
        """Raise ValueError where an adapter's blocks are those of another kind of task."""
        if self.uses_depth:
            adapter.blocks[0].check_depth()
        else:
            adapter.blocks[0].check_shared_centre()

    def add_input(self, unet: Any) -> None:
        """Add the input channels of this task to a text-to-image UNet, with zero weights, in place.

        Raises:
            ValueError: The UNet already has other input channels than the latents, or the task adds none.
        """
        raise ValueError(f"add_input must be false for the task {self.name}, which adds no input channels; got true.")

    def check_batch(self, batch: MultiViewBatch) -> None:  # noqa: B027 (by default there is nothing to check)
        """Raise ValueError if a batch lacks a field that this task needs."""

    def check_cached_data(self, data: Any) -> None:  # noqa: B027 (by default every data module suits a cache)
        """Raise ValueError if the images that `condition` encodes rarely repeat, so that caching latents is useless.

        Args:
            data: The data module.
        """

    def correspondences(self, batch: MultiViewBatch) -> MultiViewBatch:
        """Return the batch with the fields that define correspondences, with or without `depths`."""
        return batch

    def single_views(self, batch: MultiViewBatch, seed: int) -> MultiViewBatch:
        """Check and return the batch for training on single views; a task may draw fields of it from `seed`."""
        self.check_batch(batch)
        return batch

    def condition(self, batch: MultiViewBatch, encoder: Encoder) -> Condition:
        """Compute the UNet's inputs besides noisy latents and text."""
        return Condition()

    def modes(self, batch: MultiViewBatch) -> list[str]:
        """Return each sample's mode, whose held-out loss is also logged separately; "" for a task without modes."""
        return [""] * batch.batch_size

    @abstractmethod
    def overlap_psnr(self, views: Tensor, batch: MultiViewBatch, index: int) -> float:
        """Compute the overlap PSNR of one sample: the mean over pairs of views in dB, NaN without overlap.

        Args:
            views: [V, 3, H, W] generated views in [-1, 1].
            batch: Batch with the sample's cameras.
            index: Index of the sample in the batch.
        """

    def scheduler_keys(self, batch: MultiViewBatch, index: int) -> tuple[int | str, ...]:
        """Return keys of a stochastic scheduler's noise for one sample, in addition to seed and sample id."""
        return ()

    def describe_given(self, batch: MultiViewBatch, index: int) -> tuple[dict[str, Any], Tensor | None]:
        """Describe the known content of a sample.

        Returns:
            Entries for `settings` in `sample.json`; and the known pixels, uint8 [V, H, W, 4] with alpha 255 where
            known, or None.
        """
        return {}, None

    def finish(self, images: Tensor, batch: MultiViewBatch) -> Tensor:
        """Paste known pixels into decoded views [B, V, 3, H, W] in [-1, 1]; by default there are none."""
        return images


def denoiser(
    unet: MultiViewUNet,
    batch: MultiViewBatch,
    condition: Condition,
    geometry: Any,
    controls: Controls = NO_CONTROLS,
    deep_cache: DeepCache | None = None,
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Make the function that predicts the noise of a batch, for one pass or for the two passes of guidance.

    Args:
        unet: Base and adapter.
        batch: Batch of B samples; only `view_valid` is used.
        condition: Output of `Task.condition`.
        geometry: Output of `MultiViewAdapter.geometry`; None: each view by itself.
        controls: Only `neighbour_batch` is used.
        deep_cache: Cache of this denoising; None: run the whole network in every call.

    Returns:
        Function (latents [N, V, C, h, w], timesteps [N], text [N, V, ...]) -> prediction [N, V, C, h, w], where N is a
        multiple of B.
    """
    dtype, device = unet.unet.dtype, batch.view_valid.device
    lenders = controls.neighbour_batch
    lenders = None if lenders is None else torch.as_tensor(list(lenders), device=device)
    cached = {} if deep_cache is None else {"deep_cache": deep_cache}
    given, active = condition.given, condition.active
    skippable = unet.adapter.condition_blocks is None or not torch.is_grad_enabled()
    if given is not None and skippable and not bool(active.any()):
        given = active = None  # the blocks add exact zeros to samples without known frames
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

    def predict(latents: Tensor, timesteps: Tensor, encoder_hidden_states: TextStates) -> Tensor:
        passes = len(latents) // batch.batch_size
        if condition.channels is not None:
            channels = condition.channels.to(latents)
            latents = torch.cat([latents, torch.cat([channels] * passes)], dim=2)
        text = states_to(encoder_hidden_states, latents.device, dtype)
        return unet(latents.to(dtype), timesteps, text, **context(passes), **cached)

    return predict
