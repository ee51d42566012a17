"""`mvdiff generate outpaint`: panoramas around given pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mvdiff.cli.command import Command
from mvdiff.cli.generate.options import OutputOptions, PromptOptions
from mvdiff.cli.generate.panorama import entries_of, write_panoramas
from mvdiff.cli.opening import MemoryOptions, ModelOptions, open_pipeline
from mvdiff.cli.out_files import make_folder
from mvdiff.settings import PanoramaPictures, Sampling


@dataclass(frozen=True, kw_only=True)
class PictureOptions:
    """Given pictures."""

    image: list[Path]
    """a given picture; repeat for several, the first of which counts where several reach"""
    fov: list[float] | None = None
    """its horizontal field of view in degrees; once for all pictures or once for each, in order; default 90"""
    yaw: list[float] | None = None
    """where its middle looks, degrees to the right; likewise; default 0"""
    pitch: list[float] | None = None
    """where its middle looks, degrees upwards; likewise; default 0"""
    no_paste_back: bool = False
    """leave given pixels as the model renders them, for scores"""

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
    make_folder(output.out)

    from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline

    pipeline = open_pipeline(MVDiffusionOutpaintPipeline, model, memory)
    given, count = given_views(images, pipeline.rig), len(entries)
    shares = given.known.mean(dim=(1, 2, 3))
    reached = ", ".join(f"{view}: {share:.0%}" for view, share in enumerate(shares.tolist()) if share > 0)
    print(f"{output.out}: given of the views: {reached}")
    views, known = (part.expand(count, -1, -1, -1, -1) for part in (given.images, given.known))
    how = {"batch_size": prompts.batch_size, "paste_back": not options.no_paste_back}
    how |= {"images": views, "known": known, "notes": [{"pictures": given.pictures}] * count}
    return write_panoramas(pipeline, entries, output, pictures, sampling, **how)


COMMAND = Command(
    name="generate outpaint",
    summary="a panorama around given pictures",
    description="Continue pictures all around. Each goes into every view that it reaches; transparent parts are "
    "generated. Writes a folder per panorama into --out, as `mvdiff generate panorama` does, and in given/<i>.png what "
    "was given of each view. A rerun skips complete samples.",
    example="mvdiff generate outpaint --model mvdiff://toy-outpaint --image photo.jpg --fov 65 "
    '--prompt "a kitchen" --out out',
    settings=(PictureOptions, PromptOptions, OutputOptions, PanoramaPictures, Sampling, ModelOptions, MemoryOptions),
    run=run,
)
