"""The base model: autoencoder, text encoder, tokenizer, UNet and scheduler of a Stable-Diffusion-shaped folder."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from diffusers import DDIMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mvdiff.models.autoencoder import autoencoder_stride, decode_latents, encode_images, load_autoencoder
from mvdiff.models.loading import (
    PACKAGED,
    build_from_config,
    forget_source,
    load_strictly,
    opening,
    packaged_folder,
    part_folders,
    read_object,
    resolve_folder,
)
from mvdiff.models.schedulers import scheduler_class

_PARTS = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
_WEIGHTS = ("unet", "text_encoder", "vae")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_PATTERNS = ["model_index.json", *(f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "txt", "safetensors"))]


class Backbone(nn.Module):
    """Everything a base model is made of, in one module.

    Args:
        vae: A diffusers autoencoder, variational (AutoencoderKL) or not (AutoencoderTiny).
        text_encoder: Maps token ids to hidden states.
        tokenizer: The text encoder's.
        unet: The denoiser.
        scheduler: Its training noise schedule; any diffusers scheduler made from this one's config can sample.
    """

    def __init__(
        self,
        vae: nn.Module,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
    ) -> None:
        super().__init__()
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.unet = unet
        self.scheduler = scheduler
        self._hashes: dict[str, str] = {}

    @property
    def vae_stride(self) -> int:
        """Pixels per latent cell."""
        return autoencoder_stride(self.vae)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.vae.config.latent_channels

    def freeze(self) -> Backbone:
        """Take all gradients away and set evaluation mode."""
        return self.requires_grad_(False).eval()

    def encode_images(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Encode images [N, 3, H, W] in [-1, 1] to scaled latents (see `autoencoder.encode_images`)."""
        return encode_images(self.vae, images, generator)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode scaled latents [N, C, h, w] to images [N, 3, H, W] in [-1, 1]."""
        return decode_latents(self.vae, latents)

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Embed N prompts, padded or cut to the tokenizer's length: [N, L, D] in the text encoder's dtype."""
        length = {"padding": "max_length", "truncation": True, "max_length": self.tokenizer.model_max_length}
        tokens = self.tokenizer(prompts, return_tensors="pt", **length)
        device = self.text_encoder.device
        device = "cpu" if device.type == "meta" else device  # CPU offload: hooks move the input with the weights
        uses_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if uses_mask else None
        return self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]

    def set_text_dtype(self, dtype: torch.dtype) -> None:
        """Run the text encoder in a precision of its own; the hash stays that of its weights as they were opened."""
        self.weights_hashes(["text_encoder"])
        self.text_encoder.to(dtype)

    def weights_hashes(self, parts: Iterable[str] = _WEIGHTS) -> dict[str, str]:
        """Hash unet, text_encoder and vae: blake2b over name, shape and float32 values of each tensor, in name order.

        Weights opened in another precision that holds them exactly have the same hash. Each hash is computed once and
        kept: ask for it when the weights are final.
        """
        for part in parts:
            if part not in self._hashes:
                self._hashes[part] = _hash_weights(getattr(self, part))
        return {part: self._hashes[part] for part in parts}

    def weights_hash(self) -> str:
        """Return one hash for the whole base: that of its parts' hashes."""
        text = "".join(f"{part}={value};" for part, value in self.weights_hashes().items())
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a diffusers folder that `StableDiffusionPipeline.from_pretrained` and `load_backbone` open.

        The weights are written in `dtype`; None: as they are.
        """
        parts = {name: getattr(self, name) for name in _PARTS}
        if dtype is not None:
            parts |= {name: copy.deepcopy(parts[name]).to(dtype) for name in _WEIGHTS}
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        pipeline.save_pretrained(str(folder))
        for part in ("unet", "vae"):
            forget_source(Path(folder) / part / "config.json")


def resolve_base(name: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a base model.

    Args:
        name: "mvdiff://NAME" for a packaged base, a local folder, or a hub id, which is downloaded unless cached.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: There is no such base; the text says what to download and where to put it.
    """
    if str(name).startswith(PACKAGED):
        return packaged_folder(str(name), "base", "unet")
    return resolve_folder(name, revision, "base", _PATTERNS)


def base_parts(name: str | Path, revision: str | None = None) -> dict[str, Path]:
    """Return the folder of each part of a base by the part's name; arguments and errors as for `resolve_base`.

    A part that the base lacks has a folder that does not exist.
    """
    return part_folders(resolve_base(name, revision), _PARTS)


def load_backbone(
    pretrained_model_name_or_path: str | Path,
    revision: str | None = None,
    vae: str | Path | None = None,
    dtype: torch.dtype | None = None,
    without_weights: Collection[str] = (),
) -> Backbone:
    """Open a base model, frozen.

    The base has the shape of Stable Diffusion 1 or 2, with any text width, heads, prediction type and input channels.
    The scheduler is DDIM (the paper's) on the noise schedule of the base's own scheduler config. fp16 variants are
    opened where there are no other weights. Parts that a packaged base shares with another come from there (see
    `loading.part_folders`).

    Args:
        pretrained_model_name_or_path: Folder, hub id or packaged name, see `resolve_base`.
        revision: Revision on the hub.
        vae: Another autoencoder (folder or hub id, see `load_autoencoder`); default: the base's own.
        dtype: Weight precision; default float32.
        without_weights: Parts (of unet, text_encoder, vae) whose weights the caller has: only their config.json is
            read, and they are random.

    Raises:
        FileNotFoundError: The base, or a part of it, is missing.
        ValueError: The base is of another kind, such as Stable Diffusion XL, a file of it cannot be read or belongs to
            another model, or its parts do not fit each other.
    """
    folder = resolve_base(pretrained_model_name_or_path, revision)
    parts = part_folders(folder, _PARTS)
    _check_kind(folder)
    missing = [part for part, path in parts.items() if not path.is_dir() and not (part == "vae" and vae is not None)]
    if missing:
        raise FileNotFoundError(
            f"base must be a diffusers folder with {', '.join(_PARTS)}; got no {', '.join(missing)}, in {folder}."
        )

    def opened(part: str, model_class: type[nn.Module]) -> nn.Module:
        if part in without_weights:
            return build_from_config(model_class, parts[part])
        return load_strictly(model_class, parts[part], dtype)

    backbone = Backbone(  # what is small first
        scheduler=_ddim(parts["scheduler"] / "scheduler_config.json"),
        tokenizer=_load_tokenizer(parts["tokenizer"]),
        vae=load_autoencoder(
            parts["vae"] if vae is None else vae, dtype=dtype, with_weights="vae" not in without_weights
        ),
        text_encoder=opened("text_encoder", CLIPTextModel),
        unet=opened("unet", UNet2DConditionModel),
    )
    check_parts_fit(backbone, folder)
    return backbone.freeze()


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Open a tokenizer, which without its files would be one of the end markers alone."""
    if not (folder / "tokenizer.json").is_file() and not all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    ):
        raise FileNotFoundError(
            f"tokenizer must be a folder with tokenizer.json, or vocab.json and merges.txt; got neither, in {folder}."
        )
    with opening("tokenizer", "CLIPTokenizer", folder):
        return CLIPTokenizer.from_pretrained(str(folder))


def check_parts_fit(backbone: Backbone, folder: Path | str) -> None:
    """Raise ValueError, naming `folder`, where one part of a base gives what another cannot take."""
    tokenizer, text, unet = backbone.tokenizer, backbone.text_encoder.config, backbone.unet.config
    special = len(tokenizer.all_special_ids)
    if not special < len(tokenizer) <= text.vocab_size:
        raise ValueError(
            f"tokenizer of the base must have more than its {special} end markers and at most the {text.vocab_size} "
            f"tokens of the text encoder's vocab_size; got {len(tokenizer)}, in {folder}."
        )
    if tokenizer.model_max_length > text.max_position_embeddings:
        raise ValueError(
            "model_max_length of the base's tokenizer must be at most the text encoder's max_position_embeddings, "
            f"{text.max_position_embeddings}; got {tokenizer.model_max_length}, in {folder}. Copy its "
            "tokenizer_config.json as well, or correct it there."
        )
    widths = unet.cross_attention_dim
    widths = [widths] if isinstance(widths, int) else list(widths)
    if any(width != text.hidden_size for width in widths):
        raise ValueError(
            f"cross_attention_dim of the base's UNet must be the text encoder's hidden_size, {text.hidden_size}; got "
            f"{unet.cross_attention_dim}, in {folder}."
        )
    if unet.out_channels != backbone.latent_channels:
        raise ValueError(
            "out_channels of the base's UNet must be the autoencoder's latent channels, "
            f"{backbone.latent_channels}; got {unet.out_channels}, in {folder}."
        )


def _check_kind(folder: Path) -> None:
    """Raise ValueError where model_index.json tells of parts that a Stable-Diffusion-1 or -2-shaped base has not."""
    path = folder / "model_index.json"
    index = read_object(path) if path.is_file() else {}
    foreign = [part for part in ("text_encoder_2", "transformer", "prior") if any(index.get(part) or ())]
    if foreign:
        raise ValueError(
            f"base must be of the shape of Stable Diffusion 1 or 2; got a {index.get('_class_name', 'pipeline')} with "
            f"{', '.join(foreign)}, in {folder}."
        )


def _ddim(path: Path) -> DDIMScheduler:
    """Make DDIM of any scheduler's config, spelling out what other classes do without a setting."""
    config = read_object(path)
    try:
        scheduler_class(str(config.get("_class_name")))
    except ValueError as error:
        raise ValueError(
            "_class_name of the base's scheduler must be one of diffusers' that samples from discrete betas, as "
            f"PNDMScheduler; got {config.get('_class_name')!r}, in {path}."
        ) from error
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(
            f"prediction_type of the base must be one of {', '.join(_PREDICTIONS)}; got {prediction!r}, in {path}."
        )
    unsaid = {"clip_sample": False}
    if config["_class_name"] == "PNDMScheduler":
        unsaid["set_alpha_to_one"] = False
    with opening("scheduler", "DDIMScheduler", path):
        return DDIMScheduler.from_config(unsaid | config)


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(f"{name}{list(values.shape)}".encode())
        digest.update(values.contiguous().numpy())
    return digest.hexdigest()
