"""`mvdiff generate panorama`: panoramas from prompts, into sample folders."""

import argparse
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def add_parser(subparsers) -> None:
    """Add the `generate` command and its tasks."""
    parser = subparsers.add_parser("generate", help="panoramas from prompts")
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    panorama = tasks.add_parser(
        "panorama",
        help="all views of a panorama at once, from text",
        description="Write a sample folder per panorama: <i>.png for each view, panorama.png, and sample.json, which "
        "marks it complete. A rerun skips complete samples.",
        epilog='example: mvdiff generate panorama --model runs/pano/version_0/model --prompt "a kitchen" --out out',
    )
    add = panorama.add_argument
    add("--model", required=True, metavar="DIR", help="a model folder (of fit or export), or mvdiff://toy-caa")
    source = panorama.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", help="one text for all views")
    source.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a text file, one panorama a line; or .json / .jsonl: texts, lists of one text per view, or "
        '{"prompt": ..., "id": ...}',
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where the sample folders go")
    add("--base", metavar="ID", help="the base, where it is not at the place that the model names")
    add("--vae", metavar="ID", help="likewise the autoencoder that the model uses in place of the base's")
    add("--seed", type=int, default=0, help="with the sample's id it fixes the noise (default: %(default)s)")
    add("--num_inference_steps", type=int, default=50, help="(default: %(default)s)")
    add("--guidance_scale", type=float, default=9.0, help="1 is no guidance (default: %(default)s)")
    add("--negative_prompt", help="what to steer away from")
    add("--scheduler", metavar="NAME", help="any diffusers scheduler, as DPMSolverMultistep (default: the model's)")
    add("--num_samples", type=int, default=1, help="panoramas per prompt (default: %(default)s)")
    add("--batch_size", type=int, default=1, help="panoramas at once (default: %(default)s)")
    add("--device", help="as cuda, cuda:1 or cpu (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    add("--overwrite", action="store_true", help="generate complete samples again")


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    from mvdiff.pipelines.prompts import PromptEntry, read_prompts, repeated

    if args.prompt is not None and not args.prompt.strip():
        raise ValueError("--prompt must say what the panorama shows; got an empty text. Write a few words.")
    entries = [PromptEntry("0000", args.prompt)] if args.prompts is None else read_prompts(args.prompts)
    entries = repeated(entries, args.num_samples)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"--out must be a folder that can be written; got {args.out} ({error.strerror}). Choose another folder."
        ) from error

    import torch

    from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
    from mvdiff.pipelines.sample_folders import generate_samples
    from mvdiff.pipelines.schedulers import scheduler_from

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device must be one that this machine has; got {device}. Use --device cpu.")
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(
        args.model, base=args.base, vae=args.vae, dtype=getattr(torch, args.dtype)
    )
    if args.scheduler is not None:
        pipeline.scheduler = scheduler_from(args.scheduler, pipeline.scheduler.config)
    pipeline.to(device)
    counts = generate_samples(
        pipeline,
        entries,
        args.out,
        seed=args.seed,
        batch_size=args.batch_size,
        overwrite=args.overwrite,
        num_inference_steps=args.num_inference_steps,
        guidance_scale=args.guidance_scale,
        negative_prompt=args.negative_prompt,
    )
    print(f"{args.out}: {counts.written} panoramas written, {counts.skipped} complete ones skipped")
    return 0
