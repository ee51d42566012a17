"""Refuse patches of a UNet that would do nothing: `MultiViewUNet` calls a UNet's layers, not the UNet or its blocks."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

REMEDY = (
    "Call pipeline.enable_deep_cache, pipeline.enable_freeu or pipeline.enable_compile, or patch the layers "
    "(docs/generate.md)."
)


def check_calls(unet: nn.Module) -> None:
    """Raise ValueError if something hangs on the UNet as a whole or on one of its blocks, which are never called.

    Args:
        unet: `UNet2DConditionModel`. Hooks of accelerate are allowed: `MultiViewUNet` runs them.
    """
    if hasattr(unet, "_orig_mod"):
        raise ValueError(f"unet must not be compiled as a whole, since its layers are called one by one. {REMEDY}")
    for name, module in _never_called(unet):
        if patch := _patch(module):
            raise ValueError(
                f"{name} must not have {patch}, which would do nothing: its layers are called one by one. {REMEDY}"
            )


def _never_called(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    yield "unet", unet
    for side in ("down_blocks", "up_blocks"):
        yield from ((f"unet.{side}.{i}", block) for i, block in enumerate(getattr(unet, side)))
    yield "unet.mid_block", unet.mid_block


def _patch(module: nn.Module) -> str | None:
    """Say what hangs on a module; None: nothing."""
    forward = module.forward
    if getattr(getattr(forward, "func", None), "__module__", None) == "accelerate.hooks":
        forward = module._old_forward
    if getattr(forward, "__func__", None) is not type(module).forward:
        return "another forward"
    if module._forward_hooks or module._forward_pre_hooks:
        return "forward hooks"
    return "a compiled forward" if module._compiled_call_impl is not None else None
