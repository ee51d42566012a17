"""Open a model for a command: places of its parts, device, precision, memory switches."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import Literal

from mvdiff.cli.mistakes import did_you_mean


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Model, device and precision."""

    model: str
    """a model folder (written by mvdiff fit or mvdiff export), a Hugging Face hub id, or a packaged model: mvdiff://toy-caa
    (panorama), mvdiff://toy-outpaint (outpaint), mvdiff://toy-depth (depth)"""
    revision: str | None = None
    """branch, tag or commit of --model, if it is a hub id"""
    base: str | None = None
    """folder or hub id of the base, in place of the one named in the model folder; must have the same weights"""
    vae: str | None = None
    """folder or hub id of an autoencoder to use in place of the base's (default: the one named in the model folder,
    else the base's)"""
    scheduler: str | None = None
    """diffusers scheduler class, with or without the suffix Scheduler, such as DPMSolverMultistep or EulerDiscrete
    (default: the model's)"""
    device: str = "auto"
    """auto (the GPU if there is one), cpu, cuda, or one of several GPUs, such as cuda:1"""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """weight precision (default: float32; a text encoder precision set in the model folder is kept)"""
    plugin: list[str] | None = None
    """Python package from which the model may load classes; its code is executed; repeat for several"""


@dataclass(frozen=True, kw_only=True)
class MethodOptions(ModelOptions):
    """Method, model, device and precision."""

    method: str = "mvdiffusion"
    """method that makes the views (docs/methods.md): mvdiffusion; independent (the base, view by view); inpainting,
    sd-pano, multidiffusion (panoramas); repaint, controlnet-inpainting (depth); or the class path of your own"""
    model: str | None = None
    """a model folder (written by mvdiff fit or mvdiff export), a Hugging Face hub id, or a packaged model: mvdiff://toy-caa
    (panorama), mvdiff://toy-outpaint (outpaint), mvdiff://toy-depth (depth); methods that need a base alone take views
    and prompt prefix from it"""
    base: str | None = None
    """folder, hub id or packaged name of the base that the method needs; for methods that run a model: in place of the
    one named in the model folder, with the same weights"""
    controlnet: str | None = None
    """with --method controlnet-inpainting: folder or hub id of a depth ControlNet for the same version of Stable
    Diffusion as --base"""
    prompt_prefix: str | None = None
    """text put before every prompt by a method that runs --base without --model (default: none; the paper's panoramas:
    "This is one view of a scene. "); with --model, the model's is used"""


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """Less memory for more time (docs/memory.md), or less time (docs/generate.md)."""

    cpu_offload: Literal["model", "sequential"] | None = None
    """keep weights on the GPU only while in use: model: one network at a time; sequential: one layer at a time
    (slowest)"""
    views_per_chunk: int | None = None
    """run the UNet's own layers on this many views at a time (default: all)"""
    vae_slicing: bool = False
    """encode and decode one view at a time"""
    vae_tiling: bool = False
    """decode large views in tiles, blended where they meet"""
    deep_cache: int | None = None
    """run the deep part of a UNet in every so many steps only, such as 3 (default: in every step)"""
    compile: str | None = None
    """compile the networks with this backend of torch.compile, such as inductor, which takes minutes and pays off for
    many samples"""


@dataclass(frozen=True, kw_only=True)
class DataReader:
    """Reader of the data."""

    data: str | None = None
    """class that reads your data, for layouts that mvdiff does not know: class path, or a YAML file with class_path and
    init_args, see docs/data.md (default: detect the layout)"""


def open_pipeline(kind, options: ModelOptions, memory: MemoryOptions):
    """Open a model as a pipeline of some kind, on the device and with the switches that were asked for.

    The device is tried before anything is loaded.

    Raises:
        ArgumentTypeError: A revision of a model that is not on the hub was given.
        FileNotFoundError: There is no such model, or its base is missing.
        ValueError: It is one for another task, or an option does not fit it or this machine.
    """
    from mvdiff.methods.parts import WrongPart, check_revision

    try:
        check_revision(options.model, options.revision)
    except WrongPart as error:
        raise ArgumentTypeError(str(error)) from error
    device = _checked_device(options, memory)
    pipeline = kind.from_pretrained(
        options.model,
        revision=options.revision,
        base=options.base,
        vae=options.vae,
        dtype=_dtype(options),
    )
    return _prepared(pipeline, options, memory, device)


def open_method(options: MethodOptions, memory: MemoryOptions, task=None, no_caa: bool = False):
    """Open the method that was asked for, with its parts on the device and with the switches that were asked for.

    Args:
        options: Method and places of its parts.
        memory: Memory switches.
        task: Task of the samples; None: that of the model.
        no_caa: Short form of the method independent.

    Raises:
        ArgumentTypeError: The method is unknown or for another task, a part that it needs is missing, or it cannot use
            one that was given.
        FileNotFoundError: There is no such model or base.
        ValueError: An option does not fit the method or this machine.
    """
    from mvdiff.methods import method_class, method_names
    from mvdiff.methods.parts import Parts, WrongPart

    name = options.method
    if no_caa and name not in ("mvdiffusion", "independent"):
        raise ArgumentTypeError(f"--no_caa means --method independent; got --method {name} too")
    name, task_name = "independent" if no_caa else name, None if task is None else task.name
    try:
        kind = method_class(name, task_name)
    except ValueError as error:
        raise ArgumentTypeError(f"--{str(error).rstrip('.')}{did_you_mean(name, method_names(task_name))}") from error
    device = _checked_device(options, memory)
    parts = {
        field: getattr(options, field) for field in ("model", "revision", "base", "vae", "controlnet", "prompt_prefix")
    }
    try:
        given = Parts(**parts, dtype=_dtype(options))
        given.check_used(name, kind.unused_parts)
        method = kind.open(given, task)
    except WrongPart as error:
        raise ArgumentTypeError(str(error)) from error
    for pipeline in method.pipelines:
        _prepared(pipeline, options, memory, device)
    return method


def _checked_device(options: ModelOptions, memory: MemoryOptions):
    """Return the device, after a first tensor on it; errors come before anything is loaded."""
    from mvdiff.cli.progress import quiet_libraries

    quiet_libraries()
    device = usable_device(options.device)
    if device.type == "cpu" and memory.cpu_offload is not None:
        raise ValueError(f"--cpu_offload needs a GPU; got {memory.cpu_offload} on a CPU. Leave it out.")
    return device


def _dtype(options: ModelOptions):
    import torch

    return None if options.dtype is None else getattr(torch, options.dtype)


def _prepared(pipeline, options: ModelOptions, memory: MemoryOptions, device):
    """Return a pipeline with the scheduler of the options, on its device and with the memory switches."""
    from mvdiff.pipelines.schedulers import scheduler_from

    if options.scheduler is not None:
        pipeline.scheduler = scheduler_from(options.scheduler, pipeline.scheduler.config)
    return with_memory_switches(pipeline, memory, device)


def usable_device(name: str):
    """Return the device of a name, "auto" for the GPU where there is one, after a first tensor on it.

    Raises:
        ValueError: PyTorch knows no such device, or cannot use it here.
    """
    import torch

    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # depends on the kind of device
        here = "cpu or cuda" if torch.cuda.is_available() else "cpu"
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"--device must be one that works on this machine; got {name!r} ({reason}). Use --device {here}."
        ) from error
    return device


def with_memory_switches(pipeline, memory: MemoryOptions, device):
    """Bring a pipeline to a device, with the memory switches of the options."""
    if memory.views_per_chunk is not None:
        pipeline.set_views_per_chunk(memory.views_per_chunk)
    if memory.vae_slicing:
        pipeline.enable_vae_slicing()
    if memory.vae_tiling:
        pipeline.enable_vae_tiling()
    if memory.deep_cache is not None:
        pipeline.enable_deep_cache(memory.deep_cache)
    if memory.compile is not None:
        pipeline.enable_compile(backend=memory.compile)
    if memory.cpu_offload is None:
        return pipeline.to(device)
    if memory.cpu_offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline
