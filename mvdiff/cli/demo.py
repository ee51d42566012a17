"""`mvdiff demo`: a page on this machine that generates panoramas."""

import argparse

from mvdiff.cli.opening import add_model_options, open_pipeline, usable_device

TOY_MODEL = "mvdiff://toy-caa"


def add_parser(subparsers) -> None:
    """Add the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="generate in the browser, from a page on this machine",
        description="Serve a page with a form (prompts for all views or each, seed, steps, guidance) and the "
        '360-degree viewer. It needs the extra demo: pip install "mvdiff[demo]". Nothing leaves this machine.',
        epilog="example: mvdiff demo --model runs/pano/version_0/model",
    )
    add = parser.add_argument
    add("--model", default=TOY_MODEL, metavar="ID", help="a model folder or hub id (default: %(default)s, packaged)")
    add_model_options(parser)
    add("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    add("--port", type=int, help="(default: the first free one from 7860 on)")


def run(args: argparse.Namespace) -> int:
    """Open the model, serve the page until it is interrupted; return the exit status."""
    from mvdiff.demo.page import Defaults, build_page, launch_settings, require_gradio

    if args.port is not None and not 1 <= args.port <= 65535:
        raise ValueError(f"--port must lie between 1 and 65535; got {args.port}.")
    gr = require_gradio()
    usable_device(args.device)  # before a model is downloaded
    toy = Defaults("a red sofa in the middle, white walls, wood floor", num_inference_steps=10, guidance_scale=2.0)
    defaults = toy if args.model.startswith("mvdiff://") else Defaults()
    page = build_page(open_pipeline(_kind(args.model, args.revision), args), args.model, defaults)
    try:
        _, address, _ = page.launch(**launch_settings(gr, args.host, args.port), prevent_thread_lock=True)
    except OSError as error:  # of Gradio, which tells of its own settings
        port = "none from 7860 on" if args.port is None else args.port
        raise ValueError(
            f"--port must be free, and --host an address of this machine; got {port} on {args.host}, which cannot be "
            "served."
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
