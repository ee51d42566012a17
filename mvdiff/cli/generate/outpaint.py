"""`mvdiff generate outpaint`: panoramas around given pictures."""

import argparse
from pathlib import Path

from mvdiff.cli.generate.options import add_shared
from mvdiff.cli.generate.panorama import add_prompts, entries_of, write_panoramas
from mvdiff.cli.opening import open_pipeline
from mvdiff.cli.out_files import make_folder


def add_parser(tasks) -> None:
    """Add the task."""
    parser = tasks.add_parser(
        "outpaint",
        help="a panorama around given pictures",
        description="Continue pictures all around. Each goes into every view that it reaches; for several, repeat "
        "--image and give --fov, --yaw and --pitch once for all or as often as --image, in the same order; where "
        "several reach, the first counts. Transparent parts are generated. Writes sample folders as for panoramas, and "
        "in given/<i>.png what was given of each view. A rerun skips complete samples.",
        epilog="example: mvdiff generate outpaint --model runs/outpaint/version_0/model --image photo.jpg --fov 65 "
        '--prompt "a kitchen" --out out',
    )
    parser.set_defaults(run_task=run)
    add = parser.add_argument
    add("--image", type=Path, action="append", required=True, metavar="FILE", help="a given picture")
    add("--fov", type=float, action="append", metavar="DEG", help="its horizontal field of view (default: 90)")
    add("--yaw", type=float, action="append", metavar="DEG", help="where its middle looks, to the right (default: 0)")
    add("--pitch", type=float, action="append", metavar="DEG", help="upwards (default: 0)")
    add("--no_paste_back", action="store_true", help="leave given pixels as the model renders them, for scores")
    add_prompts(parser)
    add_shared(parser, packaged="toy-outpaint")


def run(args: argparse.Namespace) -> int:
    """Generate; return the exit status."""
    from mvdiff.pipelines.given import given_images, given_views

    pictures = given_images(args.image, _angles(args, "fov", 90.0), _angles(args, "yaw"), _angles(args, "pitch"))
    entries = entries_of(args)
    make_folder(args.out)

    from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline

    pipeline = open_pipeline(MVDiffusionOutpaintPipeline, args)
    given, count = given_views(pictures, pipeline.rig), len(entries)
    shares = given.known.mean(dim=(1, 2, 3))
    reached = ", ".join(f"{view}: {share:.0%}" for view, share in enumerate(shares.tolist()) if share > 0)
    print(f"{args.out}: given of the views: {reached}")
    images, known = (part.expand(count, -1, -1, -1, -1) for part in (given.images, given.known))
    fields = {"images": images, "known": known, "notes": [{"pictures": given.pictures}] * count}
    return write_panoramas(args, pipeline, entries, not args.no_paste_back, **fields)


def _angles(args: argparse.Namespace, name: str, default: float = 0.0) -> float | list[float]:
    """Return an angle for all pictures, or one for each; an error names the option."""
    values, count = getattr(args, name) or [default], len(args.image)
    if len(values) not in (1, count):
        raise ValueError(f"--{name} must be given once for all pictures or once for each ({count}); got {len(values)}.")
    return values[0] if len(values) == 1 else values
