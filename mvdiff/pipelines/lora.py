"""LoRA of the base: low-rank changes of UNet and text encoder, as diffusers loads them, beside the trained attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor

from mvdiff.pipelines.extras import require


class LoraOfBase(StableDiffusionLoraLoaderMixin):
    """`load_lora_weights`, `set_adapters`, `fuse_lora`, `unload_lora_weights`, ... of diffusers, with strict loading.

    "Adapters" are LoRAs here, as everywhere in diffusers; the trained attention (`pipeline.adapter`) is left alone.
    What the model folder says of the base stays true of the base without its LoRA.
    """

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: str | Path | dict[str, Tensor],
        adapter_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Load a LoRA of the base's UNet, its text encoder, or both.

        Args:
            pretrained_model_name_or_path_or_dict: hub id, folder, file or the tensors themselves, in diffusers',
                peft's or kohya's form.
            adapter_name: to call it by in `set_adapters`; default "default_0", "default_1", ...
            **kwargs: as for diffusers' method of this name: `weight_name`, `revision`, `subfolder`, ...

        Raises:
            ValueError: peft is not installed, the file cannot be read, or it is a LoRA of another base.
        """
        require("peft", "load_lora_weights")
        source = pretrained_model_name_or_path_or_dict
        source = str(source) if isinstance(source, Path) else source
        where = f", in {source}" if isinstance(source, str) else ""
        before = self.get_list_adapters()
        try:
            super().load_lora_weights(source, adapter_name=adapter_name, **kwargs)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()
            raise ValueError(
                f"LoRA must be a readable one, made for a base of this shape; got {' '.join(reason[:2])}{where}. "
                "Give a LoRA of this base."
            ) from error
        if self.get_list_adapters() == before:
            raise ValueError(
                f"LoRA must have weights for the unet or the text_encoder of the base; got none{where}. "
                "Give a LoRA of this base."
            )
