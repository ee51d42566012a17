"""The base model: autoencoder, text encoder, tokenizer, UNet and scheduler of a Stable-Diffusion-shaped folder."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path

import torch
from diffusers import DDIMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mvdiff.files.writing import whole_folder
from mvdiff.hub_models import open_transformers, snapshot_commit
from mvdiff.models.absent import AbsentPart
from mvdiff.models.autoencoder import (
    VAE_PATTERNS,
    autoencoder_stride,
    decode_latents,
    encode_images,
    load_autoencoder,
)
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
from mvdiff.models.schedulers import build_scheduler, scheduler_class

_PARTS = ("unet", "text_encoder", "vae", "tokenizer", "scheduler")
_WEIGHTS = ("unet", "text_encoder", "vae")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_PATTERNS = ["model_index.json", *(f"{part}/*.{kind}" for part in _PARTS for kind in ("json", "txt", "safetensors"))]


class Backbone(nn.Module):
    """The parts of a base model as one module.

    Args:
        vae: Diffusers autoencoder, variational (AutoencoderKL) or deterministic (AutoencoderTiny).
        text_encoder: Maps token ids [N, L] to hidden states [N, L, D].
        tokenizer: Tokenizer of the text encoder.
        unet: Denoising UNet.
        scheduler: Noise schedule that the UNet was trained with; any diffusers scheduler built from its config can
            sample.

    Attributes:
        commit: Commit of the base on the hub; None for a folder.
        vae_commit: Commit of an autoencoder from another repository of the hub; None for others.
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
        self.commit: str | None = None
        self.vae_commit: str | None = None
        self._hashes: dict[str, str] = {}

    @property
    def vae_stride(self) -> int:
        """Pixels per latent cell along each side."""
        return autoencoder_stride(self.vae)

    @property
    def latent_channels(self) -> int:
        """Number of latent channels."""
        return self.vae.config.latent_channels

    def freeze(self) -> Backbone:
        """Disable gradients and set evaluation mode, in place; return the base."""
        return self.requires_grad_(False).eval()

    def encode_images(self, images: Tensor, generator: torch.Generator | list[torch.Generator] | None = None) -> Tensor:
        """Encode images [N, 3, H, W] in [-1, 1] to scaled latents (see `autoencoder.encode_images`)."""
        return encode_images(self.vae, images, generator)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Decode scaled latents [N, C, h, w] to images [N, 3, H, W] in [-1, 1]."""
        return decode_latents(self.vae, latents)

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Embed N prompts, padded or truncated to the tokenizer's length: [N, L, D] in the text encoder's dtype."""
        length = {"padding": "max_length", "truncation": True, "max_length": self.tokenizer.model_max_length}
        tokens = self.tokenizer(prompts, return_tensors="pt", **length)
        device = self.text_encoder.device
        if device.type == "meta":
            device = torch.device("cpu")  # under CPU offload, hooks move the input to the weights
        uses_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if uses_mask else None
        own_precision = self.text_encoder.dtype != torch.float32  # autocast is for float32 weights
        with torch.autocast(device.type, enabled=False) if own_precision else nullcontext():
            return self.text_encoder(tokens.input_ids.to(device), attention_mask=mask)[0]

    def set_text_dtype(self, dtype: torch.dtype) -> None:
        """Run the text encoder in a precision of its own; the hash stays that of its weights as they were opened."""
        self.weights_hashes(["text_encoder"])
        self.text_encoder.to(dtype)

    def weights_hashes(self, parts: Iterable[str] = _WEIGHTS) -> dict[str, str]:
        """Return a hash of each part's weights: blake2b over names, shapes and float32 values, in name order.

        The hash does not depend on the precision of the weights as long as it represents them exactly. Hashes are
        cached, so call this only when the weights are final.
        """
        for part in parts:
            if part not in self._hashes:
                self._hashes[part] = _hash_weights(getattr(self, part))
        return {part: self._hashes[part] for part in parts}

    def weights_hash(self) -> str:
        """Return one hash of the whole base, computed from `weights_hashes`."""
        text = "".join(f"{part}={value};" for part, value in self.weights_hashes().items())
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write a diffusers folder that `StableDiffusionPipeline.from_pretrained` and `load_backbone` can load.

        Args:
            folder: Output folder.
            dtype: Precision of the written weights; None: unchanged.
        """
        parts = {name: getattr(self, name) for name in _PARTS}
        if dtype is not None:
            parts |= {name: copy.deepcopy(parts[name]).to(dtype) for name in _WEIGHTS}
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
        with whole_folder(Path(folder)) as new:
            pipeline.save_pretrained(str(new))
            for part in ("unet", "vae"):
                forget_source(new / part / "config.json")


def resolve_base(name: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a base model.

    Args:
        name: "mvdiff://NAME" for a packaged base, a local folder, or a hub id, which is downloaded unless cached.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: The base is neither local nor downloadable; the message says how to fetch it.
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
    absent: Mapping[str, str] | None = None,
) -> Backbone:
    """Load a base model onto the CPU and freeze it.

    The base must have the architecture of Stable Diffusion 1 or 2, with any text width, heads, prediction type and
    input channels. The scheduler is DDIM (as in the paper) with the noise schedule of the base's scheduler config. fp16
    variants are loaded if there are no other weights. A packaged base may share parts with another, see
    `loading.part_folders`.

    Args:
        pretrained_model_name_or_path: Folder, hub id or packaged name, see `resolve_base`.
        revision: Branch, tag or commit on the hub, see `loading.resolve_folder`.
        vae: Another autoencoder (folder, hub id or "owner/name@revision"); default: the base's own.
        dtype: Weight precision; default float32.
        without_weights: Parts (of unet, text_encoder, vae) whose weights the caller has: only their config.json is
            read, and they are random.
        absent: Parts (vae, text_encoder) that the caller does without, with the hashes of their weights: only their
            config.json is read, and using them is an error.

    Raises:
        FileNotFoundError: The base or a part of it is missing.
        ValueError: The base has another architecture, such as Stable Diffusion XL; a file cannot be read or belongs to
            another model; or the parts do not fit each other.
    """
    folder = resolve_base(pretrained_model_name_or_path, revision)
    parts = part_folders(folder, _PARTS)
    _check_kind(folder)
    vae_folder = parts["vae"] if vae is None else resolve_folder(vae, None, "vae", VAE_PATTERNS)
    missing = [part for part, path in parts.items() if not path.is_dir() and not (part == "vae" and vae is not None)]
    if missing:
        raise FileNotFoundError(
            f"base must be a diffusers folder with {', '.join(_PARTS)}; got no {', '.join(missing)}, in {folder}."
        )

    absent = absent or {}

    def opened(part: str, model_class: type[nn.Module]) -> nn.Module:
        if part in absent:
            with torch.device("meta"):
                return AbsentPart(part, build_from_config(model_class, parts[part]).config)
        if part in without_weights:
            return build_from_config(model_class, parts[part])
        return load_strictly(model_class, parts[part], dtype)

    def opened_vae() -> nn.Module:
        if "vae" in absent:
            with torch.device("meta"):
                return AbsentPart("vae", load_autoencoder(vae_folder, with_weights=False).config)
        return load_autoencoder(vae_folder, dtype=dtype, with_weights="vae" not in without_weights)

    backbone = Backbone(  # small parts first, so that their errors come before the large weights are read
        scheduler=_ddim(parts["scheduler"] / "scheduler_config.json"),
        tokenizer=_load_tokenizer(parts["tokenizer"]),
        vae=opened_vae(),
        text_encoder=opened("text_encoder", CLIPTextModel),
        unet=opened("unet", UNet2DConditionModel),
    )
    check_parts_fit(backbone, folder)
    backbone._hashes |= absent
    backbone.commit = snapshot_commit(folder)
    backbone.vae_commit = None if vae is None else snapshot_commit(vae_folder)
    return backbone.freeze()


def _load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Load a tokenizer; without its files, transformers would silently make one of special tokens only."""
    if not (folder / "tokenizer.json").is_file() and not all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt")
    ):
        raise FileNotFoundError(
            f"tokenizer must have tokenizer.json, or vocab.json and merges.txt; got neither, in {folder}."
        )
    with opening("tokenizer", "CLIPTokenizer", folder):
        tokenizer = open_transformers(CLIPTokenizer, folder)
    length = tokenizer.model_max_length
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ValueError(f"model_max_length of a tokenizer must be a whole number; got {length!r}, in {folder}.")
    return tokenizer


def check_parts_fit(backbone: Backbone, folder: Path | str) -> None:
    """Raise ValueError if the tokenizer, text encoder, UNet and autoencoder of a base do not fit each other.

    Args:
        backbone: The base.
        folder: Folder of the base, for error messages.
    """
    tokenizer, text, unet = backbone.tokenizer, backbone.text_encoder.config, backbone.unet.config
    special = len(tokenizer.all_special_ids)
    if not special < len(tokenizer) <= text.vocab_size:
        raise ValueError(
            f"tokenizer of the base must have more than its {special} special tokens and at most {text.vocab_size} "
            f"tokens, the text encoder's vocab_size; got {len(tokenizer)}, in {folder}."
        )
    if tokenizer.model_max_length > text.max_position_embeddings:
        raise ValueError(
            "model_max_length of the base's tokenizer must be at most the text encoder's max_position_embeddings, "
            f"{text.max_position_embeddings}; got {tokenizer.model_max_length}, in {folder}. Copy the tokenizer's "
            "tokenizer_config.json too, or correct it."
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
    """Raise ValueError if model_index.json lists parts that Stable Diffusion 1 and 2 do not have."""
    path = folder / "model_index.json"
    index = read_object(path) if path.is_file() else {}
    foreign = [part for part in ("text_encoder_2", "transformer", "prior") if any(index.get(part) or ())]
    if foreign:
        raise ValueError(
            "base must have the architecture of Stable Diffusion 1 or 2; got a "
            f"{index.get('_class_name', 'pipeline')} with {', '.join(foreign)}, in {folder}."
        )


def _ddim(path: Path) -> DDIMScheduler:
    """Build DDIM from any scheduler's config, adding as settings what other classes do by default."""
    config = read_object(path)
    try:
        scheduler_class(str(config.get("_class_name")))
    except ValueError as error:
        raise ValueError(
            "_class_name of the base's scheduler must be a diffusers scheduler with discrete betas, such as "
            f"PNDMScheduler; got {config.get('_class_name')!r}, in {path}."
        ) from error
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ValueError(
            f"prediction_type of the base must be one of {', '.join(_PREDICTIONS)}; got {prediction!r}, in {path}."
        )
    defaults = {"clip_sample": False}
    if config["_class_name"] == "PNDMScheduler":
        defaults["set_alpha_to_one"] = False
    return build_scheduler(DDIMScheduler, defaults | config, path)


def _hash_weights(module: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        digest.update(f"{name}{list(values.shape)}".encode())
        digest.update(values.contiguous().numpy())
    return digest.hexdigest()
