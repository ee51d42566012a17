"""Find the family of a base's folder, and load the parts of bases other than Stable Diffusion 1 and 2."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from torch import nn
from transformers import AutoTokenizer

from mvdiff.class_paths import resolve_class
from mvdiff.flow import FLOW_SCHEDULERS
from mvdiff.hub_models import open_transformers
from mvdiff.models.absent import AbsentPart
from mvdiff.models.autoencoder import load_autoencoder
from mvdiff.models.bases.base import Base
from mvdiff.models.bases.sana import SanaBase
from mvdiff.models.bases.sd3 import StableDiffusion3Base
from mvdiff.models.bases.sdxl import StableDiffusionXLBase
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.models.bases.text_encoders import TextEncoders, Tokenizers
from mvdiff.models.bases.z_image import ZImageBase
from mvdiff.models.loading import build_from_config, load_strictly, opening, part_folders, read_object
from mvdiff.models.schedulers import build_scheduler, ddim_defaults, scheduler_class, takes

FAMILIES: tuple[type[Base], ...] = (StableDiffusionXLBase, SanaBase, StableDiffusion3Base, ZImageBase)
"""Families of this package, beside Stable Diffusion 1 and 2."""
NETWORK_FOLDERS = ("transformer", "unet")
_OTHER_LEVELS = (
    "shift_terminal",
    "stochastic_sampling",
    "invert_sigmas",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
)
"""Settings of schedulers of flow matching that change noise levels or steps, and are not taken."""


def family_of(folder: Path, class_path: str | None = None) -> type[Base]:
    """Return the family of a base's folder.

    Args:
        folder: Folder of the base; `_class_name` in the config of its network says the family.
        class_path: Class path of a family outside the package; None: one of the package.

    Raises:
        ValueError: No family of the package has this network, or the class path is not that of a `Base`.
    """
    if class_path is not None:
        return resolve_class(class_path, Base)
    network = next((folder / name for name in NETWORK_FOLDERS if (folder / name).is_dir()), None)
    config = {} if network is None or not (network / "config.json").is_file() else read_object(network / "config.json")
    if network is None or network.name == "unet":
        return StableDiffusionXLBase if config.get("addition_embed_type") == "text_time" else StableDiffusionBase
    name = config.get("_class_name")
    for family in FAMILIES:
        if family.network_class.__name__ == name:
            return family
    names = ", ".join(family.network_class.__name__ for family in FAMILIES)
    raise ValueError(
        f"base must have a network among UNet2DConditionModel, {names}; got {name!r}, in {network}. For another "
        "network, write a family of your own and name it in model.family (docs/extend.md)."
    )


def family_of_network(network: nn.Module) -> type[Base]:
    """Return the family of the package for a network.

    Raises:
        ValueError: No family of the package has this network.
    """
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    if isinstance(network, UNet2DConditionModel):
        sized = network.config.addition_embed_type == "text_time"
        return StableDiffusionXLBase if sized else StableDiffusionBase
    for family in FAMILIES:
        if isinstance(network, family.network_class):
            return family
    raise ValueError(
        f"network must be one of a family of the package; got {type(network).__name__}. Make the pipeline of a base of "
        "another family by from_backbone."
    )


def load_family(
    family: type[Base],
    folder: Path,
    vae_folder: Path | None = None,
    dtype: torch.dtype | None = None,
    without_weights: Collection[str] = (),
    absent: Mapping[str, str] | None = None,
) -> Base:
    """Load a base of a family onto the CPU; for the arguments and errors see `backbone.load_backbone`.

    Args:
        family: The family.
        folder: Folder of the base.
        vae_folder: Folder of another autoencoder.
    """
    absent = absent or {}
    optional = set(family.optional_parts)
    encoders = {
        name: classes
        for name, classes in family.text_classes.items()
        if (folder / name).is_dir() or name not in optional
    }
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in encoders]
    network = next((name for name in NETWORK_FOLDERS if (folder / name).is_dir()), NETWORK_FOLDERS[0])
    needed = [network, *encoders, *tokenizers, "scheduler", *(["vae"] if vae_folder is None else [])]
    parts = part_folders(folder, {*needed, "vae"})
    missing = [name for name in needed if not parts[name].is_dir()]
    if missing:
        raise FileNotFoundError(
            f"base must be a diffusers folder with {', '.join(needed)}; got no {', '.join(missing)}, in {folder}."
        )
    index = read_object(folder / "model_index.json") if (folder / "model_index.json").is_file() else {}
    vae_folder = parts["vae"] if vae_folder is None else vae_folder
    opened_tokenizers = {name: _tokenizer(parts[name]) for name in tokenizers}
    many = len(family.text_classes) > 1

    def text_encoder(name: str) -> nn.Module:
        kind = getattr(transformers, _named(index.get(name), encoders[name]))
        if "text_encoder" in absent:
            with torch.device("meta"):
                return build_from_config(kind, parts[name])
        if "text_encoder" in without_weights:
            return build_from_config(kind, parts[name])
        return load_strictly(kind, parts[name], dtype)

    opened = {name: text_encoder(name) for name in encoders}
    text: nn.Module = TextEncoders(opened) if many else opened["text_encoder"]
    if "text_encoder" in absent:
        configs = AbsentEncoders({name: AbsentPart(name, encoder.config) for name, encoder in opened.items()})
        text = configs if many else AbsentPart("text_encoder", opened["text_encoder"].config)
    if "vae" in absent:
        with torch.device("meta"):
            vae: nn.Module = AbsentPart("vae", load_autoencoder(vae_folder, with_weights=False).config)
    else:
        vae = load_autoencoder(vae_folder, dtype=dtype, with_weights="vae" not in without_weights)
    kind = family.network_class
    unet = (
        build_from_config(kind, folder / network)
        if "unet" in without_weights
        else load_strictly(kind, folder / network, dtype)
    )
    base = family(
        vae,
        text,
        Tokenizers(opened_tokenizers) if many else opened_tokenizers["tokenizer"],
        unet,
        own_scheduler(parts["scheduler"] / "scheduler_config.json"),
    )
    for name in family.index_settings:
        value = index.get(name, getattr(family, name))
        if not isinstance(value, bool):
            raise ValueError(f"{name} of the base must be true or false; got {value!r}, in {folder}/model_index.json.")
        setattr(base, name, value)
    base.check_fit(folder)
    base._hashes |= absent
    return base


class AbsentEncoders(AbsentPart):
    """Stands in for several text encoders, see `AbsentPart`; `encoders` have configs alone."""

    def __init__(self, encoders: dict[str, AbsentPart]) -> None:
        super().__init__("text_encoder", next(iter(encoders.values())).config)
        self.encoders = encoders


def own_scheduler(path: Path) -> Any:
    """Build the scheduler that a base is trained and, unless another is chosen, sampled with.

    It is DDIM for discrete betas, and FlowMatchEuler for flow matching, with the shift of the base's own scheduler,
    whatever its class (SANA has DPMSolverMultistep with `use_flow_sigmas` and `flow_shift`).

    Raises:
        ValueError: The config is not that of a scheduler, its shift depends on the size of the image, or it has other
            noise levels or steps of flow matching than `shift` alone gives.
    """
    config = read_object(path)
    name = str(config.get("_class_name"))
    kind = scheduler_class(name)
    if kind not in FLOW_SCHEDULERS and not config.get("use_flow_sigmas"):
        own = {setting: value for setting, value in config.items() if takes(DDIMScheduler, setting)}
        return build_scheduler(DDIMScheduler, ddim_defaults(name) | own, path)
    if config.get("use_dynamic_shifting"):
        raise ValueError(f"use_dynamic_shifting of the base's scheduler must be false, and shift a number; in {path}.")
    for setting in _OTHER_LEVELS:
        if config.get(setting):
            raise ValueError(
                f"{setting} of the base's scheduler must be left out for flow matching; got {config[setting]!r}, in "
                f"{path}."
            )
    settings = {
        "num_train_timesteps": config.get("num_train_timesteps", 1000),
        "shift": config.get("shift", config.get("flow_shift", 1.0)),
    }
    return build_scheduler(FlowMatchEulerDiscreteScheduler, settings, path)


def _named(entry: Any, classes: tuple[str, ...]) -> str:
    """Return the class that model_index.json names, if the family has it, else the family's first."""
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    return name if name in classes else classes[0]


def _tokenizer(folder: Path) -> Any:
    with opening("tokenizer", "tokenizer", folder):
        tokenizer = open_transformers(AutoTokenizer, folder)
        if len(tokenizer) <= len(tokenizer.all_special_ids):
            raise ValueError("it has special tokens only")
    return tokenizer


def family_path(family: type[Base]) -> str | None:
    """Return the class path of a family outside the package, to be recorded; None for one of the package."""
    return None if family.__module__.split(".")[0] == "mvdiff" else f"{family.__module__}.{family.__qualname__}"
