"""Open a model for a command: places of its parts, device, precision, memory switches."""

import argparse

DTYPES = ("float32", "bfloat16", "float16")
OFFLOADS = ("model", "sequential")


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    """Add `--plugin` to a command that opens a model; `mvdiff.cli.main` reads it."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="let the model's files name classes of this package of yours, whose code then runs; repeat for others",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_pipeline` reads beside `--model`."""
    add_plugin_option(parser)
    add = parser.add_argument
    add("--revision", metavar="NAME", help="branch, tag or commit of a --model on the hub")
    add("--base", metavar="ID", help="the base, where it is not at the place that the model names")
    add("--vae", metavar="ID", help="likewise the autoencoder that the model uses in place of the base's")
    add("--scheduler", metavar="NAME", help="any diffusers scheduler, as DPMSolverMultistep (default: the model's)")
    add("--device", help="as cuda, cuda:1 or cpu (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default="float32", help="weight precision (default: %(default)s)")
    memory = parser.add_argument_group("memory", "what takes less of it, and more time (docs/memory.md)")
    add = memory.add_argument
    add("--cpu_offload", choices=OFFLOADS, help="weights on the GPU only while a model, or a layer, runs")
    add("--views_per_chunk", type=int, metavar="N", help="the UNet's own layers on N views at a time (default: all)")
    add("--vae_slicing", action="store_true", help="decode view by view")
    add("--vae_tiling", action="store_true", help="decode large views in tiles, blended where they meet")


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that names a user's own reader of recordings; see `mvdiff.data.layouts.Source.of_option`."""
    parser.add_argument(
        "--data",
        metavar="CLASS",
        help="reader of the data: class path or YAML file with class_path and init_args (default: detected layout)",
    )


def open_pipeline(kind, args: argparse.Namespace):
    """Open `args.model` as a pipeline of some kind, on the device and with the switches that were asked for.

    The device is tried before anything is loaded.

    Raises:
        FileNotFoundError: There is no such model, or its base is missing.
        ValueError: It is one for another task, or an option does not fit it or this machine.
    """
    import torch

    from mvdiff.pipelines.schedulers import scheduler_from

    device = usable_device(args.device)
    if device.type == "cpu" and args.cpu_offload is not None:
        raise ValueError(f"--cpu_offload must be left out on a CPU, which has one memory only; got {args.cpu_offload}.")
    pipeline = kind.from_pretrained(
        args.model, revision=args.revision, base=args.base, vae=args.vae, dtype=getattr(torch, args.dtype)
    )
    if args.scheduler is not None:
        pipeline.scheduler = scheduler_from(args.scheduler, pipeline.scheduler.config)
    return with_memory_switches(pipeline, args, device)


def usable_device(name: str | None):
    """Return the device of a name, or by default the GPU where there is one, after a first tensor on it.

    Raises:
        ValueError: PyTorch knows no such device, or cannot use it here.
    """
    import torch

    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
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


def with_memory_switches(pipeline, args: argparse.Namespace, device):
    """Bring a pipeline to a device, with the memory switches of the options."""
    if args.views_per_chunk is not None:
        pipeline.set_views_per_chunk(args.views_per_chunk)
    if args.vae_slicing:
        pipeline.enable_vae_slicing()
    if args.vae_tiling:
        pipeline.enable_vae_tiling()
    if args.cpu_offload is None:
        return pipeline.to(device)
    if args.cpu_offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    return pipeline
