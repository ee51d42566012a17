"""Check and run a visitor's request; knows nothing of the page.

Legend: V views, H W image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.panorama import MVDiffusionPanoramaOutput, MVDiffusionPanoramaPipeline
from mvdiff.report import Gallery, Page, PanoramaEntry, PanoramaViewer, Section, render_page, view_labels

MAX_STEPS = 1000


@dataclass(frozen=True)
class Given:
    """The picture that outpainting continues.

    Attributes:
        image: A PIL image, or None while there is none; the other fields are arguments of the pipeline's call.
    """

    image: Any = None
    fov_deg: float | None = 90.0
    yaw_deg: float | None = 0.0
    pitch_deg: float | None = 0.0
    paste_back: bool = True

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the pipeline; raise ValueError where the picture or an angle is missing."""
        if self.image is None:
            raise ValueError("image must be the picture to continue; got none.")
        angles = {"fov_deg": self.fov_deg, "yaw_deg": self.yaw_deg, "pitch_deg": self.pitch_deg}
        missing = [name for name, value in angles.items() if value is None]
        if missing:
            raise ValueError(f"{' and '.join(missing)} must be a number of degrees; got none.")
        return {"image": self.image, "paste_back": bool(self.paste_back)} | {k: float(v) for k, v in angles.items()}


@dataclass(frozen=True)
class Request:
    """Content of the form, as the pipeline's arguments of these names.

    Attributes:
        prompt: Text of all views that have none of their own.
        view_prompts: One per view; an empty one takes `prompt`.
        given: The picture to continue; read by a pipeline that takes one.
    """

    prompt: str
    view_prompts: Sequence[str] = ()
    negative_prompt: str = ""
    seed: float | None = 0
    num_inference_steps: float | None = 50
    guidance_scale: float | None = 9.0
    given: Given = Given()

    def prompts(self, labels: Sequence[str]) -> list[str]:
        """Return the text of every view; the ValueError where there is none names the views by `labels`."""
        own = [*self.view_prompts, *[""] * len(labels)][: len(labels)]
        texts = [(one or "").strip() or (self.prompt or "").strip() for one in own]
        without = [label for label, text in zip(labels, texts, strict=True) if not text]
        if without:
            of = "for all views" if len(without) == len(labels) else f"for the views {', '.join(without)}"
            raise ValueError(f"prompt must say what is to be seen; got none {of}.")
        return texts

    def sampling(self) -> dict[str, Any]:
        """Return the settings that every pipeline takes.

        Raises:
            ValueError: A number is missing or out of range.
        """
        steps = _whole("steps", self.num_inference_steps, 1, MAX_STEPS)
        if self.guidance_scale is None or not 0 <= self.guidance_scale <= 100:
            raise ValueError(f"guidance must lie between 0 and 100; got {self.guidance_scale}. 1 is no guidance.")
        return {
            "seed": _whole("seed", self.seed, 0, 2**63 - 1),
            "num_inference_steps": steps,
            "guidance_scale": float(self.guidance_scale),
            "negative_prompt": (self.negative_prompt or "").strip() or None,
        }


def _whole(name: str, value: float | None, low: int, high: int) -> int:
    if value is None or not low <= value <= high or value != int(value):  # the bounds first: inf and nan are no int
        bounds = f"between {low} and {high}" if high < 2**32 else f"of at least {low}"
        raise ValueError(f"{name} must be a whole number {bounds}; got {value}.")
    return int(value)


def rig_labels(rig: Rig) -> list[str]:
    """Name the views of a rig by where they look."""
    return view_labels(rig.yaw_deg, rig.pitch_deg)


def takes_image(pipeline: MVDiffusionPanoramaPipeline) -> bool:
    """Tell whether a pipeline continues a given picture (outpainting)."""
    return "image" in inspect.signature(type(pipeline).__call__).parameters


def generate_panorama(
    pipeline: MVDiffusionPanoramaPipeline, request: Request, progress: Callable[[int, int], None] | None = None
) -> str:
    """Generate a panorama and return the document that shows it.

    Args:
        pipeline: A panorama or outpainting pipeline.
        request: Content of the form.
        progress: Called with (steps done, steps in all).

    Raises:
        ValueError: The request cannot be met.
    """
    prompts, settings = request.prompts(rig_labels(pipeline.rig)), request.sampling()
    if takes_image(pipeline):
        settings |= request.given.arguments()
    callback = counted(pipeline, settings["num_inference_steps"], progress)
    output = pipeline([prompts], output_type="uint8", callback_on_step_end=callback, **settings)
    return document(output, pipeline.rig, prompts)


def counted(pipeline, num_steps: int, progress: Callable[[int, int], None] | None) -> Callable[..., None]:
    """Make the pipeline's callback of `progress`; some schedulers call it twice a step."""

    def callback(_, index: int, timestep, tensors) -> None:
        if progress is not None:
            progress(min((index + 1) // pipeline.scheduler.order, num_steps), num_steps)

    return callback


def document(output: MVDiffusionPanoramaOutput, rig: Rig, prompts: Sequence[str]) -> str:
    """Write the document of one sample, of output type "uint8": its panorama in the viewer, its views below."""
    labels = rig_labels(rig)
    alike = len(set(prompts)) == 1
    captions = [prompts[0]] if alike else [f"{label}: {text}" for label, text in zip(labels, prompts, strict=True)]
    panorama = (output.panoramas[0].numpy(), output.covered.numpy())
    viewer = PanoramaViewer([PanoramaEntry("Panorama", captions, {"generated": panorama})])
    views = Gallery({"views": list(output.images[0].numpy())}, labels=labels)
    return render_page(Page("Panorama", sections=[Section("views", "Views", [viewer, views])], is_frame=True))
