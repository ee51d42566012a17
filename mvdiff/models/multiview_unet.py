"""MultiViewUNet: a diffusers UNet run on all views of a sample at once, with attention between the views.

`MultiViewUNet.forward` calls the blocks of `UNet2DConditionModel` one by one. With one view, or with a fresh adapter,
its output equals that of the frozen UNet bit for bit.

Axes: B batch, V views, C channels, h w latent rows and columns, L text tokens, N = B * V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.torch_utils import apply_freeu
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvdiff.models.adapter import MultiViewAdapter, unet_channels
from mvdiff.models.attention import MultiViewGeometry
from mvdiff.models.conditioning import ImageConditions
from mvdiff.models.deep_cache import DeepCache
from mvdiff.models.foreign import check_calls
from mvdiff.text_states import TextStates, hidden_states_of


class MultiViewUNet(nn.Module):
    """A frozen UNet with attention across views between its blocks (the paper's figure 2).

    Attention across views runs in each down block before its downsampler, in each up block before its upsampler, and in
    the mid block after the first ResNet or after the whole block (`mid_place`).

    Features of known frames are added to the input of every block, as in the 2023 release: to the first down block's
    input, which is also the first skip connection; to each downsampler's output, which is the next block's input and
    another skip connection; to the mid block's input, after the last down block's attention; and to each up block's
    input, before its first skip connection is concatenated.

    Args:
        unet: `UNet2DConditionModel` with (CrossAttn)DownBlock2D, UNetMidBlock2DCrossAttn and (CrossAttn)UpBlock2D
            blocks and any prediction type; its gradients are disabled.
        adapter: Adapter made for this UNet.
        vae_stride: Pixels per latent cell, for a UNet that takes the views' size (SDXL).

    Raises:
        ValueError: The adapter belongs to another UNet, or the UNet has parts or patches that `forward` does not
            support.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: MultiViewAdapter, vae_stride: int = 8) -> None:
        super().__init__()
        self.vae_stride = vae_stride
        _check_match(unet, adapter)
        check_calls(unet)
        self.unet = unet.requires_grad_(False)
        self.adapter = adapter
        self.gradient_checkpointing = False
        self.views_per_chunk: int | None = None
        self.train(self.training)

    @classmethod
    def from_unet(cls, unet: UNet2DConditionModel, adapter: MultiViewAdapter | None = None) -> MultiViewUNet:
        """Combine a UNet with an adapter; default: a fresh one."""
        return cls(unet, MultiViewAdapter.from_unet(unet) if adapter is None else adapter)

    @property
    def config(self) -> Any:
        """Config of the UNet (`in_channels`, `sample_size`, ...)."""
        return self.unet.config

    @property
    def num_levels(self) -> int:
        """Number of resolutions of the UNet."""
        return len(self.unet.down_blocks)

    def base_layers(self) -> Iterator[nn.Module]:
        """Return the layers of the UNet's blocks, which `forward` calls one by one; it calls no block as a whole."""
        for block in (*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks):
            for name in ("resnets", "attentions", "downsamplers", "upsamplers"):
                yield from getattr(block, name, None) or ()

    def adapter_layers(self) -> Iterator[nn.Module]:
        """Return the attentions across views, which every call of `forward` runs."""
        yield from (*self.adapter.down_blocks, self.adapter.mid_block, *self.adapter.up_blocks)

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters to optimize: those of the adapter."""
        return self.adapter.parameters()

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute ResNets, transformers and multi-view attention in the backward pass instead of storing them."""
        self.gradient_checkpointing = enabled

    def set_views_per_chunk(self, views: int | None) -> None:
        """Run the UNet's layers on a few views at a time, to save memory.

        Attention across views processes the query views in chunks of the same size; each still attends to all other
        views. Outputs differ by rounding only: kernels may sum in another order for another batch size.

        Args:
            views: Views per chunk, counted over the whole batch, at least 1; None: all at once.

        Raises:
            ValueError: `views` is not a positive integer.
        """
        if views is not None and (not isinstance(views, int) or isinstance(views, bool) or views < 1):
            raise ValueError(f"views_per_chunk must be an integer of at least 1; got {views!r}.")
        self.views_per_chunk = views

    def train(self, mode: bool = True) -> MultiViewUNet:
        """Set the adapter's mode; the frozen UNet stays in evaluation mode."""
        super().train(mode)
        self.unet.eval()
        return self

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: TextStates,
        geometry: MultiViewGeometry | None,
        view_valid: Tensor | None = None,
        neighbour_batch: Tensor | None = None,
        condition: Tensor | None = None,
        condition_active: Tensor | None = None,
        deep_cache: DeepCache | None = None,
    ) -> Tensor:
        """Predict noise (or velocity or x0, as the base was trained) for all views jointly.

        Args:
            sample: [B, V, C, h, w] noisy latents, and the task's other input channels.
            timestep: [B], one per sample, or a scalar.
            encoder_hidden_states: [B, V, L, D] text embedding of each view; for SDXL a dict, see `mvdiff.text_states`.
            geometry: Correspondences between the views, see `MultiViewAdapter.geometry`; None: each view by itself, as
                in the plain UNet.
            view_valid: [B, V] bool, False for padding; default: all views are valid.
            neighbour_batch: [B] long, sample b attends to the views of sample `neighbour_batch[b]`; default: its own.
            condition: [B, V, C + 1, h, w] known frames, see `image_condition`; None: no known frames.
            condition_active: [B] bool, True for samples with a known frame; default: all.
            deep_cache: Cache of the current denoising; None: run the whole UNet.

        Returns:
            [B, V, out_channels, h, w].

        Raises:
            ValueError: `condition` is passed, but the adapter has no blocks for it.
        """
        onload(self.unet, self.adapter)
        batch, num_views = sample.shape[:2]
        unet, adapter = self.unet, self.adapter
        levels = None if geometry is None or num_views == 1 else geometry.levels
        precision = adapter.dtype if adapter.dtype != unet.dtype else None  # of a base in half precision
        added = self._added(condition, condition_active)

        def across_views(block: nn.Module, hidden_states: Tensor, level: int) -> Tensor:
            if levels is None:
                return hidden_states
            own = hidden_states if precision is None else hidden_states.to(precision)
            context = (levels[level], view_valid, neighbour_batch, self.views_per_chunk)
            updated = self._run(block, own.unflatten(0, (batch, num_views)), *context).flatten(0, 1)
            return updated if precision is None else updated.to(hidden_states.dtype)

        sample = sample.flatten(0, 1)
        text = hidden_states_of(encoder_hidden_states).flatten(0, 1)
        timesteps = torch.as_tensor(timestep, device=sample.device)
        timesteps = timesteps.expand(batch).repeat_interleave(num_views)
        factor = 2**unet.num_upsamplers
        forward_upsample_size = any(side % factor for side in sample.shape[-2:])

        if unet.config.center_input_sample:
            sample = 2 * sample - 1.0
        embedding = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps))
        if isinstance(encoder_hidden_states, dict):
            pooled = encoder_hidden_states["pooled"].flatten(0, 1)
            added_text = {"text_embeds": pooled, "time_ids": size_ids(sample, self.vae_stride)}
            embedding = embedding + unet.get_aug_embed(embedding, text, added_text)
        if unet.time_embed_act is not None:
            embedding = unet.time_embed_act(embedding)
        hidden_states = _plus(self._in_chunks(unet.conv_in, sample), added and added.down[0])

        num_skips = sum(len(block.resnets) for block in unet.up_blocks)
        depth = 0 if deep_cache is None else min(deep_cache.settings.depth, num_skips)
        reuses = deep_cache is not None and deep_cache.begin(len(sample))
        skips = [hidden_states]
        for level, (block, attention) in enumerate(zip(unet.down_blocks, adapter.down_blocks, strict=True)):
            for resnet, transformer in _layers(block):
                if reuses and len(skips) == depth:
                    break
                hidden_states = self._layer(resnet, transformer, [hidden_states], embedding, text)
                skips.append(hidden_states)
            if reuses and len(skips) == depth:
                break
            hidden_states = across_views(attention, hidden_states, level)
            for downsampler in block.downsamplers or ():
                hidden_states = self._in_chunks(downsampler, hidden_states)
                hidden_states = _plus(hidden_states, added and added.down[level + 1])
                skips.append(hidden_states)

        if reuses:
            hidden_states = None  # until the shallow part begins
            skips.extend([None] * (num_skips - depth))
        else:
            hidden_states = _plus(hidden_states, added and added.mid)
            hidden_states = self._mid_block(hidden_states, embedding, text, across_views)

        for index, (block, attention) in enumerate(zip(unet.up_blocks, adapter.up_blocks, strict=True)):
            hidden_states = _plus(hidden_states, added and added.up[index])
            for resnet, transformer in _layers(block):
                skip = skips.pop()
                if skip is None:
                    continue
                if len(skips) + 1 == depth:
                    hidden_states = deep_cache.exchange(hidden_states)
                inputs = _with_freeu(block, hidden_states, skip)
                hidden_states = self._layer(resnet, transformer, inputs, embedding, text)
            if hidden_states is None:
                continue
            hidden_states = across_views(attention, hidden_states, self.num_levels - 1 - index)
            size = skips[-1].shape[2:] if forward_upsample_size and skips else None
            for upsampler in block.upsamplers or ():
                hidden_states = self._in_chunks(partial(upsampler, output_size=size), hidden_states)

        return self._in_chunks(self._output, hidden_states).unflatten(0, (batch, num_views))

    def _output(self, hidden_states: Tensor) -> Tensor:
        unet = self.unet
        if unet.conv_norm_out is not None:
            hidden_states = unet.conv_act(unet.conv_norm_out(hidden_states))
        return unet.conv_out(hidden_states)

    def _added(self, condition: Tensor | None, active: Tensor | None) -> ImageConditions | None:
        if condition is None:
            return None
        blocks, dtype = self.adapter.condition_blocks, self.unet.dtype
        if blocks is None:
            raise ValueError("condition must be None for an adapter without image_condition; got known frames.")
        if self.adapter.dtype == dtype:
            return self._run(blocks, condition, active)
        down, mid, up = self._run(blocks, condition.to(self.adapter.dtype), active)
        return ImageConditions([one.to(dtype) for one in down], mid.to(dtype), [one.to(dtype) for one in up])

    def _mid_block(
        self, hidden_states: Tensor, embedding: Tensor, text: Tensor, across_views: Callable[..., Tensor]
    ) -> Tensor:
        block, attention = self.unet.mid_block, self.adapter.mid_block
        inside = self.adapter.config.mid_place == "after_first_resnet"
        hidden_states = self._layer(block.resnets[0], None, [hidden_states], embedding, text)
        if inside:
            hidden_states = across_views(attention, hidden_states, self.num_levels - 1)

        def rest(hidden_states: Tensor, embedding: Tensor, text: Tensor) -> Tensor:
            for transformer, resnet in zip(block.attentions, block.resnets[1:], strict=True):
                hidden_states = self._run(transformer, hidden_states, encoder_hidden_states=text, return_dict=False)[0]
                hidden_states = self._run(resnet, hidden_states, embedding)
            return hidden_states

        hidden_states = self._in_chunks(rest, hidden_states, embedding, text)
        return hidden_states if inside else across_views(attention, hidden_states, self.num_levels - 1)

    def _layer(
        self, resnet: nn.Module, transformer: nn.Module | None, inputs: list[Tensor], embedding: Tensor, text: Tensor
    ) -> Tensor:
        """Concatenate the inputs along channels; run a ResNet and, if there is one, its transformer."""

        def run(embedding: Tensor, text: Tensor, *inputs: Tensor) -> Tensor:
            hidden_states = torch.cat(inputs, dim=1) if len(inputs) > 1 else inputs[0]
            hidden_states = self._run(resnet, hidden_states, embedding)
            if transformer is None:
                return hidden_states
            return self._run(transformer, hidden_states, encoder_hidden_states=text, return_dict=False)[0]

        return self._in_chunks(run, embedding, text, *inputs)

    def _in_chunks(self, run: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Run a function that treats views independently on `views_per_chunk` of the N views at a time."""
        if self.views_per_chunk is None:
            return run(*rows)
        chunks = zip(*(values.split(self.views_per_chunk) for values in rows), strict=True)
        return torch.cat([run(*chunk) for chunk in chunks])

    def _run(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(module, *args, use_reentrant=False, **kwargs)
        return module(*args, **kwargs)


def size_ids(sample: Tensor, vae_stride: int) -> Tensor:
    """Return the numbers that SDXL takes of each view: its size, the corner of its crop, and the size to generate.

    Args:
        sample: [N, C, h, w] latents.
        vae_stride: Pixels per latent cell along each side.

    Returns:
        [N, 6]: height, width, 0, 0, height, width in pixels. Views are rendered, so none is a crop of another.
    """
    size = [side * vae_stride for side in sample.shape[-2:]]
    return sample.new_tensor([*size, 0, 0, *size]).expand(len(sample), -1)


def onload(*parts: nn.Module) -> None:
    """Load offloaded weights: accelerate's hooks run on a call of a model itself, not of its blocks."""
    for part in parts:
        if hasattr(part, "_hf_hook"):
            part._hf_hook.pre_forward(part)


def _plus(hidden_states: Tensor | None, added: Tensor | None) -> Tensor | None:
    return hidden_states if added is None or hidden_states is None else hidden_states + added


def _with_freeu(block: nn.Module, hidden_states: Tensor, skip: Tensor) -> list[Tensor]:
    """Scale the inputs of an up block's layer as `UNet2DConditionModel.enable_freeu` says (Si et al. 2024)."""
    scales = {name: getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")}
    if not all(scales.values()):
        return [hidden_states, skip]
    return list(apply_freeu(block.resolution_idx, hidden_states.clone(), skip, **scales))  # it writes to its input


def _layers(block: nn.Module) -> Iterator[tuple[nn.Module, nn.Module | None]]:
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return zip(block.resnets, attentions, strict=True)


def _check_match(unet: UNet2DConditionModel, adapter: MultiViewAdapter) -> None:
    for name, channels in unet_channels(unet).items():
        configured = adapter.config[name]
        configured = list(configured) if isinstance(channels, list) else configured
        if configured != channels:
            raise ValueError(
                f"adapter.config.{name} must be {channels}, as in the UNet; got {configured}. The adapter belongs to "
                "another model."
            )
