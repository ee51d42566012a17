"""The demo's web page, built with Gradio: a form on the left, the 360-degree viewer on the right.

The page works offline: system fonts, no analytics, no share link. Annotations are evaluated here, not postponed, since
Gradio recognises the parameter that takes the visitor's session by its type.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mvdiff.demo.generation import Given, Request, generate_panorama, rig_labels, takes_image
from mvdiff.demo.line import Line, RunStopped
from mvdiff.demo.notices import alert, explain, frame, status
from mvdiff.demo.uploads import KEPT_SECONDS, MAX_UPLOAD_MB, preview
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

CLOSE_TOASTS = "(...values) => { document.querySelectorAll('.toast-close').forEach((x) => x.click()); return values }"
"""Script that closes Gradio's own messages, such as that of an upload that is too large."""
EMPTY = "<p>The generated panorama will appear here.</p>"


@dataclass(frozen=True)
class Form:
    """Initial values of the form, and the limit that the host chooses."""

    prompt: str = ""
    num_inference_steps: int = 50
    guidance_scale: float = 9.0
    max_steps: int = 100


def require_gradio():
    """Import and return Gradio, without analytics and without its history of runs.

    Raises:
        ModuleNotFoundError: Gradio is not installed; the message says how to install it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # must be set before the import
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'the demo needs the package gradio, which is not installed. Install it with: pip install "mvdiff[demo]"'
        ) from error
    return gradio


def build_page(pipeline: MVDiffusionPanoramaPipeline, name: str, form: Form, line: Line):
    """Build the page of a model as `gradio.Blocks`, within `upload_folder`; launch it with `launch_settings`.

    Args:
        pipeline: Panorama or outpainting pipeline.
        name: Name of the model on the page.
        form: Initial values and limit of the form.
        line: Line of the visitors.
    """
    gr = require_gradio()
    pipeline.set_progress_bar_config(disable=True)
    rig = pipeline.rig
    labels = rig_labels(rig)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    with gr.Blocks(title="mvdiff demo", analytics_enabled=False, delete_cache=(600, KEPT_SECONDS - 600)) as page:
        gr.Markdown(
            f"# mvdiff\n{len(labels)} views of {rig.width} x {rig.height} pixels, generated jointly by `{name}`."
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=320):
                given = _given(gr, quiet) if takes_image(pipeline) else []
                fields = _fields(gr, labels, form)
                with gr.Row():
                    button = gr.Button("Generate", variant="primary", elem_id="generate", min_width=120)
                    stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=120, visible=False)
            with gr.Column(scale=2, min_width=480):
                notice = gr.HTML("", elem_id="notice", padding=False)
                shown = gr.HTML(EMPTY, elem_id="result", min_height=320)

        def run(visitor: gr.Request, *values, progress=gr.Progress()) -> Iterator[tuple]:  # noqa: B008
            """Yield what to show in `notice`, `shown` and `stop`."""
            picture, (prompt, negative, seed, steps, guidance, *own) = values[: len(given)], values[len(given) :]
            request = Request(prompt, own, negative, seed, steps, guidance, Given(*picture))
            ended = gr.Button(visible=False)
            try:
                request.prompts(labels), request.sampling(form.max_steps)  # nobody waits in line for a mistyped number
                with line.place(visitor.session_hash) as ticket:
                    yield "", gr.skip(), gr.Button("Stop", interactive=True, visible=True)
                    for before in line.waits(ticket):
                        yield status(_waiting(before)) if before else "", gr.skip(), gr.skip()

                    def step(done: int, total: int) -> None:
                        ticket.step(done, total)
                        progress((done, total), desc="Generating", unit="steps")

                    document = generate_panorama(pipeline, request, step)
                yield "", frame(document), ended
            except RunStopped as stopped:
                if ticket.replaced:  # a double click, whose second run has the page now
                    return
                yield status(f"{stopped} Nothing was generated."), gr.skip(), ended
            except Exception as error:
                yield alert("Not generated", explain(error)), gr.skip(), ended

        def halt(visitor: gr.Request):
            is_running = line.stop(visitor.session_hash)
            return gr.Button("Stopping…", interactive=False) if is_running else gr.Button(visible=False)

        def leave(visitor: gr.Request) -> None:
            line.stop(visitor.session_hash)

        shows = [notice, shown, stop]
        unbounded = {"concurrency_limit": None, "show_progress_on": shown}  # `Line` lets one run at a time
        button.click(run, [*given, *fields], shows, js=CLOSE_TOASTS, **unbounded, api_visibility="private")
        stop.click(halt, None, stop, queue=False, **quiet)
        page.unload(leave)
    return page


def _waiting(before: int) -> str:
    return f"Waiting for {'another visitor' if before == 1 else f'{before} other visitors'}."


def _given(gr, quiet: dict) -> list:
    """Create the inputs of the picture to extend, in the order of `Given`."""
    # gr.Image would open the picture itself, and fail without a sentence
    image = gr.File(label=f"Picture to extend (at most {MAX_UPLOAD_MB} MB)", height=160, elem_id="image")
    shown = gr.HTML("", elem_id="preview", padding=False)

    def show(path: str | None) -> str:
        try:
            return preview(path) if path else ""
        except Exception as error:
            return alert("Not usable", explain(error))

    image.change(show, image, shown, concurrency_limit=2, **quiet)
    with gr.Row():
        across = "Across the width; 0: from the photo's EXIF, else 90."  # an empty field sends 0
        fov = gr.Number(0, label="Field of view (°)", info=across, elem_id="fov", min_width=90)
        yaw = gr.Number(0, label="Yaw, right (°)", elem_id="yaw", min_width=90)
        pitch = gr.Number(0, label="Pitch, up (°)", elem_id="pitch", min_width=90)
    return [image, fov, yaw, pitch, gr.Checkbox(True, label="Keep the picture's own pixels", elem_id="paste")]


def _fields(gr, labels: Sequence[str], form: Form) -> list:
    """Create the inputs of every task, in the order in which `run` takes them."""
    prompt = gr.Textbox(form.prompt, label="Prompt", lines=2, elem_id="prompt", info="For all views.")
    with gr.Accordion("A prompt for each view", open=False, elem_id="views"):
        gr.Markdown("Views without a prompt use the prompt above.")
        per_view = [gr.Textbox(label=f"View {label}", lines=1, elem_classes="view-prompt") for label in labels]
    negative = gr.Textbox(label="Negative prompt", lines=1, elem_id="negative")
    num_steps = min(form.num_inference_steps, form.max_steps)
    with gr.Row():  # without `precision`, by which Gradio would round 2.5 steps
        seed = gr.Number(0, label="Seed", elem_id="seed", min_width=90)
        steps = gr.Number(num_steps, label="Steps", elem_id="steps", min_width=90)
        guidance = gr.Number(form.guidance_scale, label="Guidance", elem_id="guidance", min_width=90)
    return [prompt, negative, seed, steps, guidance, *per_view]


def launch_settings(gr, host: str, port: int | None, line: Line) -> dict:
    """Return the arguments of `gradio.Blocks.launch`: no share link, no external fonts.

    Args:
        gr: The Gradio module.
        host: Address to listen on.
        port: Port to listen on; None: Gradio's choice.
        line: Line of the visitors, each of whom takes a thread.
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
        "max_file_size": f"{MAX_UPLOAD_MB}mb",
        "max_threads": line.max_waiting + 40,
    }
