"""MultiViewTransformer: a diffusion transformer run on all views at once, with attention between the views.

The transformer's own forward runs unchanged. For the time of one call, some of its blocks get a forward that ends with
attention across views on the image tokens alone. With one view, or with a fresh adapter, the output equals that of the
transformer bit for bit.

Axes: B batch, V views, N = B * V, C channels, T image tokens (h * w, row-major), L text tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.attention import MultiViewGeometry
from mvdiff.models.block_caches import replaced_forward
from mvdiff.models.multiview_unet import onload
from mvdiff.text_states import TextStates, map_states


class Tokens(Protocol):
    """A base that finds the image tokens in a block's output; see `mvdiff.models.bases.transformer.TransformerBase`."""

    unet: nn.Module

    def predict(self, sample: Tensor, timesteps: Tensor, text: TextStates) -> Tensor:
        """Run the network on N views by themselves."""

    def image_tokens(self, output: Any, num_tokens: int) -> Tensor:
        """Return the image tokens [N, T, C] of a block's output."""

    def with_image_tokens(self, output: Any, tokens: Tensor) -> Any:
        """Return a block's output with other image tokens."""


@dataclass(frozen=True)
class Scene:
    """Inputs of the blocks that look across views, for one call of the model.

    Attributes:
        geometry: Correspondences between the views, of one level.
        num_views: Number of views V.
        view_valid: [B, V] bool; None: all views are valid.
        neighbour_batch: [B] long; None: each sample's own views.
    """

    geometry: MultiViewGeometry
    num_views: int
    view_valid: Tensor | None
    neighbour_batch: Tensor | None


class _Followed:
    """The forward of a block, followed by attention across views.

    One object for all calls, whose scene changes: what torch.compile made of it holds for the next call, too.
    """

    def __init__(self, run: Callable[..., Any], attention: nn.Module) -> None:
        self.run, self.attention = run, attention
        self.forward: Callable[..., Any] | None = None
        self.scene: Scene | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(self.scene, self.attention, self.forward, *args, **kwargs)

    def after(self, forward: Callable[..., Any]) -> _Followed:
        """Follow a forward, which is a new object at each look even where it is the same."""
        if self.forward != forward:
            self.forward = forward
        return self

    @contextmanager
    def attached(self, module: nn.Module, scene: Scene | None) -> Iterator[None]:
        """Stand in the place of a module's forward."""
        self.scene = scene
        try:
            with replaced_forward(module, self.after):
                yield
        finally:
            self.scene = None


class MultiViewTransformer(nn.Module):
    """A frozen transformer with attention across views behind some of its blocks.

    Each block of attention has its own LayerNorm and is added to the image tokens outside the transformer's gates and
    position encodings. Text tokens are left as they are.

    Args:
        base: Base with the transformer, whose gradients are disabled.
        adapter: Adapter made for this transformer.

    Raises:
        ValueError: The adapter belongs to another network, or `torch.compile` wraps the transformer.
    """

    def __init__(self, base: Tokens, adapter: MultiViewAdapter) -> None:
        super().__init__()
        if hasattr(base.unet, "_orig_mod"):
            raise ValueError(
                "unet must not be wrapped by torch.compile, which cannot follow the attention between its blocks; got "
                f"an {type(base.unet).__name__}. Call pipeline.enable_compile or pipeline.unet.compile."
            )
        self.unet = base.unet.requires_grad_(False)
        self.adapter = adapter
        self.gradient_checkpointing = False
        self._predict, self._read, self._write = base.predict, base.image_tokens, base.with_image_tokens
        sites = adapter.config.sites
        if not sites:
            raise ValueError("the adapter must be one of a transformer; got one with the places of a UNet.")
        modules = dict(self.unet.named_modules())
        missing = [name for name in sites["after"] if name not in modules]
        if missing:
            raise ValueError(
                f"the adapter must belong to this {type(self.unet).__name__}; got one for a network with {missing[0]}."
            )
        self._places = [
            (modules[name], _Followed(self._with_attention, block))
            for name, block in zip(sites["after"], adapter.blocks, strict=True)
        ]
        self.train(self.training)

    @property
    def config(self) -> Any:
        """Config of the transformer (`in_channels`, `sample_size`, ...)."""
        return self.unet.config

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters to optimize: those of the adapter."""
        return self.adapter.parameters()

    def enable_gradient_checkpointing(self, enabled: bool = True) -> None:
        """Recompute the transformer's blocks, and attention across views, in the backward pass."""
        self.gradient_checkpointing = enabled

    def set_views_per_chunk(self, views: int | None) -> None:
        """Raise ValueError unless `views` is None: a transformer's own forward runs all views at once."""
        if views is not None:
            raise ValueError(
                f"views_per_chunk must be null for a transformer, which runs all views at once; got {views}. In "
                "training, memory.gradient_checkpointing saves memory; in sampling, half precision and CPU offload do."
            )

    def compile(self, **settings: Any) -> None:
        """Compile each block of the transformer that can have attention across views; see `torch.compile`."""
        for blocks in sorted({name.rpartition(".")[0] for name in self.adapter.config.sites["after"]}):
            for block in self.unet.get_submodule(blocks):
                block.compile(**settings)

    def train(self, mode: bool = True) -> MultiViewTransformer:
        """Set the adapter's mode; the frozen transformer stays in evaluation mode."""
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
    ) -> Tensor:
        """Predict for all views jointly; arguments and result as for `MultiViewUNet.forward`.

        Raises:
            ValueError: `condition` is passed, for which a transformer has no blocks.
        """
        if condition is not None:
            raise ValueError("condition must be None for a transformer; got known frames.")
        onload(self.unet, self.adapter)
        batch, num_views = sample.shape[:2]
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(batch).repeat_interleave(num_views)
        rows = (sample.flatten(0, 1), timesteps, map_states(lambda one: one.flatten(0, 1), encoder_hidden_states))
        joint = geometry is not None and num_views > 1
        scene = Scene(geometry, num_views, view_valid, neighbour_batch) if joint else None
        recomputed = self.gradient_checkpointing and torch.is_grad_enabled()
        with self._recomputing(scene) if recomputed else self._attached(scene):
            return self._predict(*rows).unflatten(0, (batch, num_views))

    @contextmanager
    def _attached(self, scene: Scene | None, only: nn.Module | None = None) -> Iterator[None]:
        """Hang the attention behind its blocks, or behind one of them.

        Without a scene, too: torch.compile would not see that a forward is no longer replaced.
        """
        with ExitStack() as stack:
            for module, followed in self._places:
                if only is None or module is only:
                    stack.enter_context(followed.attached(module, scene))
            yield

    def _with_attention(
        self, scene: Scene | None, attention: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        output = forward(*args, **kwargs)
        if scene is None:
            return output
        taps = scene.geometry.levels[0]
        tokens = self._read(output, taps.height * taps.width)
        hidden_states = tokens.unflatten(0, (-1, scene.num_views)).transpose(-1, -2)
        hidden_states = hidden_states.unflatten(-1, (taps.height, taps.width))
        if self.unet.dtype != self.adapter.dtype:
            hidden_states = hidden_states.to(self.adapter.dtype)
        updated = attention(hidden_states, taps, scene.view_valid, scene.neighbour_batch)
        updated = updated.flatten(-2).transpose(-1, -2).flatten(0, 1).to(tokens.dtype)
        return self._write(output, updated)

    @contextmanager
    def _recomputing(self, scene: Scene | None) -> Iterator[None]:
        """Recompute each block in the backward pass with the scene of this call, which has ended by then."""

        def run(block: Callable[..., Any], *args: Any) -> Any:
            with self._attached(scene, only=block):
                return block(*args)

        self.unet.enable_gradient_checkpointing(partial(_checkpointed, run))
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()


def _checkpointed(run: Callable[..., Any], block: nn.Module, *args: Any) -> Any:
    return checkpoint(run, block, *args, use_reentrant=False)
