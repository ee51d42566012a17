"""`mvdiff generate panorama`: panoramas from prompts."""

import argparse
from pathlib import Path

from mvdiff.cli.generate.options import add_pictures, add_shared, shared_settings, write_pictures
from mvdiff.cli.opening import open_pipeline
from mvdiff.cli.out_files import make_folder


def add_parser(tasks) -> None:
    """Add the task."""
    parser = tasks.add_parser(
        "panorama",
        help="all views of a panorama at once, from text",
        description="Write a sample folder per panorama: <i>.png for each view, panorama.png, and sample.json, which "
        "marks it complete. A rerun skips complete samples.",
        epilog='example: mvdiff generate panorama --model runs/pano/version_0/model --prompt "a kitchen" --out out',
    )
    parser.set_defaults(run_task=run)
    add_prompts(parser)
    add_shared(parser, packaged="toy-caa")


def add_prompts(parser: argparse.ArgumentParser) -> None:
    """Add the options of tasks whose views are a rig."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--prompt", action="append", help="one text for all views; or repeated, one per view in order")
    source.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a text file, one panorama a line; or .json / .jsonl: texts, lists of one text per view, or "
        '{"prompt": ..., "id": ...}',
    )
    parser.add_argument("--num_samples", type=int, default=1, help="panoramas per prompt (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=1, help="panoramas at once (default: %(default)s)")
    add_pictures(parser)


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    entries = entries_of(args)
    make_folder(args.out)

    from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

    return write_panoramas(args, open_pipeline(MVDiffusionPanoramaPipeline, args), entries)


def entries_of(args: argparse.Namespace) -> list:
    """Return the samples that --prompt or --prompts ask for."""
    from mvdiff.pipelines.prompt_files import PromptEntry, read_prompts, repeated

    if args.prompts is not None:
        return repeated(read_prompts(args.prompts), args.num_samples)
    prompt = args.prompt[0] if len(args.prompt) == 1 else tuple(args.prompt)
    return repeated([PromptEntry("0000", prompt)], args.num_samples)


def write_panoramas(args: argparse.Namespace, pipeline, entries, paste_back: bool = True, **fields) -> int:
    """Generate the entries' panoramas; `fields` of the batch say what is given of them."""
    from mvdiff.pipelines.calls import rig_batch
    from mvdiff.pipelines.prompt_files import expand_prompts
    from mvdiff.pipelines.sample_folders import generate_samples

    prompts = expand_prompts([entry.prompt for entry in entries], pipeline.rig.num_views)
    batch = rig_batch(pipeline.rig, prompts, [entry.sample_id for entry in entries], **fields)
    how = shared_settings(args) | {"batch_size": args.batch_size, "paste_back": paste_back}
    counts = generate_samples(pipeline, batch, args.out, **how)
    write_pictures(args, batch.sample_id)
    print(f"{args.out}: {counts.written} panoramas written, {counts.skipped} complete ones skipped")
    return 0
