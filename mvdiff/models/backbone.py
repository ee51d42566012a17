"""The base model: autoencoder, text encoder, tokenizer, UNet and scheduler of a Stable-Diffusion-shaped folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from mvdiff.flow import FLOW_SCHEDULERS
from mvdiff.hub_models import open_transformers, snapshot_commit
from mvdiff.models.absent import AbsentPart
from mvdiff.models.autoencoder import VAE_PATTERNS, load_autoencoder
from mvdiff.models.bases.base import Base, hash_weights
from mvdiff.models.bases.opening import NETWORK_FOLDERS, family_of, load_family
from mvdiff.models.bases.stable_diffusion import PARTS, StableDiffusionBase, check_no_guidance_input
from mvdiff.models.loading import (
    PACKAGED,
    build_from_config,
    load_strictly,
    opening,
    packaged_folder,
    part_folders,
    read_object,
    resolve_folder,
)
from mvdiff.models.schedulers import build_scheduler, ddim_defaults, scheduler_class

_PREDICTIONS = ("epsilon", "v_prediction", "sample")
_FOLDERS = (*PARTS, "transformer", "text_encoder_2", "text_encoder_3", "tokenizer_2", "tokenizer_3")
_KINDS = ("json", "txt", "safetensors", "model", "jinja")  # those of tokenizers too
_PATTERNS = ["model_index.json", *(f"{part}/*.{kind}" for part in _FOLDERS for kind in _KINDS)]


Backbone = StableDiffusionBase


def resolve_base(name: str | Path, revision: str | None = None) -> Path:
    """Return the local folder of a base model.

    Args:
        name: "mvdiff://NAME" for a packaged base, a local folder, or a hub id, which is downloaded unless cached.
        revision: Branch, tag or commit on the hub.

    Raises:
        FileNotFoundError: The base is neither local nor downloadable; the message says how to fetch it.
    """
    if str(name).startswith(PACKAGED):
        return packaged_folder(str(name), "base", *NETWORK_FOLDERS)
    return resolve_folder(name, revision, "base", _PATTERNS)


def base_parts(name: str | Path, revision: str | None = None) -> dict[str, Path]:
    """Return the folder of each part of a base by the part's name; arguments and errors as for `resolve_base`.

    A part that a base of Stable Diffusion 1 or 2 lacks has a folder that does not exist; of other families, those parts
    are returned that exist.
    """
    folder = resolve_base(name, revision)
    if not any((folder / part).is_dir() for part in ("transformer", "text_encoder_2")):
        return part_folders(folder, PARTS)
    own = [part for part in _FOLDERS if part not in NETWORK_FOLDERS or (folder / part).is_dir()]
    return {part: path for part, path in part_folders(folder, own).items() if path.is_dir()}


def encoder_hashes(
    name: str | Path, revision: str | None = None, vae: str | Path | None = None, family: str | None = None
) -> dict[str, str]:
    """Hash the weights of a base's autoencoder and text encoder, one after the other; none stays in memory.

    A part whose folder has no weight files is left out. For the arguments and further errors see `load_backbone`.

    Raises:
        ValueError: The base is not Stable Diffusion 1 or 2.
    """
    folder = resolve_base(name, revision)
    if family_of(folder, family) is not StableDiffusionBase:
        raise ValueError(f"base must be Stable Diffusion 1 or 2 to train from latents; got another family, {name}.")
    parts = part_folders(folder, PARTS)
    vae_folder = parts["vae"] if vae is None else resolve_folder(vae, None, "vae", VAE_PATTERNS)
    openers = {
        "vae": (vae_folder, load_autoencoder),
        "text_encoder": (parts["text_encoder"], partial(load_strictly, CLIPTextModel)),
    }
    return {part: hash_weights(opened(path)) for part, (path, opened) in openers.items() if _has_weights(path)}


def _has_weights(folder: Path) -> bool:
    return any(path.suffix in (".safetensors", ".bin") for path in folder.rglob("*"))


def load_backbone(
    pretrained_model_name_or_path: str | Path,
    revision: str | None = None,
    vae: str | Path | None = None,
    dtype: torch.dtype | None = None,
    without_weights: Collection[str] = (),
    absent: Mapping[str, str] | None = None,
    family: str | None = None,
) -> Base:
    """Load a base model onto the CPU and freeze it.

    The base is one of Stable Diffusion 1 or 2, with any text width, heads, prediction type and input channels, or of
    another family of `bases.opening`. The scheduler is DDIM (as in the paper) with the noise schedule of the base's
    scheduler config, or FlowMatchEuler for a base of flow matching. fp16 variants are loaded if there are no other
    weights. A packaged base may share parts with another, see `loading.part_folders`.

    Args:
        pretrained_model_name_or_path: Folder, hub id or packaged name, see `resolve_base`.
        revision: Branch, tag or commit on the hub, see `loading.resolve_folder`.
        vae: Another autoencoder (folder, hub id or "owner/name@revision"); default: the base's own.
        dtype: Weight precision; default float32.
        without_weights: Parts (of unet, text_encoder, vae) whose weights the caller has: only their config.json is
            read, and they are random.
        absent: Parts (vae, text_encoder) that the caller does without, with the hashes of their weights: only their
            config.json is read, and using them is an error.
        family: Class path of a family outside the package, see `bases.opening.family_of`; None: as the folder says.

    Raises:
        FileNotFoundError: The base or a part of it is missing.
        ValueError: The base is of no known family; a file cannot be read or belongs to
            another model; or the parts do not fit each other.
    """
    folder = resolve_base(pretrained_model_name_or_path, revision)
    kind = family_of(folder, family)
    if not issubclass(kind, StableDiffusionBase):
        own_vae = None if vae is None else resolve_folder(vae, None, "vae", VAE_PATTERNS)
        base = load_family(kind, folder, own_vae, dtype, without_weights, absent)
        base.commit = snapshot_commit(folder)
        base.vae_commit = None if own_vae is None else snapshot_commit(own_vae)
        return base.freeze()
    parts = part_folders(folder, PARTS)
    _check_kind(folder)
    vae_folder = parts["vae"] if vae is None else resolve_folder(vae, None, "vae", VAE_PATTERNS)
    missing = [part for part, path in parts.items() if not path.is_dir() and not (part == "vae" and vae is not None)]
    if missing:
        raise FileNotFoundError(
            f"base must be a diffusers folder with {', '.join(PARTS)}; got no {', '.join(missing)}, in {folder}."
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

    backbone = kind(  # small parts first, so that their errors come before the large weights are read
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
    check_no_guidance_input(backbone.unet, folder)


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
        if scheduler_class(str(config.get("_class_name"))) in FLOW_SCHEDULERS:
            raise ValueError("a scheduler of flow matching")
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
    return build_scheduler(DDIMScheduler, ddim_defaults(config["_class_name"]) | config, path)
