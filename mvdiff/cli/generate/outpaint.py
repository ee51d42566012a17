"""`mvdiff generate outpaint`: panoramas around given pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvdiff.cli.command import Command
from mvdiff.cli.generate.options import OutputOptions, PromptOptions, check_places
from mvdiff.cli.generate.panorama import entries_of, write_panoramas
from mvdiff.cli.opening import MemoryOptions, ModelOptions, open_pipeline
from mvdiff.cli.out_files import check_sample_inputs, make_folder
from mvdiff.settings import PanoramaPictures, Sampling


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Pictures."""

    image: list[Path]
    """picture to extend; repeat for several: where they overlap, the earlier one wins"""
    fov: list[float] | None = None
    """horizontal field of view of the picture in degrees; give once, or once per --image in order (a phone's main
    camera: about 65 held sideways, 50 upright) (default: 90)"""
    yaw: list[float] | None = None
    """direction of the picture's centre in degrees to the right; give as --fov (default: 0)"""
    pitch: list[float] | None = None
    """direction of the picture's centre in degrees upwards; give as --fov (default: 0)"""
    no_paste_back: bool = False
    """do not copy the pictures' pixels back into the views (needed by `evaluate --metrics given`)"""

    def angles(self, name: str, default: float) -> float | list[float]:
        """Return an angle for all pictures, or one for each; an error names the option."""
        values, count = getattr(self, name) or [default], len(self.image)
        if len(values) not in (1, count):
            raise ValueError(
                f"--{name} must be given once for all pictures or once for each ({count}); got {len(values)}."
            )
        return values[0] if len(values) == 1 else values


def run(
    options: PictureOptions,
    prompts: PromptOptions,
    output: OutputOptions,
    pictures: PanoramaPictures,
    sampling: Sampling,
    model: ModelOptions,
    memory: MemoryOptions,
) -> int:
    """Generate; return the exit status."""
    from mvdiff.pipelines.given import given_images, given_views

    angles = (options.angles(name, default) for name, default in (("fov", 90.0), ("yaw", 0.0), ("pitch", 0.0)))
    images = given_images(options.image, *angles)
    entries = entries_of(prompts)
    check_places(output.out, model)
    check_sample_inputs(output.out, [entry.sample_id for entry in entries], {"--image": options.image})
    make_folder(output.out)

    from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline

    pipeline = open_pipeline(MVDiffusionOutpaintPipeline, model, memory)
    given, count = given_views(images, pipeline.rig), len(entries)
    for image in images:
        print(_coverage(image, pipeline.rig))
    views, known = (part.expand(count, -1, -1, -1, -1) for part in (given.images, given.known))
    how = {"batch_size": prompts.batch_size, "paste_back": not options.no_paste_back}
    how |= {"images": views, "known": known, "notes": [{"pictures": given.pictures}] * count}
    return write_panoramas(pipeline, entries, output, pictures, sampling, **how)


def _coverage(image, rig) -> str:
    """Say how much of each view a picture covers."""
    shares = image.views(rig)[1].mean(dim=(1, 2, 3)).tolist()
    covered = ", ".join(f"{share:.0%} of view {view}" for view, share in enumerate(shares) if share > 0)
    return f"{image.name} (fov {image.fov_deg:g}, yaw {image.yaw_deg:g}, pitch {image.pitch_deg:g}) covers {covered}"


COMMAND = Command(
    name="generate outpaint",
    summary="extend pictures to a full panorama",
    description="Extend one or more pictures to a full 360-degree panorama; transparent parts of a picture are "
    "generated too. Writes a folder per panorama into --out, as `mvdiff generate panorama` does, and in given/<i>.png "
    "the part of each view that the pictures cover. A rerun skips complete samples.",
    example="mvdiff generate outpaint --model mvdiff://toy-outpaint --image photo.jpg --fov 65 "
    '--prompt "gray walls, wood floor" --guidance_scale 2 --out photo',
    settings=(PictureOptions, PromptOptions, OutputOptions, PanoramaPictures, Sampling, ModelOptions, MemoryOptions),
    run=run,
)
