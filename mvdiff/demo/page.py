"""The demo's web page, built with Gradio: a form on the left, the 360-degree viewer on the right.

The page works offline: system fonts, no analytics, no share link.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mvdiff.demo.generation import Given, Request, generate_panorama, rig_labels, takes_image
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

logger = logging.getLogger(__name__)

EMPTY = "<p>The generated panorama will appear here.</p>"
FRAME_STYLE = "width: 100%; height: 54rem; border: 0"


@dataclass(frozen=True)
class Defaults:
    """Initial values of the form."""

    prompt: str = ""
    num_inference_steps: int = 50
    guidance_scale: float = 9.0


def require_gradio():
    """Import and return Gradio, with analytics disabled.

    Raises:
        ModuleNotFoundError: Gradio is not installed; the message says how to install it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # must be set before the import
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the demo needs the package gradio, which is not installed. Install it with: pip install "mvdiff[demo]"'
        ) from error
    return gradio


def build_page(pipeline: MVDiffusionPanoramaPipeline, name: str, defaults: Defaults):
    """Build the page of a model as `gradio.Blocks`; launch it with `launch_settings`.

    Args:
        pipeline: Panorama or outpainting pipeline.
        name: Name of the model on the page.
        defaults: Initial values of the form.
    """
    gr = require_gradio()
    pipeline.set_progress_bar_config(disable=True)
    rig = pipeline.rig
    labels = rig_labels(rig)
    with gr.Blocks(title="mvdiff demo", analytics_enabled=False) as page:
        gr.Markdown(
            f"# mvdiff\n{len(labels)} views of {rig.width} x {rig.height} pixels, generated jointly by `{name}`."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                given = _given(gr) if takes_image(pipeline) else []
                form = _form(gr, labels, defaults)
                button = gr.Button("Generate", variant="primary", elem_id="generate")
            with gr.Column(scale=2, min_width=480):
                shown = gr.HTML(EMPTY, elem_id="result", min_height=320)

        def run(*values, progress=gr.Progress()):  # noqa: B008
            picture, (prompt, negative, seed, steps, guidance, *own) = values[: len(given)], values[len(given) :]
            request = Request(prompt, own, negative, seed, steps, guidance, Given(*picture))

            def step(done: int, total: int) -> None:
                progress((done, total), desc="Generating", unit="steps")

            return _shown(gr, lambda: generate_panorama(pipeline, request, step))

        button.click(run, [*given, *form], shown, concurrency_limit=1, api_visibility="private")
    return page


def _given(gr) -> list:
    """Create the inputs of the picture to extend, in the order of `Given`."""
    options = {"type": "filepath", "image_mode": None}  # the file as it is, for the one decoder
    image = gr.Image(label="Picture to extend", sources=["upload"], height=220, elem_id="image", **options)
    with gr.Row():
        across = "Across the width; 0: from the photo's EXIF, else 90."  # an empty field sends 0
        fov = gr.Number(0, label="Field of view (°)", info=across, elem_id="fov", min_width=90)
        yaw = gr.Number(0, label="Yaw, right (°)", elem_id="yaw", min_width=90)
        pitch = gr.Number(0, label="Pitch, up (°)", elem_id="pitch", min_width=90)
    return [image, fov, yaw, pitch, gr.Checkbox(True, label="Keep the picture's own pixels", elem_id="paste")]


def _form(gr, labels: Sequence[str], defaults: Defaults) -> list:
    """Create the inputs of every task, in the order of the arguments of `run`."""
    prompt = gr.Textbox(defaults.prompt, label="Prompt", lines=2, elem_id="prompt", info="For all views.")
    with gr.Accordion("A prompt for each view", open=False, elem_id="views"):
        gr.Markdown("Views without a prompt use the prompt above.")
        per_view = [gr.Textbox(label=f"View {label}", lines=1, elem_classes="view-prompt") for label in labels]
    negative = gr.Textbox(label="Negative prompt", lines=1, elem_id="negative")
    with gr.Row():
        seed = gr.Number(0, label="Seed", precision=0, elem_id="seed", min_width=90)
        steps = gr.Number(defaults.num_inference_steps, label="Steps", precision=0, elem_id="steps", min_width=90)
        guidance = gr.Number(defaults.guidance_scale, label="Guidance", elem_id="guidance", min_width=90)
    return [prompt, negative, seed, steps, guidance, *per_view]


def _shown(gr, generate) -> str:
    """Generate and return an iframe with the document; every error becomes a message on the page."""
    import torch

    try:
        document = generate()
    except (ValueError, OSError) as error:
        raise _message(gr, str(error)) from error
    except torch.OutOfMemoryError as error:
        raise _message(gr, "the device has too little memory for this model. Try --dtype bfloat16.") from error
    except Exception as error:  # the visitor sees one sentence, the terminal the traceback
        logger.exception("generation failed")
        raise _message(gr, f"generation failed: {error}. See the terminal of mvdiff demo for details.") from error
    return f'<iframe title="Result" style="{FRAME_STYLE}" allow="fullscreen" srcdoc="{escape(document)}"></iframe>'


def _message(gr, text: str):
    return gr.Error(escape(text), duration=None, title="Not generated", print_exception=False)


def launch_settings(gr, host: str, port: int | None) -> dict:
    """Return the arguments of `gradio.Blocks.launch`: no share link, no external fonts.

    Args:
        gr: The Gradio module.
        host: Address to listen on.
        port: Port to listen on; None: Gradio's choice.
    """
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return {
        "server_name": host,
        "server_port": port,
        "theme": gr.themes.Default(**fonts),
        "share": False,
        "ssr_mode": False,
        "quiet": True,
        "footer_links": [],
    }
