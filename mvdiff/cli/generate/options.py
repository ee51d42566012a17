"""Options of every task of `mvdiff generate`."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from mvdiff.cli.opening import add_model_options
from mvdiff.cli.options import field_help, settings_of
from mvdiff.settings import Controls, PanoramaPictures, PictureFormat, Sampling


def add_shared(parser: argparse.ArgumentParser, packaged: str = "NAME") -> None:
    """Add the options of every task; `packaged` is a model of the package for the task."""
    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="ID",
        help=f"a model folder (of fit or export), a hub id, or mvdiff://{packaged}",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="where the sample folders go")
    add("--seed", type=int, default=0, help="random seed (noise is also keyed by sample id) (default: %(default)s)")
    add("--num_inference_steps", type=int, default=Sampling.num_inference_steps, help="(default: %(default)s)")
    add("--guidance_scale", type=float, default=Sampling.guidance_scale, help="1 is no guidance (default: %(default)s)")
    add("--negative_prompt", help="what to steer away from")
    add("--no_caa", action="store_true", help="the base alone, view by view (a control)")
    add("--overwrite", action="store_true", help="generate complete samples again")
    add_model_options(parser)


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Add the options of tasks that make panoramas."""
    texts = field_help(PanoramaPictures)
    add = parser.add_argument_group("pictures", "of the panorama, for people; scores and reports read png").add_argument
    add("--format", choices=get_args(PictureFormat), default="png", help=texts["format"] + " (default: %(default)s)")
    for name in ("crop", "cube_faces"):
        add(f"--{name}", action="store_true", help=texts[name])


def asked_pictures(args: argparse.Namespace) -> PanoramaPictures | None:
    """Return the pictures that are written beside the sample folder's own; None: no more."""
    pictures = settings_of(args, PanoramaPictures)
    return None if pictures == PanoramaPictures() else pictures


def write_pictures(args: argparse.Namespace, sample_ids: Iterable[str]) -> None:
    """Write the pictures that were asked for of complete samples."""
    pictures = asked_pictures(args)
    if pictures is None:
        return
    from mvdiff.report.panorama_files import write_panorama_pictures
    from mvdiff.samples import read_sample, sample_folder

    for sample_id in sample_ids:
        write_panorama_pictures(read_sample(sample_folder(args.out, sample_id)), pictures)


def shared_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of every task as arguments of the functions that generate into folders."""
    return {
        "seed": args.seed,
        "sampling": Sampling(
            num_inference_steps=args.num_inference_steps,
            guidance_scale=args.guidance_scale,
            negative_prompt=args.negative_prompt,
        ),
        "controls": Controls(caa=not args.no_caa),
        "overwrite": args.overwrite,
    }
