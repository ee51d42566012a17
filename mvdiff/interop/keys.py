"""Map weight names between upstream's checkpoints and mvdiff, strictly in both directions (docs/checkpoints.md)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

import torch
from torch import Tensor, nn

from mvdiff.interop.attention import UpstreamAttention
from mvdiff.interop.taps import frequency_bands
from mvdiff.models.adapter import MultiViewAdapter

MODEL = "mv_base_model."
BASE_PREFIXES = {"unet": f"{MODEL}unet.", "vae": "vae.", "text_encoder": "text_encoder."}
"""Prefix of each part of the base in a checkpoint."""
ATTENTION = "attention"
"""Name of the trained part, next to the parts of the base."""
_BANDS = "freq_bands"
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Old and current names of the layers of the autoencoder's attention."""
_TEXT = "text_model."
_TEXT_IDS = "embeddings.position_ids"
KINDS = {
    "panorama": "panorama or outpainting",
    "depth": "depth",
    "single-view": "a single-view model (a base, as stage 1 of depth writes)",
    "none": "none of the models of the 2023 release",
}
"""Descriptions of the kinds that `file_kind` returns."""


def file_kind(names: Iterable[str]) -> str:
    """Return the kind of a checkpoint by its weight names; one of `KINDS`.

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


def upstream_name(name: str, depth: bool) -> str:
    """Return upstream's name of an adapter's weight.

    Args:
        name: Name in the state dict of a `MultiViewAdapter` with `UpstreamAttention`.
        depth: True for the depth model.

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
    elif rest == _BANDS:
        rest = "attn1." * depth + f"pe.{_BANDS}"
    else:
        inner = "" if rest.startswith(("norm", "ff.")) else "attn1."
        rest = "attn1." * depth + f"transformer.{inner}{rest}"
    return f"{MODEL}cp_blocks_{place}.{rest}"


def model_states(
    state: Mapping[str, Tensor], modules: Mapping[str, nn.Module], where: str, needed: Collection[str] = ()
) -> dict[str, dict[str, Tensor]]:
    """Split a checkpoint into state dicts by part, with mvdiff's names and the file's precision.

    Args:
        state: All weights of the checkpoint.
        modules: Modules with the expected names and shapes: "attention" (an adapter with `UpstreamAttention`), "unet",
            "vae" and "text_encoder". They may be on the meta device.
        where: File of the checkpoint, for error messages.
        needed: Parts that are required; each other part must be complete or absent.

    Returns:
        State dicts of the parts that the checkpoint has.

    Raises:
        ValueError: Weights are missing, unexpected or have another shape; the message lists them by full name.
    """
    expected = {part: module.state_dict() for part, module in modules.items()}
    adapter = modules.get(ATTENTION)
    depth = adapter is not None and adapter.mid_block.depth
    attention = {upstream_name(name, depth): name for name in expected.get(ATTENTION, {})}
    found: dict[str, dict[str, Tensor]] = {}
    unexpected, shapes = [], []
    for full, value in state.items():
        part, name = base_name(full) or (ATTENTION, attention.get(full, full))
        if (part, name) == ("text_encoder", _TEXT_IDS):
            continue
        if name not in expected.get(part, {}) or name in found.get(part, {}):
            unexpected.append(full)
            continue
        shape = expected[part][name].shape
        if part == "vae" and value.shape == (*shape, 1, 1):
            value = value[:, :, 0, 0]  # older files have 1x1 convolutions in place of linear layers
        if part == ATTENTION and name.endswith(_BANDS) and value.shape == (1, 1, *shape):
            value = value[0, 0]  # upstream's buffer; files of earlier versions of mvdiff have [n]
        if value.shape != shape:
            shapes.append(f"{full} {list(value.shape)} for {list(shape)}")
        found.setdefault(part, {})[name] = value
    held = [part for part in modules if part in needed or part in found]
    missing = [
        upstream_name(name, depth) if part == ATTENTION else upstream_base_name(part, name)
        for part in held
        for name in set(expected[part]) - set(found.get(part, {}))
    ]
    wrong = {"missing": missing, "unexpected": unexpected, "with another shape": shapes}
    if any(wrong.values()):
        summary = "; ".join(
            f"{len(names)} {kind}: {', '.join(sorted(names))}" for kind, names in wrong.items() if names
        )
        exactly = ", ".join(f"{len(expected[part])} of {part}" for part in held)
        raise ValueError(
            f"weights of the checkpoint must match the model, {exactly}; got {summary}; in {where}. Check --task and "
            "--base."
        )
    return found


def adapter_state(state: Mapping[str, Tensor], depth: bool, where: str) -> dict[str, Tensor]:
    """Return an adapter's weights in float32.

    Half precision cannot represent the frequencies, up to 2^79, so they are recomputed if the file has half precision.

    Args:
        state: Attention part of the output of `model_states`.
        depth: True for the depth model.
        where: File of the checkpoint, for error messages.

    Raises:
        ValueError: A weight is not finite, or frequencies in half precision are not upstream's after rounding.
    """
    weights = {name: value.float().contiguous() for name, value in state.items()}
    for name, value in state.items():
        if name.endswith(_BANDS) and value.is_floating_point() and value.dtype.itemsize < 4:
            weights[name] = frequency_bands(len(value), base_two=not depth)
            rounded, tolerance = weights[name].to(value.dtype), torch.finfo(value.dtype).eps * weights[name]
            if not ((value == rounded) | ((value.float() - weights[name]).abs() <= tolerance)).all():
                raise ValueError(
                    f"frequencies in half precision must be the 2023 release's, rounded; got others in "
                    f"{upstream_name(name, depth)}, in {where}. Use the file in float32."
                )
    broken = [upstream_name(name, depth) for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"weights of the checkpoint must be finite; got infinity or NaN in {', '.join(sorted(broken))}, in {where}."
        )
    return weights


def upstream_state(adapter: MultiViewAdapter) -> dict[str, Tensor]:
    """Return an adapter's weights with upstream's names and shapes: frequencies are [1, 1, n].

    Raises:
        ValueError: The adapter does not have upstream's attention, or has a block that upstream does not have.
    """
    attention = type(adapter.mid_block)
    if attention is not UpstreamAttention:
        raise ValueError(
            f"attention of the model must be {UpstreamAttention.__name__}, for export to the 2023 release's format; "
            f"got {attention.__name__}."
        )
    depth = adapter.mid_block.depth
    blocks = adapter.condition_blocks
    whole = adapter.config.residual == (blocks is not None) == depth
    if not whole or (blocks is not None and blocks.mid_block is not None):
        raise ValueError(
            "model must have the 2023 release's blocks: residual and image_condition both or neither, and a mid block "
            "as wide as the last down block's input; got other blocks."
        )
    state = {upstream_name(name, depth): value.detach() for name, value in adapter.state_dict().items()}
    return {name: value[None, None] if name.endswith(_BANDS) else value for name, value in state.items()}


def base_name(full: str) -> tuple[str, str] | None:
    """Return the base part of a checkpoint's weight name and its current name in that part; None for other names.

    Example:
        >>> base_name("vae.encoder.mid_block.attentions.0.query.weight")
        ('vae', 'encoder.mid_block.attentions.0.to_q.weight')
    """
    part = _part(full)
    if part is None:
        return None
    name = full.removeprefix(BASE_PREFIXES[part])
    if part == "text_encoder":
        name = name.removeprefix(_TEXT)
    if part == "vae":
        name = re.sub(r"(?<=\.attentions\.0\.)(query|key|value|proj_attn)\b", lambda old: _ATTENTION[old[0]], name)
    return part, name


def upstream_base_name(part: str, name: str) -> str:
    """Return upstream's full name of a weight of a base part; the inverse of `base_name`."""
    if part == "text_encoder":
        name = _TEXT + name
    if part == "vae":
        old = {new: before for before, new in _ATTENTION.items()}
        name = re.sub(r"(?<=\.attentions\.0\.)to_(?:q|k|v|out\.0)(?=\.)", lambda new: old[new[0]], name)
    return BASE_PREFIXES[part] + name


def upstream_base_state(parts: Mapping[str, nn.Module], text_dtype: str | None = None) -> dict[str, Tensor]:
    """Return the weights of a base under upstream's names, its text encoder with `position_ids` and in `text_dtype`.

    Args:
        parts: "unet", "vae" and "text_encoder".
        text_dtype: Name of a torch dtype; None: as it is.
    """
    state = {
        upstream_base_name(part, name): value.detach()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
    }
    prefix = f"{BASE_PREFIXES['text_encoder']}{_TEXT}"
    if text_dtype is not None:
        dtype = getattr(torch, text_dtype)
        state = {name: value.to(dtype) if name.startswith(prefix) else value for name, value in state.items()}
    length = parts["text_encoder"].config.max_position_embeddings
    return state | {prefix + _TEXT_IDS: torch.arange(length)[None]}


def _part(name: str) -> str | None:
    return next((part for part, prefix in BASE_PREFIXES.items() if name.startswith(prefix)), None)
