"""`mvdiff generate dataset`: the samples of a data set, for a model of any task."""

import argparse
from pathlib import Path

from mvdiff.cli.generate.options import add_pictures, add_shared, asked_pictures, shared_settings, write_pictures
from mvdiff.cli.opening import open_pipeline
from mvdiff.cli.out_files import make_folder


def add_parser(tasks) -> None:
    """Add the task."""
    parser = tasks.add_parser(
        "dataset",
        help="the samples of a data set, for a model of any task",
        description="Write a sample folder per sample of one split of a run's data section. A rerun skips complete "
        "samples.",
        epilog="example: mvdiff generate dataset --model runs/pano/version_0/model --config pano.yaml --out out",
    )
    parser.set_defaults(run_task=run)
    add = parser.add_argument
    add("--config", action="append", required=True, metavar="YAML", help="a run's YAML files, in order")
    add("--split", choices=("train", "val", "test"), default="test", help="(default: %(default)s)")
    add("--max_samples", type=int, metavar="N", help="stop after N samples (default: all)")
    add("--no_paste_back", action="store_true", help="leave known pixels as the model renders them, for scores")
    add("--real", type=Path, metavar="DIR", help="also write the real views there, to score against")
    add_pictures(parser)
    add_shared(parser)


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    if args.max_samples is not None and args.max_samples < 1:
        raise ValueError(f"--max_samples must be at least 1; got {args.max_samples}.")
    make_folder(args.out)

    from mvdiff.cli.config_files import open_data
    from mvdiff.cli.progress import progress_bar
    from mvdiff.pipelines.base import MultiViewPipeline
    from mvdiff.pipelines.sample_folders import generate_samples, write_reference

    data = open_data(args.config, args.split).data
    batches = data.eval_dataloader(args.split)
    pipeline = open_pipeline(MultiViewPipeline, args)
    pipeline.set_progress_bar_config(disable=True)
    rig = getattr(data, "rig", None) if "rig" in pipeline.task.view_fields else None
    if asked_pictures(args) is not None and "rig" not in pipeline.task.view_fields:
        raise ValueError(f"--format, --crop and --cube_faces need panoramas; got the frames of {args.model}.")
    how = shared_settings(args) | {"rig": rig, "paste_back": not args.no_paste_back}
    written = skipped = 0
    with progress_bar() as bar:
        task = bar.add_task(str(args.out), total=args.max_samples)
        for batch in batches:
            left = None if args.max_samples is None else args.max_samples - written - skipped
            if left == 0:
                break
            batch = batch if left is None else batch.rows(range(min(left, batch.batch_size)))
            counts = generate_samples(pipeline, batch, args.out, **how)
            write_pictures(args, batch.sample_id)
            if args.real is not None:
                write_reference(batch, args.real, rig=rig, overwrite=args.overwrite)
            written, skipped = written + counts.written, skipped + counts.skipped
            bar.advance(task, batch.batch_size)
    print(f"{args.out}: {written} samples written, {skipped} complete ones skipped")
    return 0
