"""Switches that trade time for memory: CPU offload, slices and tiles of the autoencoder, chunks of views."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import get_device
from torch import Tensor

from mvdiff.models.autoencoder import enable_slicing
from mvdiff.pipelines.extras import require


class MemorySwitches(DiffusionPipeline):
    """Switches that change what a pipeline holds in memory, and its images by no more than rounding.

    Tiles are the exception: where they meet, their pixels are blended.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    views_per_chunk: int | None = None
    """Views that the UNet's own layers run on at a time; None: all. See `set_views_per_chunk`."""

    def set_views_per_chunk(self, views: int | None) -> None:
        """Run the UNet's own layers on some views at a time; attention across views still sees them all.

        Args:
            views: Number of views, counted over samples and both passes of guidance; None: all at once.

        Raises:
            ValueError: It is no whole number of at least one.
        """
        before, self.views_per_chunk = self.views_per_chunk, views
        try:
            self._multi_view_unet()
        except ValueError:
            self.views_per_chunk = before
            raise

    def enable_vae_slicing(self) -> None:
        """Encode and decode view by view."""
        enable_slicing(self.vae)

    def disable_vae_slicing(self) -> None:
        """Encode and decode all views of a sample at once again."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode views that are larger than the autoencoder's own size in tiles, blended where they meet.

        Raises:
            ValueError: This autoencoder cannot.
        """
        if not hasattr(self.vae, "use_tiling"):
            raise ValueError(f"vae must be one that can work in tiles; got {type(self.vae).__name__}.")
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode whole views again."""
        self.vae.disable_tiling()

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keep the parts of the model in the CPU's memory; each is on the GPU while it runs.

        UNet and adapter run together and leave together, before images are decoded.

        Args:
            gpu_id: Number of the GPU; default the first.
            device: A device by name instead; default what torch finds.

        Raises:
            ValueError: accelerate is not installed, or there is no GPU and `device` is not given.
        """
        self._check_offload(device)
        super().enable_model_cpu_offload(gpu_id, device)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Keep all weights in the CPU's memory; those of each layer are on the GPU while the layer runs.

        This takes the least memory of the GPU, and much time. `remove_all_hooks` ends it. See
        `enable_model_cpu_offload` for arguments and errors.
        """
        self._check_offload(device)
        from accelerate import cpu_offload

        # As diffusers does, but attention across views multiplies with the weights of layers that it does not call:
        # they have to come all together. And diffusers names a CPU "cpu:0", where accelerate's hooks fail.
        self._maybe_raise_error_if_group_offload_active(raise_error=True)
        self.remove_all_hooks()
        self.to("cpu", silence_dtype_warnings=True)
        device = torch.device(get_device() if device is None else device)
        if device.type != "cpu" and device.index is None:
            device = torch.device(device.type, gpu_id or 0)
        self._offloaded_adapter = self.adapter.state_dict()
        for part in self.components.values():
            if isinstance(part, torch.nn.Module):
                cpu_offload(
                    part,
                    device,
                    offload_buffers=len(part._parameters) > 0,
                    state_dict=self._offloaded_adapter if part is self.adapter else None,
                    preload_module_classes=[type(self.adapter.mid_block).__name__],
                )

    def unusual_settings(self) -> dict[str, Any]:
        """Name, for the record of a sample, the switches that are on and change images."""
        return {"vae_tiling": True} if getattr(self.vae, "use_tiling", False) else {}

    def adapter_weights(self) -> dict[str, Tensor]:
        """Return the adapter's state dict; under sequential CPU offload its own tensors are empty between calls."""
        if not any(weight.is_meta for weight in self.adapter.parameters()):
            return self.adapter.state_dict()
        return self._offloaded_adapter

    def _check_offload(self, device: Any) -> None:
        require("accelerate", "CPU offload")
        if device is None and get_device() == "cpu":
            raise ValueError("CPU offload must have a GPU to move weights to; got none on this machine.")
