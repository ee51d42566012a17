"""Check and run a visitor's request, independent of the web page.

Legend: V views, H W image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvdiff.demo.uploads import check_upload, named_without_folder
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.given import GivenImage, given_images
from mvdiff.pipelines.panorama import MVDiffusionPanoramaOutput, MVDiffusionPanoramaPipeline
from mvdiff.report import Gallery, Page, PanoramaEntry, PanoramaViewer, Section, render_page, view_labels

MAX_STEPS = 1000
"""Largest number of steps that a host may allow."""
MAX_PROMPT = 2000
"""Largest number of characters of a prompt; text encoders read about 300 of them at a time."""
MAX_SEED = 2**53 - 1
"""Largest whole number that a browser sends as it was typed."""


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
        if isinstance(self.image, str | Path):
            check_upload(self.image)
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
            ValueError: A view has no prompt, or a text is too long or damaged.
        """
        for name, text in self._texts(labels):
            _check_text(name, text)
        own = [*self.view_prompts, *[""] * len(labels)][: len(labels)]
        texts = [(one or "").strip() or (self.prompt or "").strip() for one in own]
        without = [label for label, text in zip(labels, texts, strict=True) if not text]
        if without:
            of = "for all views" if len(without) == len(labels) else f"for the views {', '.join(without)}"
            raise ValueError(f"prompt must describe the scene; got none {of}.")
        return texts

    def _texts(self, labels: Sequence[str]) -> list[tuple[str, str | None]]:
        views = [(f"prompt of view {label}", text) for label, text in zip(labels, self.view_prompts, strict=False)]
        return [("prompt", self.prompt), *views, ("negative prompt", self.negative_prompt)]

    def sampling(self, max_steps: int = MAX_STEPS) -> dict[str, Any]:
        """Return the arguments that every pipeline takes.

        Args:
            max_steps: Largest number of steps.

        Raises:
            ValueError: A number is missing or out of range.
        """
        steps = _whole("steps", self.num_inference_steps, 1, max_steps)
        if self.guidance_scale is None or not 0 <= self.guidance_scale <= 100:
            typed = _typed(self.guidance_scale)
            raise ValueError(f"guidance must lie between 0 and 100; got {typed}. 1 means no guidance.")
        return {
            "seed": _whole("seed", self.seed, 0, MAX_SEED),
            "num_inference_steps": steps,
            "guidance_scale": float(self.guidance_scale),
            "negative_prompt": (self.negative_prompt or "").strip() or None,
        }

    def describe(self) -> str:
        """Return a sentence with the settings, by which a visitor knows whose result the page shows."""
        negative = (self.negative_prompt or "").strip()
        seed, steps, guidance = map(_typed, (self.seed, self.num_inference_steps, self.guidance_scale))
        rest = f", negative prompt: {negative}" if negative else ""
        return f"Seed {seed}, {steps} steps, guidance {guidance}{rest}."


def _whole(name: str, value: float | None, low: int, high: int) -> int:
    if value is None or not low <= value <= high or value != int(value):  # bounds first: int() fails on inf and nan
        raise ValueError(f"{name} must be a whole number between {low} and {high}; got {_typed(value)}.")
    return int(value)


def _typed(value: float | None) -> str:
    """Write a number as the visitor typed it: forms send 3.0 for 3, and nothing for what is no number."""
    return "none" if value is None else str(value).removesuffix(".0")


def _check_text(name: str, text: str | None) -> None:
    if len(text or "") > MAX_PROMPT:
        raise ValueError(f"{name} must have at most {MAX_PROMPT} characters; got {len(text)}.")
    if any("\ud800" <= letter <= "\udfff" for letter in text or ""):  # half of a pair, which no file can hold
        raise ValueError(f"{name} must be whole text; got half of a character. Type it again.")


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
        progress: Called with (finished steps, total steps) after each step; what it raises ends the generation.

    Raises:
        ValueError: A value of the request is missing or out of range.
    """
    prompts, settings = request.prompts(rig_labels(pipeline.rig)), request.sampling()
    notes = [request.describe()]
    callback = counted(pipeline, settings["num_inference_steps"], progress)
    with named_without_folder(request.given.image):
        if takes_image(pipeline):
            picture = request.given.picture()
            settings |= request.given.arguments(picture)
            source = f", from its {picture.fov_from}" if picture.fov_from else ""
            notes.append(f"Field of view across the picture's width: {picture.fov_deg:.4g}°{source}.")
        output = pipeline([prompts], output_type="uint8", callback_on_step_end=callback, **settings)
    return document(output, pipeline.rig, prompts, notes)


def counted(pipeline, num_steps: int, progress: Callable[[int, int], None] | None) -> Callable[..., None]:
    """Make a pipeline callback that reports (finished steps, total); some schedulers call it twice a step."""

    def callback(_, index: int, timestep, tensors) -> None:
        if progress is not None:
            progress(min((index + 1) // pipeline.scheduler.order, num_steps), num_steps)

    return callback


def document(output: MVDiffusionPanoramaOutput, rig: Rig, prompts: Sequence[str], notes: Sequence[str] = ()) -> str:
    """Return the HTML document of one sample: its panorama in the viewer, its views below.

    Args:
        output: Output of the pipeline, of output type "uint8".
        rig: Rig of the views.
        prompts: One prompt per view.
        notes: Lines of text below the views.
    """
    labels = rig_labels(rig)
    alike = len(set(prompts)) == 1
    captions = [prompts[0]] if alike else [f"{label}: {text}" for label, text in zip(labels, prompts, strict=True)]
    panorama = (output.panoramas[0].numpy(), output.covered.numpy())
    viewer = PanoramaViewer([PanoramaEntry("Panorama", captions, {"generated": panorama})])
    views = Gallery({"views": list(output.images[0].numpy())}, labels=labels)
    blocks = [viewer, views, *notes]
    return render_page(Page("Panorama", sections=[Section("views", "Views", blocks)], is_frame=True))
