"""Check and run a visitor's request, independent of the web page.

Legend: V views, H W image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.given import GivenImage, given_images
from mvdiff.pipelines.panorama import MVDiffusionPanoramaOutput, MVDiffusionPanoramaPipeline
from mvdiff.report import Gallery, Page, PanoramaEntry, PanoramaViewer, Section, render_page, view_labels

MAX_STEPS = 1000


@dataclass(frozen=True)
class Given:
    """The picture that outpainting extends; the fields are arguments of `MVDiffusionOutpaintPipeline.__call__`.

    Attributes:
        image: File or PIL image; None until the visitor uploads one.
        fov_deg: Field of view across its width in degrees; None or 0: from its EXIF, else 90.
        yaw_deg: Yaw of the centre in degrees, positive to the right.
        pitch_deg: Pitch of the centre in degrees, positive upwards.
        paste_back: Paste the known pixels into the views.
    """

    image: Any = None
    fov_deg: float | None = None
    yaw_deg: float | None = 0.0
    pitch_deg: float | None = 0.0
    paste_back: bool = True

    def picture(self) -> GivenImage:
        """Read the picture with its angles.

        Raises:
            ValueError: The picture is missing or cannot be read, or an angle is missing.
        """
        if self.image is None:
            raise ValueError("image must be the picture to extend; got none.")
        angles = {"yaw_deg": self.yaw_deg, "pitch_deg": self.pitch_deg}
        missing = [name for name, value in angles.items() if value is None]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be a number of degrees; got none.")
        [picture] = given_images(self.image, self.fov_deg or None, **angles)
        return picture

    def arguments(self, picture: GivenImage) -> dict[str, Any]:
        """Return the pipeline's arguments for the picture that was read."""
        angles = {name: getattr(picture, name) for name in ("fov_deg", "yaw_deg", "pitch_deg")}
        return {"image": self.image, "paste_back": bool(self.paste_back)} | angles


@dataclass(frozen=True)
class Request:
    """Content of the form; fields without description are arguments of the pipeline's `__call__`.

    Attributes:
        prompt: Prompt of all views without their own.
        view_prompts: One prompt per view; empty: `prompt`.
        given: Picture to extend, used by outpainting only.
    """

    prompt: str
    view_prompts: Sequence[str] = ()
    negative_prompt: str = ""
    seed: float | None = 0
    num_inference_steps: float | None = 50
    guidance_scale: float | None = 9.0
    given: Given = Given()

    def prompts(self, labels: Sequence[str]) -> list[str]:
        """Return one prompt per view.

        Args:
            labels: Names of the views, for error messages.

        Raises:
            ValueError: A view has no prompt.
        """
        own = [*self.view_prompts, *[""] * len(labels)][: len(labels)]
        texts = [(one or "").strip() or (self.prompt or "").strip() for one in own]
        without = [label for label, text in zip(labels, texts, strict=True) if not text]
        if without:
            of = "for all views" if len(without) == len(labels) else f"for the views {', '.join(without)}"
            raise ValueError(f"prompt must describe the scene; got none {of}.")
        return texts

    def sampling(self) -> dict[str, Any]:
        """Return the arguments that every pipeline takes.

        Raises:
            ValueError: A number is missing or out of range.
        """
        steps = _whole("steps", self.num_inference_steps, 1, MAX_STEPS)
        if self.guidance_scale is None or not 0 <= self.guidance_scale <= 100:
            raise ValueError(f"guidance must lie between 0 and 100; got {self.guidance_scale}. 1 means no guidance.")
        return {
            "seed": _whole("seed", self.seed, 0, 2**63 - 1),
            "num_inference_steps": steps,
            "guidance_scale": float(self.guidance_scale),
            "negative_prompt": (self.negative_prompt or "").strip() or None,
        }


def _whole(name: str, value: float | None, low: int, high: int) -> int:
    if value is None or not low <= value <= high or value != int(value):  # bounds first: int() fails on inf and nan
        bounds = f"between {low} and {high}" if high < 2**32 else f"of at least {low}"
        raise ValueError(f"{name} must be a whole number {bounds}; got {value}.")
    return int(value)


def rig_labels(rig: Rig) -> list[str]:
    """Name the views of a rig by their directions, see `view_labels`."""
    return view_labels(rig.yaw_deg, rig.pitch_deg)


def takes_image(pipeline: MVDiffusionPanoramaPipeline) -> bool:
    """Return True if the pipeline takes a picture to extend (outpainting)."""
    return "image" in inspect.signature(type(pipeline).__call__).parameters


def generate_panorama(
    pipeline: MVDiffusionPanoramaPipeline, request: Request, progress: Callable[[int, int], None] | None = None
) -> str:
    """Generate a panorama and return an HTML document with its viewer.

    Args:
        pipeline: Panorama or outpainting pipeline.
        request: Content of the form.
        progress: Called with (finished steps, total steps).

    Raises:
        ValueError: A value of the request is missing or out of range.
    """
    prompts, settings = request.prompts(rig_labels(pipeline.rig)), request.sampling()
    note = ""
    if takes_image(pipeline):
        picture = request.given.picture()
        settings |= request.given.arguments(picture)
        source = f", from its {picture.fov_from}" if picture.fov_from else ""
        note = f"Field of view across the picture's width: {picture.fov_deg:.4g}°{source}."
    callback = counted(pipeline, settings["num_inference_steps"], progress)
    output = pipeline([prompts], output_type="uint8", callback_on_step_end=callback, **settings)
    return document(output, pipeline.rig, prompts, note)


def counted(pipeline, num_steps: int, progress: Callable[[int, int], None] | None) -> Callable[..., None]:
    """Make a pipeline callback that reports (finished steps, total); some schedulers call it twice a step."""

    def callback(_, index: int, timestep, tensors) -> None:
        if progress is not None:
            progress(min((index + 1) // pipeline.scheduler.order, num_steps), num_steps)

    return callback


def document(output: MVDiffusionPanoramaOutput, rig: Rig, prompts: Sequence[str], note: str = "") -> str:
    """Return the HTML document of one sample: its panorama in the viewer, its views below.

    Args:
        output: Output of the pipeline, of output type "uint8".
        rig: Rig of the views.
        prompts: One prompt per view.
        note: Text below the views.
    """
    labels = rig_labels(rig)
    alike = len(set(prompts)) == 1
    captions = [prompts[0]] if alike else [f"{label}: {text}" for label, text in zip(labels, prompts, strict=True)]
    panorama = (output.panoramas[0].numpy(), output.covered.numpy())
    viewer = PanoramaViewer([PanoramaEntry("Panorama", captions, {"generated": panorama})])
    views = Gallery({"views": list(output.images[0].numpy())}, labels=labels)
    blocks = [viewer, views, *([note] if note else [])]
    return render_page(Page("Panorama", sections=[Section("views", "Views", blocks)], is_frame=True))
