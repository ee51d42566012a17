"""LoRA for the base: low-rank updates of its UNet and text encoders; the trained attention is not changed."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from textwrap import shorten
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from diffusers.utils.state_dict_utils import StateDictType
from torch import Tensor, nn

from mvdiff.eval.weights import tensors_hash
from mvdiff.files.refusals import UnsafeFile, plain_refusals, plain_text
from mvdiff.models.bases.sdxl import StableDiffusionXLBase
from mvdiff.models.bases.stable_diffusion import UNetBase
from mvdiff.models.bases.text_encoders import TextEncoders
from mvdiff.pipelines.extras import require
from mvdiff.pipelines.lora_files import count_layers, file_tensors

_PROJECTIONS = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2", "text_projection")


def _peft_names(state: dict[str, Any], text_encoder: nn.Module) -> dict[str, Any]:
    """Give the values of a text encoder's LoRA, weights or alphas, the names of peft and of this encoder."""
    if not state:
        return {}
    old = any(re.search(r"to_(q|k|v|out)_lora\.", name) for name in state)  # diffusers looks for to_out alone
    state = convert_state_dict_to_diffusers(state, StateDictType.DIFFUSERS_OLD if old else None)
    inner = "text_model." if "text_model" in dict(text_encoder.named_children()) else ""
    state = {name.removeprefix("text_model."): value for name, value in convert_state_dict_to_peft(state).items()}
    return {name if name.startswith("text_projection") else inner + name: value for name, value in state.items()}


def _unet_alphas(state: dict[str, Tensor], alphas: dict[str, float]) -> dict[str, float]:
    """Return the alpha of every layer of a UNet's LoRA, by the layer's name; without one it is the rank.

    diffusers takes an alpha that most layers share for all of those whose name it does not find, such as `to_q`.
    """
    unet = {name: value for name, value in state.items() if name.startswith("unet.")}
    down = convert_unet_state_dict_to_peft(unet).items()
    ranks = {name.removesuffix(".lora_A.weight"): len(value) for name, value in down if ".lora_A." in name}
    own = convert_unet_state_dict_to_peft({name.removesuffix(".alpha"): alpha for name, alpha in alphas.items()})
    own = {name.removesuffix(".lora_A.weight"): alpha for name, alpha in own.items()}
    return {f"{name}.alpha": own.get(name, rank) for name, rank in ranks.items()}


class LoraOfBase(StableDiffusionLoraLoaderMixin):
    """The LoRA methods of diffusers (`load_lora_weights`, `set_adapters`, `fuse_lora`, ...), with strict loading.

    In method names "adapter" means a LoRA, as in diffusers; the trained attention (`pipeline.adapter`) is not changed.
    A saved model folder refers to the base without its LoRA, and holds the one that was trained with the model, named
    "trained".

    Methods of diffusers take parts of the base by name: `unet`, and `text_encoder`, or for SDXL `text_encoder_1` and
    `text_encoder_2`.
    """

    _fused_loras: tuple[dict[str, Any], ...] | list[dict[str, Any]] = ()

    @property
    def _lora_loadable_modules(self) -> list[str]:
        """Names of the parts that can have a LoRA, which the methods of diffusers look up as attributes."""
        encoders = getattr(self.text_encoder, "encoders", None)
        return ["unet", "text_encoder"] if encoders is None else ["unet", "text_encoder_1", "text_encoder_2"]

    @property
    def text_encoder_1(self) -> nn.Module:
        """The first text encoder of a base that has several."""
        return self.text_encoder.encoders["text_encoder"]

    @property
    def text_encoder_2(self) -> nn.Module:
        """The second text encoder of a base that has several."""
        return self.text_encoder.encoders["text_encoder_2"]

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA for the base's UNet, text encoders, or both; after an error nothing is loaded.

        Args:
            pretrained_model_name_or_path_or_dict: Hub id, folder, file or dict of tensors, in the format of diffusers,
                peft or kohya.
            adapter_name: Name for `set_adapters`; default: "default_0", "default_1", ...
            **kwargs: Arguments of the diffusers method: `weight_name`, `revision`, `subfolder`, ...

        Raises:
            ValueError: peft is not installed, CPU offload is enabled, the file cannot be read, the LoRA does not fit
                the base, or a part of it would not be used (DoRA, LoHa, LoKr, whole weights, other text encoders).
        """
        require("peft", "load_lora_weights")
        if not isinstance(family := self._backbone(), UNetBase):
            raise ValueError(
                f"LoRA files are loaded for bases of Stable Diffusion 1, 2 and XL; got a {type(family).__name__}. "
                "Merge the LoRA into the base with diffusers, and train and generate with the merged base."
            )
        is_sdxl = isinstance(family, StableDiffusionXLBase)
        original = {"unet_config": self.unet.config} if is_sdxl else {}  # to rename blocks of the original code
        if hasattr(self.unet, "_hf_hook"):
            raise ValueError(
                "LoRA must be loaded before CPU offload is enabled; got a pipeline with offloaded weights. Call "
                "remove_all_hooks, load the LoRA, and enable the offload again."
            )
        source = pretrained_model_name_or_path_or_dict
        where = "" if isinstance(source, dict) else f", in {source}"
        before = self.get_list_adapters()
        taken = {name for names in before.values() for name in names}
        free = next(name for name in (f"default_{i}" for i in count()) if name not in taken)
        adapter_name = free if adapter_name is None else adapter_name
        try:
            with plain_refusals("LoRA", source):
                num_layers = count_layers(file_tensors(source, **kwargs), for_sdxl=is_sdxl)
            super().load_lora_weights(source, adapter_name=adapter_name, **original, **kwargs)
            if (found := len(self.lora_layers(adapter_name))) not in (0, num_layers):
                raise ValueError(f"weights for {num_layers} layers, {found} of which the base has")
        except UnsafeFile:
            raise
        except Exception as error:  # diffusers, peft and safetensors raise errors of many kinds
            self._forget_other_loras(before)
            reason = shorten(plain_text(error), 300) or type(error).__name__
            raise ValueError(f"LoRA must be readable and fit the base; got {reason}{where}.") from error
        if self.get_list_adapters() == before:
            raise ValueError(f"LoRA must have weights for the base's unet or text_encoder; got none{where}.")

    @classmethod
    def load_lora_into_unet(
        cls, state_dict: dict[str, Tensor], network_alphas: dict[str, float] | None, unet: nn.Module, **settings: Any
    ) -> None:
        """Load a LoRA into the UNet; `load_lora_weights` calls this with the arguments of diffusers."""
        if network_alphas:
            network_alphas = _unet_alphas(state_dict, network_alphas)
        super().load_lora_into_unet(state_dict, network_alphas, unet, **settings)

    @classmethod
    def load_lora_into_text_encoder(
        cls,
        state_dict: dict[str, Tensor],
        network_alphas: dict[str, float] | None,
        text_encoder: nn.Module,
        prefix: str | None = None,
        adapter_name: str | None = None,
        metadata: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Load a LoRA into each text encoder; `load_lora_weights` calls this with the arguments of diffusers.

        This calls peft directly: diffusers goes through transformers, which may require an unreleased version of peft.

        Raises:
            ValueError: The LoRA has weights for layers that this text encoder does not have.
        """
        if isinstance(text_encoder, TextEncoders):
            for name, encoder in text_encoder.encoders.items():
                cls.load_lora_into_text_encoder(state_dict, network_alphas, encoder, name, adapter_name, metadata)
            return
        prefix = f"{cls.text_encoder_name if prefix is None else prefix}."
        state = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        if not state:
            return
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        state = _peft_names(state, text_encoder)
        names = (name for name, _ in text_encoder.named_modules() if name.endswith(_PROJECTIONS))
        weights = {name: state.get(f"{name}.lora_B.weight") for name in names}
        ranks = {name: weight.shape[1] for name, weight in weights.items() if weight is not None}
        if len(ranks) * 2 != len(state):
            raise ValueError(f"{len(state)} weights for a text encoder, {2 * len(ranks)} of which match its layers")
        if metadata:
            settings = {name.removeprefix(prefix): v for name, v in metadata.items() if name.startswith(prefix)}
        else:
            own = {name: alpha for name, alpha in (network_alphas or {}).items() if name.startswith(prefix)}
            own = {name.removeprefix(prefix).removesuffix(".alpha"): alpha for name, alpha in own.items()}
            own = _peft_names(own, text_encoder)
            alphas = ranks | {name.removesuffix(".lora_A.weight"): alpha for name, alpha in own.items()}
            settings = {"target_modules": list(ranks), "rank_pattern": ranks, "alpha_pattern": alphas}
        config = LoraConfig(**settings)
        inject_adapter_in_model(config, text_encoder, adapter_name=adapter_name)
        text_encoder.peft_config = getattr(text_encoder, "peft_config", {}) | {adapter_name: config}
        set_peft_model_state_dict(text_encoder, state, adapter_name=adapter_name)
        text_encoder.to(device=text_encoder.device, dtype=text_encoder.dtype)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Merge the active LoRAs into the weights, as diffusers does; sample records keep listing them."""
        record = self._active_loras()
        super().fuse_lora(*(args or (self._lora_loadable_modules,)), **kwargs)
        self._fused_loras = [*self._fused_loras, record | {key: repr(value) for key, value in kwargs.items()}]

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Remove merged LoRAs from the weights."""
        super().unfuse_lora(*(args or (self._lora_loadable_modules,)), **kwargs)
        self._fused_loras = []

    def lora_layers(self, adapter_name: str) -> list[str]:
        """Return the names of the layers that a loaded LoRA changes, such as `unet.mid_block...to_q`."""
        parts = {part: getattr(self, part).named_modules() for part in ("unet", "text_encoder")}
        return [
            f"{part}.{place}"
            for part, modules in parts.items()
            for place, layer in modules
            if adapter_name in getattr(layer, "lora_A", ())
        ]

    def lora_settings(self) -> dict[str, Any]:
        """Return, for `sample.json`, the active and merged LoRAs with their scales and weight hashes."""
        active = self._active_loras()
        return ({"lora": active} if active else {}) | ({"fused_lora": self._fused_loras} if self._fused_loras else {})

    def _active_loras(self) -> dict[str, dict[str, Any]]:
        """Return the scales and a weight hash of each LoRA that is active but not merged, by name."""
        tensors, scales = {}, {}
        for part in ("unet", "text_encoder"):
            for place, layer in getattr(self, part).named_modules():
                if not hasattr(layer, "lora_A") or layer.merged or layer.disable_adapters:
                    continue
                for name in set(layer.active_adapters) & layer.lora_A.keys():
                    scales.setdefault(name, set()).add(round(float(layer.scaling[name]), 6))
                    for side in ("lora_A", "lora_B"):
                        tensors.setdefault(name, {})[f"{part}.{place}.{side}"] = getattr(layer, side)[name].weight
        return {
            name: {"scale": sorted(scales[name]), "weights_hash": tensors_hash(tensors[name])[:32]}
            for name in sorted(tensors)
        }

    def _forget_other_loras(self, known: dict[str, list[str]]) -> None:
        """Remove the LoRAs that a failed load has left in a part of the base."""
        if not any(known.values()):
            self.unload_lora_weights()
            return
        loaded = self.get_list_adapters()
        left = {name for part, names in loaded.items() for name in names if name not in known.get(part, [])}
        if left:
            self.delete_adapters(sorted(left))
