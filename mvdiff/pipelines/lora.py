"""LoRA for the base: low-rank updates of its UNet and text encoder; the trained attention is not changed."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from textwrap import shorten
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_peft
from diffusers.utils.peft_utils import get_peft_kwargs
from torch import Tensor, nn

from mvdiff.eval.weights import tensors_hash
from mvdiff.pipelines.extras import require

_PROJECTIONS = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")


class LoraOfBase(StableDiffusionLoraLoaderMixin):
    """The LoRA methods of diffusers (`load_lora_weights`, `set_adapters`, `fuse_lora`, ...), with strict loading.

    In method names "adapter" means a LoRA, as in diffusers; the trained attention (`pipeline.adapter`) is not changed.
    A saved model folder refers to the base without its LoRA.
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
            ValueError: peft is not installed, CPU offload is enabled, the file cannot be read, or the LoRA does not fit
                the base.
        """
        require("peft", "load_lora_weights")
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
            super().load_lora_weights(source, adapter_name=adapter_name, **kwargs)
        except Exception as error:  # diffusers, peft and safetensors raise errors of many kinds
            self._forget_other_loras(before)
            reason = shorten(str(error), 300) or type(error).__name__
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

        state = convert_state_dict_to_peft(convert_state_dict_to_diffusers(state))
        state = {name.removeprefix("text_model."): value for name, value in state.items()}
        names = (name for name, _ in text_encoder.named_modules() if name.endswith(_PROJECTIONS))
        ranks = {f"{name}.lora_B.weight": state.get(f"{name}.lora_B.weight") for name in names}
        ranks = {name: weight.shape[1] for name, weight in ranks.items() if weight is not None}
        alphas = {name.removeprefix(prefix): value for name, value in (network_alphas or {}).items()}
        if len(ranks) * 2 != len(state):
            raise ValueError(f"{len(state)} weights for a text encoder, {2 * len(ranks)} of which match its layers")
        settings = get_peft_kwargs(ranks, network_alpha_dict=alphas, peft_state_dict=state, is_unet=False)
        if metadata:
            settings = {name.removeprefix(prefix): v for name, v in metadata.items() if name.startswith(prefix)}
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
