"""Caches of diffusers that skip blocks of a transformer between steps, the attention across views in them included."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks import (
    FirstBlockCacheConfig,
    HookRegistry,
    TaylorSeerCacheConfig,
    apply_first_block_cache,
    apply_taylorseer_cache,
)
from diffusers.hooks.first_block_cache import _FBC_BLOCK_HOOK, _FBC_LEADER_BLOCK_HOOK
from diffusers.hooks.taylorseer_cache import _TAYLORSEER_CACHE_HOOK
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.cache_utils import CacheMixin
from torch import nn

_HOOKS = (_FBC_LEADER_BLOCK_HOOK, _FBC_BLOCK_HOOK, _TAYLORSEER_CACHE_HOOK)


def enable_block_cache(network: nn.Module, config: Any) -> None:
    """Apply a cache to a transformer, also to one whose class has no `enable_cache`.

    Args:
        network: Transformer of diffusers.
        config: `FirstBlockCacheConfig` or `TaylorSeerCacheConfig`.

    Raises:
        ValueError: The config is of another kind, or the cache does not fit the network.
    """
    disable_block_cache(network)
    name = f"{type(config).__name__} of a {type(network).__name__}"
    if isinstance(config, FirstBlockCacheConfig):
        apply_first_block_cache(network, config)
    elif isinstance(config, TaylorSeerCacheConfig):
        apply_taylorseer_cache(network, config)
    else:
        raise ValueError(f"config must be a FirstBlockCacheConfig or TaylorSeerCacheConfig; got a {name}.")
    cached = [module for module in network.modules() if _hooks(module)]
    reason = None
    if not cached:
        reason = f"must name its modules in cache_identifiers, such as its blocks; got {config.cache_identifiers}"
    elif any(isinstance(module, JointTransformerBlock) and module.context_pre_only for module in cached):
        reason = (
            "must leave out its last block, which returns no text; use a TaylorSeerCacheConfig, or other identifiers"
        )
    elif isinstance(config, FirstBlockCacheConfig) and not all(map(_takes_hidden_states, cached)):
        reason = "does not know its blocks; use a TaylorSeerCacheConfig"
    if reason is not None:
        disable_block_cache(network)
        raise ValueError(f"{name} {reason}.")


def _takes_hidden_states(block: nn.Module) -> bool:
    """Return True if diffusers finds the hidden states among the arguments of a block."""
    return "hidden_states" in inspect.signature(type(block).forward).parameters


def disable_block_cache(network: nn.Module) -> None:
    """Remove the caches that `enable_block_cache` applied."""
    registry = HookRegistry.check_if_exists_or_initialize(network)
    for name in _HOOKS:
        registry.remove_hook(name, recurse=True)


@contextmanager
def fresh_block_cache(network: nn.Module) -> Iterator[None]:
    """Empty the caches of a network before and after one denoising, whoever applied them."""
    if not any(_hooks(module) for module in network.modules()):
        yield
        return
    registry = HookRegistry.check_if_exists_or_initialize(network)
    registry.invalidate_child_registries_cache()
    registry.reset_stateful_hooks()
    try:
        with CacheMixin.cache_context(network, "views"):
            yield
    finally:
        registry.reset_stateful_hooks()


def innermost_forward(module: nn.Module) -> tuple[Any, str]:
    """Return the object and the name of its attribute that hold a module's forward, within all hooks of diffusers."""
    registry = getattr(module, "_diffusers_hook", None)
    if registry is None or not registry._fn_refs:
        return module, "forward"
    first = registry._fn_refs[0]
    return first, "forward" if first.original_forward is None else "original_forward"


@contextmanager
def replaced_forward(module: nn.Module, replace: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Replace a module's own forward for a while, so that caches keep and skip what the new one does."""
    owner, name = innermost_forward(module)
    forward, was_own = getattr(owner, name), name in vars(owner)
    setattr(owner, name, replace(forward))
    try:
        yield
    finally:
        if was_own:
            setattr(owner, name, forward)
        else:
            delattr(owner, name)


def _hooks(module: nn.Module) -> dict[str, Any]:
    registry = getattr(module, "_diffusers_hook", None)
    return {} if registry is None else registry.hooks
