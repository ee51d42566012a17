"""`mvdiff data shard`: make shards of a data set."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mvdiff.cli.command import Command, done, plural, typed
from mvdiff.cli.opening import DataReader

if TYPE_CHECKING:
    from mvdiff.data.shards.plan import Content

_RUN = "YOUR_RUN.yaml"
_OF_RUN = {"data": "data.source", "on_broken": "data.on_broken", "max_pixels": "data.max_pixels"}
"""Options of --what images, and the settings that take their place in a run."""


@dataclass(frozen=True, kw_only=True)
class ShardOptions(DataReader):
    """Data set and shards."""

    source: Path = field(kw_only=False)
    """a folder of panoramas or of recordings, in any supported layout (docs/data.md); for --what views and latents the
    YAML file of a run, whose data.rig, data.yaw (a list) and data.mirror say which views"""
    out: str
    """folder, or address such as s3://bucket/data, that receives the shards"""
    what: Literal["images", "views", "latents"] = "images"
    """images: the data set's own files, byte for byte, which give the same samples as the folder; views: the views of a
    panorama, cut and rounded to 8 bits, which changes numbers; latents: their latents and the embeddings of their
    prompts, made by the base of the run, so that training needs neither pictures nor encoders"""
    shard_size: str = "1GB"
    """most bytes of a shard, such as 256MB"""
    num_workers: int = 1
    """shards written in parallel"""
    on_broken: Literal["error", "skip"] | None = None
    """with --what images: what to do with incomplete panoramas and scenes: stop, or leave them out (default: error)"""
    max_pixels: int | None = None
    """with --what images: maximum number of pixels (width x height) in a panorama's images (default: 178956970)"""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """with --what latents: precision in which latents and embeddings are stored; half of it changes numbers (default:
    float32)"""
    device: str | None = None
    """with --what latents: device that makes them: auto (the GPU if there is one), cpu, cuda, or one of several GPUs,
    such as cuda:1 (default: auto)"""
    overwrite: bool = False
    """replace shards of other data or settings"""

    def __post_init__(self) -> None:
        """Refuse options that would do nothing."""
        for name, what in {**dict.fromkeys(_OF_RUN, "images"), "dtype": "latents", "device": "latents"}.items():
            if getattr(self, name) is not None and self.what != what:
                instead = f"; set {_OF_RUN[name]} in the YAML file of the run" if name in _OF_RUN else ""
                raise ArgumentTypeError(f"--{name} needs --what {what}; got --what {self.what}{instead}")


def shard(options: ShardOptions) -> int:
    """Write shards; return the exit status."""
    from mvdiff.cli.out_files import check_folder
    from mvdiff.cli.progress import progress_bar
    from mvdiff.data.shards.writing import write_shards
    from mvdiff.files.paths import is_url
    from mvdiff.files.sizes import parse_size, size_text
    from mvdiff.files.writing import check_apart

    if not is_url(options.out):
        check_folder(Path(options.out))
        check_apart("--out", options.out, {"SOURCE": options.source}, inside=True)
    size = parse_size("--shard_size", options.shard_size)
    with progress_bar() as bar:
        content = _content(options, bar.counted)
        steps = {"planning": bar.counted("planning"), "progress": bar.counted("samples")}
        result = write_shards(content, options.out, size, options.num_workers, options.overwrite, **steps)
    shards = [shard for shards in result.manifest.splits.values() for shard in shards]
    samples = ", ".join(f"{result.manifest.num_samples(split)} {split}" for split in result.manifest.splits)
    kept = f" ({result.kept} kept)" if result.kept else ""
    total = size_text(sum(shard.bytes for shard in shards))
    done(
        f"{options.out}: {plural(len(shards), 'shard')}{kept}, {total}; {samples} samples",
        typed("mvdiff", "data", "check", options.out),
        _fit(options.out, options.source if options.what != "images" else _RUN),
    )
    return 0


def _content(options: ShardOptions, counted: Callable[[str], Callable[[int, int], None]]) -> Content:
    """Return what goes into the shards; `counted` makes a task of the progress bar.

    Raises:
        ArgumentTypeError: An option does not fit the data.
        FileNotFoundError: Data, or the base, do not exist.
        ValueError: They are broken, or do not fit --what.
    """
    from mvdiff.data.layouts import Source
    from mvdiff.data.prepare.shard import WrongKind, image_content

    is_run = options.source.suffix.lower() in (".yaml", ".yml")
    if is_run != (options.what != "images"):
        kind = "the YAML file of a run" if options.what != "images" else "a folder"
        raise ValueError(f"SOURCE must be {kind} for --what {options.what}; got {options.source}.")
    if options.what == "images":
        how = Source.of_option(options.data), options.on_broken or "error", options.max_pixels
        try:
            return image_content(options.source, *how, counted("opening"))
        except WrongKind as error:
            raise ArgumentTypeError(f"--{error}") from error
    from mvdiff.data.from_config import data_from_config

    data = data_from_config([options.source])
    if options.what == "views":
        from mvdiff.data.prepare.shard_views import view_content

        return view_content(data)
    from mvdiff.cli.opening import usable_device
    from mvdiff.cli.progress import quiet_libraries
    from mvdiff.training.latent_shards import latent_content

    quiet_libraries()
    return latent_content(data, options.source, options.dtype or "float32", usable_device(options.device or "auto"))


def check_shard_set(root: str, num_threads: int) -> int:
    """Print what is missing or damaged in a set of shards; return the exit status, 1 where something is."""
    from collections import Counter

    from mvdiff.cli.progress import progress_of
    from mvdiff.data.shards.checking import check_shards

    with progress_of("shards") as progress:
        report = check_shards(root, num_threads=num_threads, progress=progress)
    for damage in report.damage:
        print(damage)
    manifest = report.manifest
    samples = ", ".join(f"{manifest.num_samples(split)} in {split}" for split in manifest.splits)
    shards = sum(map(len, manifest.splits.values()))
    print(f"{root}: {plural(shards, 'shard')} of {manifest.what} of {manifest.kind}; samples: {samples}")
    if not report.is_listed:
        print("not checked: whether there are shards beside these; the files there cannot be listed")
    counts = ", ".join(
        f"{count} x {kind}" for kind, count in sorted(Counter(one.kind for one in report.damage).items())
    )
    lost = ", ".join(f"{count} in {split}" for split, count in report.lost.items() if count)
    if not report.damage:
        print("no problems")
        done(f"{root}: sound", _fit(root))
        return 0
    print(f"{plural(len(report.damage), 'problem')}: {counts}" + (f"; samples lost: {lost}" if lost else ""))
    done(
        f"{root}: remove the named shards; `mvdiff data shard` writes what is missing and keeps the others",
        typed("mvdiff", "data", "check", root),
    )
    return 1


def _fit(root: str, config: str | Path = _RUN) -> str:
    """Return the command that trains from shards; those of views and latents belong to one run."""
    return typed("mvdiff", "fit", "--config", config, "--data.root", root)


SHARD = Command(
    name="data shard",
    summary="write a data set as WebDataset shards, to a folder or to object storage",
    description="Write a data set as plain WebDataset tars with an index, from which training reads single samples in "
    "its own order (docs/data.md). Each shard is whole or not there; an interrupted run continues.",
    example="mvdiff data shard data/mp3d_skybox --out shards/mp3d_skybox",
    settings=(ShardOptions,),
    run=shard,
)
