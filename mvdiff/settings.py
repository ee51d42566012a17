"""User settings as keyword-only dataclasses. This module does not import torch, which keeps the help of commands fast.

The string under a field is its help text. None takes the value of the loaded adapter, else of the task, else of the
library.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args

from mvdiff.files.paths import expanded_values
from mvdiff.files.sizes import parse_size

T = TypeVar("T")
MidPlace = Literal["after_first_resnet", "after_mid_block"]
PictureFormat = Literal["png", "jpg", "webp"]
TimestepSampling = Literal["uniform", "logit_normal", "mode"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Sampling settings."""

    num_inference_steps: int = 50
    """denoising steps (paper: 50, DDIM)"""
    guidance_scale: float = 9.0
    """classifier-free guidance scale (paper: 9; the packaged toy models: 2); 1 or less disables guidance and halves the
    cost"""
    negative_prompt: str | Sequence[str] | None = None
    """prompt to steer away from: one text for all views, or a JSON list with one text per view, such as
    '["fog", "text"]', which mvdiff generate depth does not take (default: the empty prompt)"""
    eta: float = 0.0
    """noise added by DDIM, from 0 (deterministic) to 1"""
    timesteps: Sequence[int] | None = None
    """timesteps to denoise at, in descending order, in place of num_inference_steps ones that the scheduler chooses,
    for schedulers that take them"""
    sigmas: Sequence[float] | None = None
    """noise levels to denoise at, in descending order, likewise; for flow matching from at most 1 to above 0, and a
    timestep is 1000 times a noise level: the scheduler's shift is not applied to either"""
    guidance_rescale: float = 0.0
    """moves the contrast that guidance adds back, from 0 (not) to 1 (wholly) (Lin et al. 2024, section 3.4)"""
    clip_skip: int | None = None
    """last layers of the text encoder to leave out for prompts, but not for negative prompts; Stable Diffusion 1, 2, XL
    (default: as the base was trained)"""

    def recorded(self) -> dict[str, Any]:
        """Return the settings for `sample.json`; those of later versions are left out while they change nothing."""
        later = {"timesteps": None, "sigmas": None, "guidance_rescale": 0.0, "clip_skip": None}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Ablations: sample with parts of the model switched off."""

    caa: bool = True
    """False runs only the base model, view by view"""
    attention_enabled: bool = True
    """False skips the attention across views but runs the adapter's other layers"""
    neighbour_batch: Sequence[int] | None = None
    """for each sample, the index of the batch sample whose views serve as its neighbours (default: its own)"""


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Architecture of an adapter; None takes the value of the adapter that training starts from, else the task's."""

    attention: Mapping[str, Any] | None = None
    """attention across views: {"class_path": ..., "init_args": {...}}, for example {"init_args": {"kernel_size": 3}};
    the option --model.adapter.attention.init_args.NAME overrides one of init_args; None: as in init_adapter, else
    correspondence-aware attention with the task's settings"""
    mid_place: MidPlace | None = None
    """position of the attention in the UNet's mid block; None: as in init_adapter, else after_mid_block for depth,
    after_first_resnet for the others"""
    residual: bool | None = None
    """add a residual convolution block after each attention; None: as in init_adapter, else true for depth, false for
    the others"""
    image_condition: bool | None = None
    """add the blocks that condition on given frames; None: as in init_adapter, else true for depth, false for the
    others"""

    every: int | None = None
    """transformer bases: attention after every so many blocks; None: as in init_adapter, else for about seven places"""

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
class FlowSettings:
    """Noise levels that training draws for a base of flow matching; other bases do not read them."""

    weighting: Literal["logit_normal", "uniform"] = "logit_normal"
    """distribution of the noise level sigma in [0, 1] before the shift; logit_normal prefers the middle (Esser et al.
    2024, section 3.1)"""
    mean: float = 0.0
    """mean of the logit"""
    std: float = 1.0
    """standard deviation of the logit"""
    shift: float | None = None
    """move noise levels towards noise, sigma to shift sigma / (1 + (shift - 1) sigma); None: as in the base's
    scheduler"""

    def __post_init__(self) -> None:
        for name in ("std", "shift"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"flow.{name} must be above 0; got {value}.")
        if self.weighting == "uniform":
            _check_defaults("flow", self, ("mean", "std"), "flow.weighting is uniform")


@dataclass(frozen=True, kw_only=True)
class MemorySettings:
    """Training settings that save memory at the cost of time."""

    gradient_checkpointing: bool = False
    """recompute activations in the backward pass instead of storing them"""
    views_per_chunk: int | None = None
    """number of views that the UNet's own layers process at a time, in training and sampling; None: all"""
    vae_slicing: bool = False
    """encode and decode one view at a time"""
    shard_adapter: bool = True
    """in a sharded run, spread the adapter and its optimizer state over the devices, too; false: only the base"""


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """LoRA of the base's UNet, trained beside the adapter."""

    rank: int = 0
    """rank of the low-rank updates; 0: the base is not changed"""
    alpha: float | None = None
    """scale of the updates times the rank; None: the rank"""
    target_modules: Sequence[str] = ("to_q", "to_k", "to_v", "to_out.0")
    """names of the layers that are updated, or their last parts"""

    def __post_init__(self) -> None:
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 0:
            raise ValueError(f"lora.rank must be a whole number of at least 0; got {self.rank}.")
        if self.alpha is not None and not self.alpha > 0:
            raise ValueError(f"lora.alpha must be above 0; got {self.alpha}.")
        if not self.target_modules:
            raise ValueError("lora.target_modules must name at least one layer; got none.")
        if not self.rank:
            _check_defaults("lora", self, ("alpha", "target_modules"), "lora.rank is 0")


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Timesteps, noise and noise schedule of the training loss; the defaults are the paper's."""

    timestep_sampling: TimestepSampling = "uniform"
    """distribution of the training timesteps: uniform, or logit_normal or mode as in diffusers; validation stays
    uniform"""
    logit_mean: float = 0.0
    """mean of logit_normal; above 0: noisier timesteps"""
    logit_std: float = 1.0
    """standard deviation of logit_normal, above 0"""
    mode_scale: float = 1.29
    """scale of mode, from -1 to 1.75: above 0 prefers the middle of the schedule"""
    offset_noise: float = 0.0
    """weight of noise that is constant over a channel of a view, such as 0.1, for darker and brighter images; not in
    validation"""
    zero_terminal_snr: bool = False
    """rescale the noise schedule to an SNR of zero at the last timestep, in training and sampling; the model folder
    stores it; only for bases that predict v or x0"""

    def __post_init__(self) -> None:
        if self.timestep_sampling not in get_args(TimestepSampling):
            names = ", ".join(get_args(TimestepSampling))
            raise ValueError(f"loss.timestep_sampling must be one of {names}; got {self.timestep_sampling!r}.")
        if not self.logit_std > 0:
            raise ValueError(f"loss.logit_std must be above 0; got {self.logit_std}.")
        if not -1 <= self.mode_scale <= 1.75:  # beyond, the map from uniform numbers is not monotonic (Esser et al.)
            raise ValueError(f"loss.mode_scale must be from -1 to 1.75; got {self.mode_scale}.")
        if not self.offset_noise >= 0:
            raise ValueError(f"loss.offset_noise must be at least 0; got {self.offset_noise}.")
        of_kind = {"logit_normal": ("logit_mean", "logit_std"), "mode": ("mode_scale",)}
        for kind, names in of_kind.items():
            if kind != self.timestep_sampling:
                _check_defaults("loss", self, names, f"loss.timestep_sampling is {self.timestep_sampling}")


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """Caches for outputs of the frozen base model."""

    dir: str | None = None
    """folder for cached text embeddings and latents; None: no cache"""
    latents: bool = False
    """cache latents too; pays off only if the same views recur, for example with yaws from a list"""
    encoded_data: bool = False
    """load neither autoencoder nor text encoder, since the data are shards of latents (mvdiff data shard --what
    latents)"""
    text_only: bool = False
    """take all text embeddings from dir and never load the text encoder; fill it before with mvdiff data cache-text"""
    geometry_bytes: int = 2 * 2**30
    """limit in bytes of the memory that caches correspondences between views"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dir", expanded_values(self.dir))
        if self.latents and self.dir is None:
            raise ValueError("cache.dir must be a folder when cache.latents is true; got null.")
        if self.text_only and self.dir is None:
            raise ValueError("cache.dir must be a folder when cache.text_only is true; got null.")
        if self.encoded_data and self.dir is not None:
            raise ValueError(f"cache.dir must be null when cache.encoded_data is true; got {self.dir}.")
        if self.geometry_bytes < 0:
            raise ValueError(f"cache.geometry_bytes must be at least 0; got {self.geometry_bytes}.")


@dataclass(frozen=True, kw_only=True)
class ShardSettings:
    """Reading of shards (`mvdiff data shard`), where `root` is a folder or an address of some."""

    cache_dir: str | None = None
    """folder that keeps what was read from an address, or a folder of a network file system, for any number of jobs;
    None: nothing is kept"""
    cache_size: str | int = "50GB"
    """largest size of cache_dir; the shards that were used least recently are removed first"""
    read_ahead: str | int = "0"
    """fetch shards into cache_dir in pieces of this size, at most 64 MiB; processes with the same cache_dir fetch each
    piece once. Use it where one machine reads whole blocks, see shuffle_block. 0: fetch sample by sample"""
    retries: int = 4
    """how often a request that fails, or gives bytes of another checksum, is repeated"""
    timeout: float = 60.0
    """seconds that a request may take"""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """options of fsspec's file system for the address, such as {"anon": true}"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cache_dir", expanded_values(self.cache_dir))
        for name in ("cache_size", "read_ahead"):
            parse_size(name, getattr(self, name))
        if self.cache_dir is None and parse_size("read_ahead", self.read_ahead):
            raise ValueError(f"cache_dir must be a folder when read_ahead is {self.read_ahead}; got null.")
        if self.retries < 0:
            raise ValueError(f"retries must be at least 0; got {self.retries}.")
        if not self.timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds; got {self.timeout}.")


@dataclass(frozen=True, kw_only=True)
class PanoramaPictures:
    """Extra files."""

    format: PictureFormat = "png"
    """jpg or webp: also write panorama.jpg or .webp; --crop and --cube_faces use this format"""
    crop: bool = False
    """also write panorama_cropped.png: only the rows covered by views all the way around, with XMP metadata for
    360-degree viewers"""
    cube_faces: bool = False
    """also write the six faces of a cube: cube/front, right, back, left, up and down, in the format of --format; parts
    that no view covers are grey"""


def _check_defaults(group: str, settings: Any, names: Sequence[str], since: str) -> None:
    """Raise ValueError if a setting that others switch off has another value than its default."""
    defaults = {one.name: one.default for one in fields(settings)}
    for name in names:
        value = getattr(settings, name)
        value = tuple(value) if isinstance(value, list) else value
        if value != defaults[name]:
            raise ValueError(f"{group}.{name} must be left out where {since}; got {value}.")


def plain(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as a dict of plain values, for checkpoints."""
    return asdict(settings)


def settings_from(kind: type[T], value: Any) -> T:
    """Build a settings dataclass from the plain values of a checkpoint; an instance of `kind` is returned as it is.

    Raises:
        ValueError: The value is neither a `kind` nor a mapping of its fields.
    """
    if isinstance(value, kind):
        return value
    known = [field.name for field in fields(kind)]
    if not isinstance(value, Mapping) or not set(value) <= set(known):
        raise ValueError(f"{kind.__name__} must be a mapping of {', '.join(known)}; got {value!r}.")
    return kind(**value)
