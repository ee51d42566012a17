"""`mvdiff demo`: a page on this machine that generates panoramas."""

from __future__ import annotations

from dataclasses import dataclass

from mvdiff.cli.command import Command
from mvdiff.cli.opening import MemoryOptions, ModelOptions, open_pipeline, usable_device


@dataclass(frozen=True, kw_only=True)
class DemoOptions(ModelOptions):
    """Model and page."""

    model: str = "mvdiff://toy-caa"
    """a model folder (written by mvdiff fit or mvdiff export), a Hugging Face hub id, or a packaged model: mvdiff://toy-caa,
    mvdiff://toy-outpaint"""
    host: str = "127.0.0.1"
    """network address to serve at; 0.0.0.0 lets other machines open the page"""
    port: int | None = None
    """port to serve at (default: the first free one from 7860 on)"""


def run(options: DemoOptions, memory: MemoryOptions) -> int:
    """Open the model, serve the page until it is interrupted; return the exit status."""
    from mvdiff.demo.page import Defaults, build_page, launch_settings, require_gradio

    if options.port is not None and not 1 <= options.port <= 65535:
        raise ValueError(f"--port must lie between 1 and 65535; got {options.port}.")
    gr = require_gradio()
    usable_device(options.device)  # before a model is downloaded
    toy = Defaults("a red sofa, mint walls, wood floor", num_inference_steps=10, guidance_scale=2.0)
    defaults = toy if options.model.startswith("mvdiff://") else Defaults()
    pipeline = open_pipeline(_kind(options.model, options.revision), options, memory)
    page = build_page(pipeline, options.model, defaults)
    try:
        _, address, _ = page.launch(**launch_settings(gr, options.host, options.port), prevent_thread_lock=True)
    except OSError as error:  # of Gradio, which tells of its own settings
        port = "none from 7860 on" if options.port is None else options.port
        raise ValueError(
            f"--port must be free, and --host an address of this machine; got {port} on {options.host}, which cannot "
            "be served."
        ) from error
    print(f"{address} shows the page; stop with Ctrl-C", flush=True)
    page.block_thread()
    return 0


def _kind(model: str, revision: str | None):
    """Return the pipeline of a model's task; that of panoramas refuses models of other tasks."""
    from mvdiff.class_paths import resolve_class
    from mvdiff.pipelines.base import MultiViewPipeline
    from mvdiff.pipelines.model_folder import model_location, read_model_info
    from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

    face = resolve_class(read_model_info(model_location(model, revision)).task.pipeline, MultiViewPipeline)
    return face if issubclass(face, MVDiffusionPanoramaPipeline) else MVDiffusionPanoramaPipeline


COMMANDS = (
    Command(
        name="demo",
        summary="generate in the browser, from a page on this machine",
        description="Serve a page with a form (prompts for all views or each, seed, steps, guidance) and the "
        "360-degree viewer. Prints the page's address. Writes no files. Only this machine can open the page, "
        'unless --host says otherwise. Requires the `demo` extra: pip install "mvdiff[demo]".',
        example="mvdiff demo --model runs/pano/version_0/model",
        settings=(DemoOptions, MemoryOptions),
        run=run,
    ),
)
