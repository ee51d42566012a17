"""LoRA of the base: low-rank changes of its UNet and text encoder, beside the trained attention."""

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
    """`load_lora_weights`, `set_adapters`, `fuse_lora`, `unload_lora_weights`, ... of diffusers, with strict loading.

    "Adapters" are LoRAs here, as everywhere in diffusers; the trained attention (`pipeline.adapter`) is left alone.
    What a model folder says of the base stays true of the base without its LoRA.
    """

    _fused_loras: tuple[dict[str, Any], ...] | list[dict[str, Any]] = ()

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA of the base's UNet, its text encoder, or both; all of it or nothing.

        Args:
            pretrained_model_name_or_path_or_dict: Hub id, folder, file or the tensors themselves, in diffusers',
                peft's or kohya's form.
            adapter_name: Name for `set_adapters`; default "default_0", "default_1", ...
            **kwargs: Arguments of diffusers' method of this name: `weight_name`, `revision`, `subfolder`, ...

        Raises:
            ValueError: peft is not installed, the file cannot be read, or it is a LoRA of another base.
        """
        require("peft", "load_lora_weights")
        if hasattr(self.unet, "_hf_hook"):
            raise ValueError(
                "LoRA must be loaded before CPU offload is enabled; got a pipeline whose weights are offloaded. Call "
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
        except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
            self._forget_other_loras(before)
            reason = shorten(str(error), 300) or type(error).__name__
            raise ValueError(
                f"LoRA must be a readable one, made for a base of this shape; got {reason}{where}."
            ) from error
        if self.get_list_adapters() == before:
            raise ValueError(f"LoRA must have weights for the unet or the text_encoder of the base; got none{where}.")

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
        """Put a text encoder's LoRA into it; called by `load_lora_weights`, with diffusers' arguments.

        diffusers goes through transformers, whose releases ask for a peft that may not exist yet; peft alone does it.

        Raises:
            ValueError: The LoRA has weights that this text encoder has no layer for.
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
            raise ValueError(f"{len(state)} weights of a text encoder, of which {2 * len(ranks)} have a layer here")
        settings = get_peft_kwargs(ranks, network_alpha_dict=alphas, peft_state_dict=state, is_unet=False)
        if metadata:
            settings = {name.removeprefix(prefix): v for name, v in metadata.items() if name.startswith(prefix)}
        config = LoraConfig(**settings)
        inject_adapter_in_model(config, text_encoder, adapter_name=adapter_name)
        text_encoder.peft_config = getattr(text_encoder, "peft_config", {}) | {adapter_name: config}
        set_peft_model_state_dict(text_encoder, state, adapter_name=adapter_name)
        text_encoder.to(device=text_encoder.device, dtype=text_encoder.dtype)

    def fuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Add the active LoRAs to the weights themselves, as diffusers does; samples go on naming them."""
        record = self._active_loras()
        super().fuse_lora(*args, **kwargs)
        self._fused_loras = [*self._fused_loras, record | {key: repr(value) for key, value in kwargs.items()}]

    def unfuse_lora(self, *args: Any, **kwargs: Any) -> None:
        """Take fused LoRAs out of the weights again."""
        super().unfuse_lora(*args, **kwargs)
        self._fused_loras = []

    def lora_settings(self) -> dict[str, Any]:
        """Say, for the record of a sample, which LoRAs change the base, how strongly, and what they hold."""
        active = self._active_loras()
        return ({"lora": active} if active else {}) | ({"fused_lora": self._fused_loras} if self._fused_loras else {})

    def _active_loras(self) -> dict[str, dict[str, Any]]:
        """Return, by name, the scales and a hash of the LoRAs that the layers of the base run beside their weights."""
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
        """Take off what a failed load has left in a part."""
        if not any(known.values()):
            self.unload_lora_weights()
            return
        loaded = self.get_list_adapters()
        left = {name for part, names in loaded.items() for name in names if name not in known.get(part, [])}
        if left:
            self.delete_adapters(sorted(left))
