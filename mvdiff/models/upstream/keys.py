"""The names of weights in upstream's checkpoints and ours, strictly in both directions (docs/checkpoints.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mvdiff.models.adapter import MultiViewAdapter

MODEL = "mv_base_model."
BASE_PREFIXES = {"unet": f"{MODEL}unet.", "vae": "vae.", "text_encoder": "text_encoder."}
"""Where a checkpoint keeps the parts of its base."""
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of the autoencoder's attention: their old names and today's."""
_TEXT = "text_model."
_TEXT_IDS = "embeddings.position_ids"
_KINDS = {
    "panorama": "panorama or outpainting",
    "depth": "depth",
    "single-view": "a single-view model (a base, as stage 1 of depth writes)",
    "none": "none of upstream's models",
}


def file_kind(names: Iterable[str]) -> str:
    """Say what a checkpoint's names are those of: "panorama" (also of outpainting), "depth", "single-view", "none".

    Example:
        >>> file_kind(["mv_base_model.cp_blocks_mid.transformer.norm1.weight"])
        'panorama'
    """
    names = list(names)
    if any(name.startswith((f"{MODEL}cp_blocks_mid.attn1.", f"{MODEL}condition_")) for name in names):
        return "depth"
    if any(name.startswith(f"{MODEL}cp_blocks_") for name in names):
        return "panorama"
    return "single-view" if any(_part(name) for name in names) else "none"


def kind_in_words(kind: str) -> str:
    """Return what `file_kind` says, for an error's text."""
    return _KINDS[kind]


def upstream_name(name: str, depth: bool) -> str:
    """Return upstream's name of one of an adapter's weights.

    Args:
        name: in the state dict of a `MultiViewAdapter` of the upstream variant.
        depth: whether it is the depth model.

    Example:
        >>> upstream_name("up_blocks.3.to_q.weight", depth=False)
        'mv_base_model.cp_blocks_decoder.3.transformer.attn1.to_q.weight'
        >>> upstream_name("mid_block.residual.norm1.bias", depth=True)
        'mv_base_model.cp_blocks_mid.resnet.bn1.bias'
    """
    if name.startswith("condition_blocks."):
        rest = name.removeprefix("condition_blocks.")
        rest = re.sub(r"^(down|up)_blocks\.", r"\1blocks.", rest)
        return f"{MODEL}condition_{rest}"
    place, rest = re.fullmatch(r"((?:down|up)_blocks\.\d+|mid_block)\.(.+)", name).groups()
    place = place.replace("down_blocks", "encoder").replace("up_blocks", "decoder").replace("mid_block", "mid")
    if rest.startswith("residual."):
        rest = "resnet." + rest.removeprefix("residual.").replace("norm", "bn")
    elif rest == "freq_bands":
        rest = "attn1." * depth + "pe.freq_bands"
    else:
        inner = "" if rest.startswith(("norm", "ff.")) else "attn1."
        rest = "attn1." * depth + f"transformer.{inner}{rest}"
    return f"{MODEL}cp_blocks_{place}.{rest}"


def adapter_state(state: Mapping[str, Tensor], adapter: MultiViewAdapter, where: str) -> dict[str, Tensor]:
    """Take an adapter's weights out of a checkpoint, under our names, in float32.

    Args:
        state: all weights of the checkpoint.
        adapter: of the upstream variant, for the names and shapes; it may be on the meta device.
        where: the file, for errors.

    Raises:
        ValueError: weights are missing, left over or of other shapes; all of them are listed.
    """
    depth = adapter.config.residual
    expected = {upstream_name(name, depth): (name, value) for name, value in adapter.state_dict().items()}
    found = {name: value for name, value in state.items() if not _part(name)}
    check_names({name: value for name, (_, value) in expected.items()}, found, "attention's weights", where)
    return {ours: found[name].float().contiguous() for name, (ours, _) in expected.items()}


def upstream_state(adapter: MultiViewAdapter) -> dict[str, Tensor]:
    """Return an adapter's weights under upstream's names.

    Raises:
        ValueError: the adapter is not of the upstream variant, or has a block that upstream has no name for.
    """
    if adapter.config.variant != "upstream":
        raise ValueError(
            f"model must be of the upstream variant, whose attention computes what upstream's does; got one of the "
            f"{adapter.config.variant} variant. Its weights would mean something else there."
        )
    blocks = adapter.condition_blocks
    if (blocks is None) == adapter.config.residual or (blocks is not None and blocks.mid_block is not None):
        raise ValueError(
            "model must have upstream's blocks, residual and image conditions together or neither, and a mid block as "
            "wide as the last down block's input; got others. Upstream has no names for them."
        )
    depth = adapter.config.residual
    return {upstream_name(name, depth): value.detach() for name, value in adapter.state_dict().items()}


def base_states(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Take the parts of the base out of a checkpoint, under today's names.

    Returns:
        By part ("unet", "vae", "text_encoder"), those that the file has; empty for a file of attention alone.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        part = _part(name)
        if part is None:
            continue
        rest = name.removeprefix(BASE_PREFIXES[part])
        if part == "text_encoder":
            rest = rest.removeprefix(_TEXT)
            if rest == _TEXT_IDS:
                continue
        if part == "vae":
            rest = re.sub(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)\b", lambda old: _ATTENTION[old[0]], rest)
            if re.search(r"\.attentions\.0\.to_(q|k|v|out\.0)\.weight$", rest) and value.ndim == 4:
                value = value[:, :, 0, 0]  # a 1x1 convolution, as the first files had it
        parts.setdefault(part, {})[rest] = value
    return parts


def upstream_base_state(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a part of a base under the names of upstream's time.

    Args:
        part: "unet", "vae" or "text_encoder".
        state: its weights under today's names.
    """
    old = {new: name for name, new in _ATTENTION.items()}
    renamed = {}
    for name, value in state.items():
        if part == "text_encoder":
            name = _TEXT + name
        if part == "vae":
            name = re.sub(r"(?<=\.attentions\.0\.)to_(?:q|k|v|out\.0)(?=\.)", lambda new: old[new[0]], name)
        renamed[BASE_PREFIXES[part] + name] = value.detach()
    return renamed


def load_base_part(module: nn.Module, state: Mapping[str, Tensor], part: str, where: str) -> None:
    """Load a part of a base, strictly, in the precision that the module has.

    Raises:
        ValueError: weights are missing, left over or of other shapes; all of them are listed.
    """
    check_names(module.state_dict(), state, f"{part}'s weights", where)
    module.load_state_dict(dict(state))


def differing(module: nn.Module, state: Mapping[str, Tensor], part: str, where: str) -> list[str]:
    """List the weights of a part that are not the module's, in the precision of the file.

    Raises:
        ValueError: weights are missing, left over or of other shapes; all of them are listed.
    """
    own: Mapping[str, Any] = module.state_dict()
    check_names(own, state, f"{part}'s weights", where)
    return [name for name, value in state.items() if not torch.equal(own[name].to(value.dtype), value)]


def check_names(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], what: str, where: str) -> None:
    """Compare names and shapes of weights.

    Raises:
        ValueError: they differ; every missing and unexpected name and every other shape is listed.
    """
    wrong = {
        "missing": sorted(set(expected) - set(found)),
        "unexpected": sorted(set(found) - set(expected)),
        "of another shape": [
            f"{name} {list(found[name].shape)} for {list(expected[name].shape)}"
            for name in sorted(set(expected) & set(found))
            if found[name].shape != expected[name].shape
        ],
    }
    wrong = {kind: names for kind, names in wrong.items() if names}
    if wrong:
        summary = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in wrong.items())
        raise ValueError(
            f"{what} must be exactly the {len(expected)} of the model; got {summary}; in {where}. Check --task and "
            "--base: this is a file of another model, or another base was named."
        )


def _part(name: str) -> str | None:
    return next((part for part, prefix in BASE_PREFIXES.items() if name.startswith(prefix)), None)
