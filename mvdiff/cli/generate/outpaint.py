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
    """field of view across the picture's width in degrees, between 0 and 180; for a phone's photo, about 69 in
    landscape and 55 in portrait format; give once, or once per --image in order (default: from the focal length in the
    picture's EXIF data, else 90)"""
    yaw: list[float] | None = None
    """direction of the picture's centre in degrees to the right of view 0, -360 to 360; give once, or once per --image
    in order (default: 0)"""
    pitch: list[float] | None = None
    """direction of the picture's centre in degrees upwards, -90 to 90; give once, or once per --image in order
    (default: 0)"""
    no_paste_back: bool = False
    """do not copy the pictures' own pixels back into the generated views; mvdiff evaluate --metrics given needs this to
    report known_psnr"""
    max_pixels: int | None = None
    """maximum number of pixels (width x height) in a picture (default: 178956970)"""

    def angles(self, name: str, default: float | None) -> float | list[float] | None:
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

    angles = (options.angles(name, default) for name, default in (("fov", None), ("yaw", 0.0), ("pitch", 0.0)))
    images = given_images(options.image, *angles, options.max_pixels)
    entries = entries_of(prompts)
    check_places(output.out, model)
    check_sample_inputs(output.out, [entry.sample_id for entry in entries], {"--image": options.image})
    make_folder(output.out)

    from mvdiff.methods.independent import Independent
    from mvdiff.methods.mvdiffusion import MVDiffusion
    from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline

    pipeline = open_pipeline(MVDiffusionOutpaintPipeline, model, memory)
    method = (Independent if output.no_caa else MVDiffusion)(None, pipeline)
    given, count = given_views(images, pipeline.rig), len(entries)
    for image in images:
        print(_coverage(image, pipeline.rig, by_default=not (options.fov or image.fov_from)))
    views, known = (part.expand(count, -1, -1, -1, -1) for part in (given.images, given.known))
    how = {"batch_size": prompts.batch_size, "paste_back": not options.no_paste_back}
    how |= {"images": views, "known": known, "notes": [{"pictures": given.pictures}] * count}
    return write_panoramas(method, entries, output, pictures, sampling, **how)


def _coverage(image, rig, by_default: bool) -> str:
    """Say how much of each view a picture covers, and where its field of view comes from."""
    shares = image.views(rig)[1].mean(dim=(1, 2, 3)).tolist()
    covered = ", ".join(f"{share:.0%} of view {view}" for view, share in enumerate(shares) if share > 0)
    height, width = image.pixels.shape[-2:]
    fov = f"fov {image.fov_deg:.4g}"
    if by_default or image.fov_from:
        fov += f" across its width, {f'from its {image.fov_from}' if image.fov_from else 'the default'}"
    text = f"{image.name} ({fov}, yaw {image.yaw_deg:g}, pitch {image.pitch_deg:g}) covers {covered}"
    is_wide = width == 2 * height
    return text + "; its aspect ratio is 2:1, like a panorama's, but it is treated as a photo" * is_wide


COMMAND = Command(
    name="generate outpaint",
    summary="extend pictures to a full panorama",
    description="Extend one or more pictures to a full 360-degree panorama; transparent parts of a picture are "
    "generated too. Writes a folder per panorama into --out, as `mvdiff generate panorama` does, and the part of each "
    "view covered by the pictures into given/<i>.png. A rerun skips complete samples.",
    example="mvdiff generate outpaint --model mvdiff://toy-outpaint --image photo.jpg --fov 65 "
    '--prompt "gray walls, wood floor" --guidance_scale 2 --out photo',
    settings=(PictureOptions, PromptOptions, OutputOptions, PanoramaPictures, Sampling, ModelOptions, MemoryOptions),
    run=run,
)
