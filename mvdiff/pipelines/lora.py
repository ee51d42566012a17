"""LoRA for the base: low-rank updates of its UNet and text encoder; the trained attention is not changed."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from textwrap import shorten
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import _fetch_state_dict
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from diffusers.utils.state_dict_utils import StateDictType
from torch import Tensor, nn

from mvdiff.eval.weights import tensors_hash
from mvdiff.files.refusals import UnsafeFile, plain_refusals, plain_text
from mvdiff.models.bases.stable_diffusion import StableDiffusionBase
from mvdiff.pipelines.extras import require

_PROJECTIONS = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")


_PARTS_OF_A_LORA = (
    r"lora(_down|_up)\.weight",  # kohya
    r"lora\.(down|up)\.weight",
    r"lora_linear_layer\.(down|up)\.weight",
    r"lora_[AB](\.\w+)?\.weight",  # peft
    r"(to_\w+|[qkv]|out)_lora\.(down|up)\.weight",  # attention processors of old diffusers
    r"alpha",
)
_PART = re.compile(rf"\.(processor\.)?({'|'.join(_PARTS_OF_A_LORA)})$")
_DOWN = re.compile(r"(lora_down|down|lora_A(\.\w+)?)\.weight$")
_OTHER_FORMS = {
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.lora_mid\.": "a LoRA of convolutions with a middle factor",
    r"\.(diff|diff_b|w_norm|b_norm)$": "whole weights beside a LoRA",
    r"^(lora_te2_|text_encoder_2\.)": "a LoRA for SDXL's second text encoder",
    r"^(lora_unet_(input|middle|output)_block|lora_te1_)": "a LoRA with names of SDXL or of the original code",
}


def count_layers(state: dict[str, Tensor]) -> int:
    """Count the layers for which a file has low-rank weights.

    Raises:
        ValueError: A weight belongs to another form (DoRA, LoHa, LoKr, ...) or part, which would be left out.
    """
    for pattern, form in _OTHER_FORMS.items():
        if names := [name for name in state if re.search(pattern, name)]:
            raise ValueError(f"{form}, which is not supported ({len(names)} weights, such as {names[0]})")
    if names := [name for name in state if not _PART.search(name)]:
        raise ValueError(f"{len(names)} weights with names that no LoRA has, such as {names[0]}")
    return sum(bool(_DOWN.search(name)) for name in state)


def _file_tensors(
    source: str | Path | dict[str, Tensor], weight_name: str | None = None, **kwargs: Any
) -> dict[str, Tensor]:
    """Return the weights as the file has them: diffusers leaves out what it does not know, with a warning at most."""
    names = ("local_files_only", "cache_dir", "force_download", "proxies", "token", "revision", "subfolder")
    state, _ = _fetch_state_dict(
        source,
        weight_name=weight_name,
        use_safetensors=kwargs.get("use_safetensors", True),
        allow_pickle=kwargs.get("use_safetensors") is None,
        user_agent={},
        **{name: kwargs.get(name) for name in names},
    )
    return state


def _peft_names(state: dict[str, Any]) -> dict[str, Any]:
    """Give the values of a text encoder's LoRA, weights or alphas, the names of peft and of this encoder."""
    if not state:
        return {}
    old = any(re.search(r"to_(q|k|v|out)_lora\.", name) for name in state)  # diffusers looks for to_out alone
    state = convert_state_dict_to_diffusers(state, StateDictType.DIFFUSERS_OLD if old else None)
    return {name.removeprefix("text_model."): value for name, value in convert_state_dict_to_peft(state).items()}


class LoraOfBase(StableDiffusionLoraLoaderMixin):
    """The LoRA methods of diffusers (`load_lora_weights`, `set_adapters`, `fuse_lora`, ...), with strict loading.

    In method names "adapter" means a LoRA, as in diffusers; the trained attention (`pipeline.adapter`) is not changed.
    A saved model folder refers to the base without its LoRA, and holds the one that was trained with the model, named
    "trained".
    """

    _fused_loras: tuple[dict[str, Any], ...] | list[dict[str, Any]] = ()

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA for the base's UNet, text encoder, or both; after an error nothing is loaded.

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
        if not isinstance(family := self._backbone(), StableDiffusionBase):
            raise ValueError(
                f"LoRA files are loaded for bases of Stable Diffusion 1 and 2; got a {type(family).__name__}. Merge "
                "the LoRA into the base with diffusers, and train and generate with the merged base."
            )
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
                num_layers = count_layers(_file_tensors(source, **kwargs))
            super().load_lora_weights(source, adapter_name=adapter_name, **kwargs)
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
        """Load a LoRA into the text encoder; `load_lora_weights` calls this with the arguments of diffusers.

        This calls peft directly: diffusers goes through transformers, which may require an unreleased version of peft.

        Raises:
            ValueError: The LoRA has weights for layers that this text encoder does not have.
        """
        prefix = f"{cls.text_encoder_name if prefix is None else prefix}."
        state = {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}
        if not state:
            return
        from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict

        state = _peft_names(state)
        names = (name for name, _ in text_encoder.named_modules() if name.endswith(_PROJECTIONS))
        weights = {name: state.get(f"{name}.lora_B.weight") for name in names}
        ranks = {name: weight.shape[1] for name, weight in weights.items() if weight is not None}
        if len(ranks) * 2 != len(state):
            raise ValueError(f"{len(state)} weights for a text encoder, {2 * len(ranks)} of which match its layers")
        if metadata:
            settings = {name.removeprefix(prefix): v for name, v in metadata.items() if name.startswith(prefix)}
        else:
            own = {name: alpha for name, alpha in (network_alphas or {}).items() if name.startswith(prefix)}
            own = _peft_names({name.removeprefix(prefix).removesuffix(".alpha"): own[name] for name in own})
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
        super().fuse_lora(*args, **kwargs)
        self._fused_loras = [*self._fused_loras, record | {key: repr(value) for key, value in kwargs.items()}]

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Remove merged LoRAs from the weights."""
        super().unfuse_lora(*args, **kwargs)
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
