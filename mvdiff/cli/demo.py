"""`mvdiff demo`: a page on this machine that generates panoramas."""

from __future__ import annotations

import logging
import signal
import time
from dataclasses import dataclass

from mvdiff.cli.command import Command
from mvdiff.cli.opening import MemoryOptions, ModelOptions, open_pipeline, usable_device
from mvdiff.signals import stopped_by


@dataclass(frozen=True, kw_only=True)
class DemoOptions(ModelOptions):
    """Model and page."""

    model: str = "mvdiff://toy-caa"
    """a model folder (written by mvdiff fit or mvdiff export), a Hugging Face hub id, or a packaged model:
    mvdiff://toy-caa, mvdiff://toy-outpaint"""
    host: str = "127.0.0.1"
    """network address to serve at; 0.0.0.0 lets other machines open the page"""
    port: int | None = None
    """port to serve at (default: the first free one from 7860 on)"""
    max_steps: int = 100
    """largest number of steps that a visitor may ask for, from 1 to 1000"""
    max_waiting: int = 10
    """largest number of visitors who wait while another one's panorama is generated, from 0 to 100"""


def run(options: DemoOptions, memory: MemoryOptions) -> int:
    """Open the model, serve the page until it is interrupted; return the exit status."""
    from mvdiff.demo.uploads import upload_folder

    for name, low, high in (("port", 1, 65535), ("max_steps", 1, 1000), ("max_waiting", 0, 100)):
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise ValueError(f"--{name} must lie between {low} and {high}; got {value}.")
    hangup = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # a closed terminal; not on Windows
    with stopped_by(*hangup), upload_folder():  # before Gradio is imported, which makes folders at once
        _serve(options, memory)
    return 0


def _serve(options: DemoOptions, memory: MemoryOptions) -> None:
    from mvdiff.demo.line import Line
    from mvdiff.demo.page import Form, build_page, launch_settings, require_gradio

    gr = require_gradio()
    usable_device(options.device)  # before a model is downloaded
    toy = {"prompt": "a red sofa, mint walls, wood floor", "num_inference_steps": 10, "guidance_scale": 2.0}
    form = Form(**toy if options.model.startswith("mvdiff://") else {}, max_steps=options.max_steps)
    pipeline = open_pipeline(_kind(options.model, options.revision), options, memory)
    line = Line(options.max_waiting)
    page = build_page(pipeline, options.model, form, line)
    settings = launch_settings(gr, options.host, options.port, line)
    try:
        _, address, _ = page.launch(**settings, prevent_thread_lock=True)
    except OSError as error:  # of Gradio, which tells of its own settings
        port = "none from 7860 on" if options.port is None else options.port
        raise ValueError(
            f"--port must be free, and --host an address of this machine; got {port} on {options.host}, which cannot "
            "be served."
        ) from error
    print(f"{address} shows the page; stop with Ctrl-C", flush=True)
    try:
        while page.is_running:
            time.sleep(0.1)
    except KeyboardInterrupt:
        pass  # the way to end the command
    finally:
        line.close()
        page.server.config.timeout_graceful_shutdown = 1  # open pages keep their connections for 10 s and more
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # which lists them
        page.close(verbose=False)


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
        "360-degree viewer. Prints the page's address, and removes uploads when it ends. Only this machine can open "
        'the page, unless --host says otherwise. Requires the `demo` extra: pip install "mvdiff[demo]".',
        example="mvdiff demo --model runs/pano/version_0/model",
        settings=(DemoOptions, MemoryOptions),
        run=run,
    ),
)
