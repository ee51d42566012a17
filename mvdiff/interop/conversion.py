"""Convert published checkpoints of upstream to model folders and back (docs/checkpoints.md).

A checkpoint has the attention's weights and a copy of its base. The copy must equal the chosen base, or is written as a
separate base on request; the depth model needs the latter, since its UNet was finetuned.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from mvdiff.files.paths import expanded, kind_of
from mvdiff.files.writing import check_apart, check_plain, check_plain_folder, is_temporary, whole_file
from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.attention import CLASS_PATH
from mvdiff.interop.keys import (
    ATTENTION,
    BASE_PREFIXES,
    KINDS,
    adapter_state,
    file_kind,
    model_states,
    upstream_base_state,
    upstream_state,
)
from mvdiff.interop.reading import CheckpointContent, read_lightning_file
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import Backbone, load_backbone
from mvdiff.pipelines.base_reference import reference_to
from mvdiff.pipelines.model_card import ORIGIN, TrainingRecord
from mvdiff.pipelines.model_folder import (
    ModelInfo,
    check_new_model_folder,
    load_adapter,
    load_lora,
    model_location,
    read_model_info,
    write_model_folder,
)
from mvdiff.tasks.opening import task_from
from mvdiff.tasks.task import Task


@dataclass(frozen=True)
class UpstreamTask:
    """Properties of one of upstream's models.

    Attributes:
        kind: Kind of its weight names, see `file_kind`.
        task: Task of the model, with the paper's base and prompt prefix.
        extra_channels: Number of input channels of the UNet besides the latents.
        text_dtype: Precision of the text encoder; None: float32, as for the other parts.
        data: Training data set according to the paper.
        height: Height of its views in pixels.
        width: Width of its views in pixels.
    """

    kind: str
    task: Task
    extra_channels: int
    text_dtype: str | None
    data: str
    height: int = 512
    width: int = 512


TASKS = {
    "panorama": UpstreamTask("panorama", task_from("panorama"), 0, "float16", "Matterport3D"),
    "outpaint": UpstreamTask("panorama", task_from("outpaint"), 5, "float16", "Matterport3D"),
    "depth": UpstreamTask("depth", task_from("depth"), 1, None, "ScanNet", 192, 256),
}
SINGLE_VIEW = "depth-single-view"


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion.

    Attributes:
        info: Description of the model folder; None if only a base was written.
        num_weights: Number of tensors of the attention and condition blocks in the file.
        num_parameters: Number of trained parameters in them, without the frequencies.
        base_parts: Parts of the base in the file.
        saved_base: True if these parts were written as a base, False if they were compared with one.
        content: Content of the file, including the names of ignored entries.
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
    text_dtype: str | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Convert a published checkpoint to a model folder with upstream's attention.

    Args:
        checkpoint: Upstream's Lightning file; no code in it is run (see `read_lightning_file`).
        task: "panorama", "outpaint" or "depth".
        out: Model folder to write, see `write_model_folder`.
        base: Folder or hub id of the base that the model was trained on; default: a copy of upstream's base on the hub.
        revision: Branch, tag or commit of a hub base.
        save_base: New folder to write the file's base to; the model then refers to it. `base` supplies configs,
            tokenizer and scheduler, and the weights of parts that the file lacks. None: the file's base must equal
            `base`.
        height: Height of the views in pixels, a multiple of the UNet's largest cell; default: upstream's.
        width: Width of the views in pixels, likewise.
        text_dtype: Precision of the text encoder, "float32", "float16" or "bfloat16"; default: upstream's, which is
            float16 for panorama and outpainting and float32 for depth.
        overwrite: Replace a model folder at `out`; a base is never replaced.

    Raises:
        FileExistsError: `out` is a model folder and `overwrite` is False, or an output folder is not empty.
        FileNotFoundError: The checkpoint or the base does not exist.
        ValueError: The checkpoint cannot be read or is for another task; its weights do not match the model or are not
            finite; its base differs from `base`; the height or width does not fit the model; or the folders overlap.
        OSError: A folder cannot be written.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}; got {task!r}.")
    upstream = TASKS[task]
    name = _lasting(base or upstream.task.default_base)
    local_base = name if Path(name).is_dir() else None
    check_apart("out", out, {"save_base": save_base, "base": local_base, "checkpoint": checkpoint}, inside=True)
    if save_base is not None:
        check_apart("save_base", save_base, {"base": local_base, "checkpoint": checkpoint}, inside=True)
    check_new_model_folder(out, overwrite)
    if save_base is not None:
        _check_new_base(save_base)

    content = read_lightning_file(checkpoint)
    _check_kind(content, upstream.kind, task, checkpoint)
    backbone = load_backbone(name, revision, without_weights=_held(content) if save_base is not None else ())
    _check_channels(backbone.unet.config.in_channels - backbone.latent_channels, task, f"base {name}")
    first = content.state.get(BASE_PREFIXES["unet"] + "conv_in.weight")
    if first is not None and first.ndim == 4:
        _check_channels(first.shape[1] - backbone.latent_channels, task, f"checkpoint {checkpoint}")
    given = {"height": height, "width": width}
    size = {side: getattr(upstream, side) if pixels is None else pixels for side, pixels in given.items()}
    _check_size(size, backbone, upstream)
    text_dtype = {None: upstream.text_dtype, "float32": None}.get(text_dtype, text_dtype)
    attention = {"class_path": CLASS_PATH, "init_args": {"depth": upstream.kind == "depth"}}
    with torch.device("meta"):
        settings = replace(upstream.task.adapter, attention=None).chosen()
        adapter = MultiViewAdapter.from_unet(backbone.unet, attention, **settings)
    parts = model_states(content.state, {ATTENTION: adapter, **_weights(backbone)}, str(checkpoint), [ATTENTION])
    state = adapter_state(parts.pop(ATTENTION), adapter.mid_block.depth, str(checkpoint))
    adapter.load_state_dict(state, assign=True)
    if save_base is None:
        _check_same(backbone, parts, name, checkpoint)
        reference = reference_to(backbone, name, revision, text_dtype=text_dtype)
    else:
        if "unet" not in parts:
            raise ValueError(
                f"checkpoint must have a base under {BASE_PREFIXES['unet']} for --save_base; got none, in {checkpoint}."
            )
        _write_base(backbone, parts, save_base)  # first: the path of a missing folder may look like a hub id
        reference = reference_to(backbone, _lasting(save_base), text_dtype=text_dtype)
    views = {"rig": RingRig(**size)} if "rig" in upstream.task.view_fields else size
    origin = f"converted from {Path(checkpoint).name}, a checkpoint file of the layout of the paper's authors"
    record = TrainingRecord(upstream.data, {ORIGIN: origin})
    info = ModelInfo(upstream.task, views, upstream.task.prompt_prefix, reference, record)
    try:
        write_model_folder(out, adapter, backbone.scheduler, info)
    except OSError:
        if save_base is not None:
            shutil.rmtree(save_base, ignore_errors=True)
        raise
    num_parameters = sum(parameter.numel() for parameter in adapter.parameters())
    return Conversion(info, len(state), num_parameters, tuple(parts), save_base is not None, content)


def convert_single_view(
    checkpoint: str | Path, out: str | Path, base: str | Path | None = None, revision: str | None = None
) -> Conversion:
    """Convert a single-view checkpoint (`depth_single_view.ckpt`, stage 1 of the depth task) to a base.

    The file has its UNet under `mv_base_model.unet.`; missing parts are taken from `base`. For the arguments see
    `convert_checkpoint`.

    Raises:
        FileNotFoundError: The checkpoint or the base does not exist.
        ValueError: The checkpoint cannot be read, or its weights do not match the base's UNet and, if present, the
            other parts.
        OSError: The folder cannot be written.
    """
    check_apart("out", out, {"checkpoint": checkpoint, "base": base}, inside=True)
    _check_new_base(out)
    content = read_lightning_file(checkpoint)
    _check_kind(content, "single-view", SINGLE_VIEW, checkpoint)
    backbone = load_backbone(base or TASKS["depth"].task.default_base, revision, without_weights=_held(content))
    parts = model_states(content.state, _weights(backbone), str(checkpoint), ["unet"])
    _write_base(backbone, parts, out)
    return Conversion(None, 0, 0, tuple(parts), True, content)


def export_to_upstream(
    model: str | Path,
    out: str | Path,
    with_base: bool = False,
    base: str | Path | None = None,
    overwrite: bool = False,
) -> dict[str, Tensor]:
    """Convert a model folder with upstream's attention to a checkpoint with upstream's weight names.

    Args:
        model: Model folder.
        out: New file, a Lightning checkpoint with only a `state_dict`.
        with_base: Also write the base, as in the published files.
        base: Folder or hub id of the base; default: the recorded one.
        overwrite: Replace an existing file.

    Returns:
        The written weights by name.

    Raises:
        FileExistsError: The file exists and `overwrite` is False, or `out` is a folder.
        OSError: The file cannot be written.
        FileNotFoundError: The model folder or its base does not exist.
        ValueError: The model does not have upstream's attention, or the base has other weights than the model's base.
    """
    out = Path(out)
    if out.is_dir() or (out.exists() and not overwrite):
        problem = "is a folder. Choose" if out.is_dir() else "exists. Pass --overwrite to replace it, or choose"
        raise FileExistsError(f"out must be a new file; got {out}, which {problem} another --out.")
    check_plain(out)
    folder = model_location(model)
    check_apart("out", out, {"the model": folder, "the base": base}, inside=True)
    info = read_model_info(folder)
    if load_lora(folder) is not None:
        raise ValueError(f"model must have no LoRA, for which the 2023 release has no place; got {folder} with one.")
    state = upstream_state(load_adapter(folder))
    if with_base:
        name = info.base.id if base is None else base
        backbone = load_backbone(name, info.base.revision if base is None else None, vae=info.base.vae)
        if info.base.weights_hash not in (None, backbone.weights_hash()):
            raise ValueError(
                f"base must be the model's, {info.base.id} with weights {info.base.weights_hash}; got {name} with "
                f"weights {backbone.weights_hash()}."
            )
        state |= upstream_base_state(_weights(backbone), info.base.text_dtype)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(out) as file:
            torch.save({"state_dict": state}, file)
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
        raise OSError(f"out must be writable; got {error}, in {out}.") from error
    return state


def _check_kind(content: CheckpointContent, kind: str, task: str, checkpoint: str | Path) -> None:
    found = file_kind(content.state)
    if found != kind:
        first = ", ".join(sorted({name.split(".")[0] for name in content.state})[:8])
        raise ValueError(
            f"checkpoint must be one of the 2023 release for the task {task}; got a file that looks like "
            f"{KINDS[found]}, with weight names that begin with {first}, in {checkpoint}."
        )


def _check_channels(extra: int, task: str, what: str) -> None:
    expected = TASKS[task].extra_channels
    if extra != expected:
        names = {one.extra_channels: name for name, one in TASKS.items()}
        looks = f", as for {names[extra]}" if extra in names else ""
        raise ValueError(
            f"a UNet for {task} must have {expected} input channels besides the latents; got {extra}{looks}, in {what}."
        )


def _check_size(size: Mapping[str, int], backbone: Backbone, upstream: UpstreamTask) -> None:
    cell = backbone.vae_stride * 2 ** (len(backbone.unet.config.block_out_channels) - 1)
    for side, pixels in size.items():
        if pixels < 1 or pixels % cell:
            raise ValueError(
                f"{side} must be a positive multiple of {cell} pixels, the largest cell of the base's UNet; got "
                f"{pixels}. The 2023 release's {side} is {getattr(upstream, side)}."
            )
    height, width = size["height"], size["width"]
    if upstream.kind == "depth" and (height // cell) * (width // cell) % 2:
        raise ValueError(
            f"height and width must give an even number of cells of {cell} pixels for a depth model, which encodes "
            f"them in pairs; got {height}x{width}. The 2023 release's size is {upstream.height}x{upstream.width}."
        )


def _lasting(name: str | Path) -> str:
    """Return the absolute path of a folder, and any other name unchanged."""
    folder = expanded(name)
    return str(folder.resolve()) if kind_of(folder) == "folder" else str(name)


def _held(content: CheckpointContent) -> list[str]:
    """Return the parts of a base of which a file holds weights."""
    return [part for part, prefix in BASE_PREFIXES.items() if any(name.startswith(prefix) for name in content.state)]


def _weights(backbone: Backbone) -> dict[str, nn.Module]:
    return {part: getattr(backbone, part) for part in BASE_PREFIXES}


def _check_same(backbone: Backbone, parts: dict[str, dict[str, Tensor]], base: str, checkpoint: str | Path) -> None:
    """Raise ValueError if the file's base differs from the chosen one, compared in the file's precision."""
    for part, state in parts.items():
        own = getattr(backbone, part).state_dict()
        names = [name for name, value in state.items() if not torch.equal(own[name].to(value.dtype), value)]
        if names:
            raise ValueError(
                f"base must be the one that the checkpoint was trained on; got {base}, whose {part} differs from that "
                f"in {checkpoint} in {len(names)} of {len(state)} weights, such as {names[0]}. Choose the right "
                "--base, or write the file's own base with --save_base DIR (the depth model has a finetuned one)."
            )


def _check_new_base(out: str | Path) -> None:
    """Raise OSError if a base cannot be written to a folder, which must be new or empty."""
    out = Path(out)
    check_plain_folder(out)
    if out.is_dir() and not all(is_temporary(path.name) for path in out.iterdir()):
        raise FileExistsError(f"the base's folder must be new or empty; got {out}.")


def _write_base(backbone: Backbone, parts: dict[str, dict[str, Tensor]], out: str | Path) -> None:
    """Load the file's parts into the base, in place, and write it to a new folder, completely or not at all."""
    for part, state in parts.items():
        getattr(backbone, part).load_state_dict(state)
    try:
        backbone.save_pretrained(out)
    except (OSError, SafetensorError) as error:
        raise OSError(f"the base's folder {out} must be writable; got {error}.") from error
