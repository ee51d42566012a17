"""Switches that trade time for memory: CPU offload, slicing and tiling of the autoencoder, chunks of views."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import get_device
from torch import Tensor

from mvdiff.models.autoencoder import enable_slicing
from mvdiff.pipelines.extras import require


class MemorySwitches(DiffusionPipeline):
    """Memory switches of a pipeline; they change images by rounding only, except tiling, which blends tile borders."""

    model_cpu_offload_seq = "text_encoder->unet->vae"
    views_per_chunk: int | None = None
    """Number of views that the UNet's layers process at a time; None: all. See `set_views_per_chunk`."""

    def set_views_per_chunk(self, views: int | None) -> None:
        """Run the UNet's layers on a few views at a time; attention across views still attends to all views.

        Args:
            views: Views per chunk, counted over all samples and both passes of guidance; None: all at once.

        Raises:
            ValueError: `views` is not a positive integer.
        """
        before, self.views_per_chunk = self.views_per_chunk, views
        try:
            self._multi_view_unet()
        except ValueError:
            self.views_per_chunk = before
            raise

    def enable_vae_slicing(self) -> None:
        """Encode and decode one view at a time.

        Raises:
            ValueError: The autoencoder's class has no slicing.
        """
        enable_slicing(self.vae)

    def disable_vae_slicing(self) -> None:
        """Encode and decode all views of a sample at once."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Encode and decode views larger than the autoencoder's sample size in tiles with blended borders.

        Raises:
            ValueError: The autoencoder's class has no tiling.
        """
        if not hasattr(self.vae, "use_tiling"):
            raise ValueError(f"vae must support tiling when vae_tiling is on; got {type(self.vae).__name__}.")
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Encode and decode whole views."""
        self.vae.disable_tiling()

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: torch.device | str | None = None) -> None:
        """Keep the parts of the model in CPU memory and move each to the GPU while it runs.

        UNet and adapter are moved together, and leave the GPU before images are decoded.

        Args:
            gpu_id: Index of the GPU; default: 0.
            device: Device to use instead; default: the accelerator that torch reports.

        Raises:
            ValueError: accelerate is not installed, or there is no GPU and `device` is None.
        """
        self._check_offload(device)
        super().enable_model_cpu_offload(gpu_id, device)

    def enable_sequential_cpu_offload(
        self, gpu_id: int | None = None, device: torch.device | str | None = None
    ) -> None:
        """Keep all weights in CPU memory and move those of each layer to the GPU while the layer runs.

        This needs the least GPU memory and the most time. `remove_all_hooks` turns it off. See
        `enable_model_cpu_offload` for arguments and errors.
        """
        self._check_offload(device)
        from accelerate import cpu_offload

        # As in diffusers, with two differences: attention across views reads the weights of layers that it does not
        # call, so all its weights are moved together; and diffusers names the CPU "cpu:0", which breaks the hooks.
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
                    preload_module_classes=[type(self.adapter.blocks[0]).__name__],
                )

    def unusual_settings(self) -> dict[str, Any]:
        """Return, for `sample.json`, the active switches that change images."""
        return {"vae_tiling": True} if getattr(self.vae, "use_tiling", False) else {}

    def adapter_weights(self) -> dict[str, Tensor]:
        """Return the adapter's state dict, also under sequential CPU offload, when its own tensors are empty."""
        if not any(weight.is_meta for weight in self.adapter.parameters()):
            return self.adapter.state_dict()
        return self._offloaded_adapter

    def _check_offload(self, device: Any) -> None:
        require("accelerate", "CPU offload")
        if device is None and get_device() == "cpu":
            raise ValueError("CPU offload requires a GPU; this machine has none.")
