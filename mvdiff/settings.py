"""Settings of users in groups: keyword-only dataclasses, free of torch so that a command's help is fast.

The string under a field is its help. None means: take the loaded adapter's value, else the task's, else the library's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

T = TypeVar("T")
MidPlace = Literal["after_first_resnet", "after_mid_block"]
PictureFormat = Literal["png", "jpg", "webp"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of sampling."""

    num_inference_steps: int = 50
    """denoising steps (paper: 50, DDIM)"""
    guidance_scale: float = 9.0
    """classifier-free guidance (paper: 9); 1 or less runs the prompt alone, at half the cost"""
    negative_prompt: str | Sequence[str] | None = None
    """what to steer away from: one text for all views or one per view; default the empty prompt"""
    eta: float = 0.0
    """noise of DDIM, from 0 (deterministic) to 1"""


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Ablations: sample with a part of the model switched off."""

    caa: bool = True
    """False runs the base alone, view by view"""
    attention_enabled: bool = True
    """False skips the attention across views; the adapter's other layers stay"""
    neighbour_batch: Sequence[int] | None = None
    """for each sample the sample of the batch that lends its views as neighbours; default its own"""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Shape of an adapter; None takes the value of the adapter that training starts from, else the task's."""

    attention: Mapping[str, Any] | None = None
    """attention across views: `class_path` and `init_args`, such as {"init_args": {"kernel_size": 3}}; arguments may
    also stand beside `init_args`, as a command line puts them, and then win"""
    mid_place: MidPlace | None = None
    """place of the mid block's attention"""
    residual: bool | None = None
    """add a residual convolution block after each attention"""
    image_condition: bool | None = None
    """add the blocks that bring given frames in"""

    def __post_init__(self) -> None:
        if self.attention is not None:
            named = {name: self.attention[name] for name in ("class_path",) if name in self.attention}
            beside = {name: self.attention[name] for name in self.attention if name not in ("class_path", "init_args")}
            arguments = dict(self.attention.get("init_args") or {}) | beside
            object.__setattr__(self, "attention", named | {"init_args": arguments})

    def chosen(self) -> dict[str, Any]:
        """Return the settings that are not None."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Settings that trade time for memory in training."""

    gradient_checkpointing: bool = False
    """compute activations again in the backward pass"""
    views_per_chunk: int | None = None
    """run the UNet's own layers on so many views at a time, in training and in samples; None: all"""
    vae_slicing: bool = False
    """encode and decode view by view"""


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Caches for outputs of the frozen base."""

    dir: str | None = None
    """folder for text embeddings and latents; None computes them each time"""
    latents: bool = False
    """keep latents too; only for views that come back, such as yaws from a list"""
    geometry_bytes: int = 2 * 2**30
    """memory for correspondences of rigs, with their encodings"""

    def __post_init__(self) -> None:
        if self.latents and self.dir is None:
            raise ValueError("cache.dir must be a folder when cache.latents is true; got null.")
        if self.geometry_bytes < 0:
            raise ValueError(f"cache.geometry_bytes must be at least 0; got {self.geometry_bytes}.")


@dataclass(frozen=True, kw_only=True)
class PanoramaPictures:
    """Pictures of a panorama for people, beside the views and panorama.png of its sample folder."""

    format: PictureFormat = "png"
    """jpg or webp: write the panorama in this format too; it is also that of the cropped panorama and cube faces"""
    crop: bool = False
    """write panorama_cropped: the rows that views show all around, with XMP that says where on the sphere they lie"""
    cube_faces: bool = False
    """write cube/front, right, back, left, up and down, mid-grey where no view looks"""


def plain(settings: Any) -> dict[str, Any]:
    """Return a group of settings as plain values, which checkpoints can hold."""
    return asdict(settings)


def settings_from(kind: type[T], value: Any) -> T:
    """Return a group of settings as it is, or build it of the plain values that a checkpoint holds.

    Raises:
        ValueError: The value is neither, or has other names.
    """
    if isinstance(value, kind):
        return value
    known = [field.name for field in fields(kind)]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise ValueError(f"{kind.__name__} must be a mapping of {', '.join(known)}; got {value!r}.")
    return kind(**value)
