"""`mvdiff demo`: a page on this machine that generates panoramas."""

import argparse

from mvdiff.cli.generate import DTYPES

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
    add("--model", default=TOY_MODEL, metavar="DIR", help="a model folder (default: %(default)s, packaged)")
    add("--base", metavar="ID", help="the base, where it is not at the place that the model names")
    add("--vae", metavar="ID", help="likewise the autoencoder that the model uses in place of the base's")
    add("--scheduler", metavar="NAME", help="any diffusers scheduler, as DPMSolverMultistep (default: the model's)")
    add("--device", help="as cuda, cuda:1 or cpu (default: cuda where there is one)")
    add("--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)")
    add("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)")
    add("--port", type=int, help="(default: the first free one from 7860 on)")


def run(args: argparse.Namespace) -> int:
    """Open the model, serve the page until it is interrupted; return the exit status."""
    from mvdiff.demo.page import build_page, launch_settings, require_gradio

    gr = require_gradio()

    from mvdiff.cli.generate import _pipeline
    from mvdiff.demo.page import Defaults

    toy = Defaults("a red sofa in the middle, white walls, wood floor", num_inference_steps=10, guidance_scale=2.0)
    defaults = toy if args.model.startswith("mvdiff://") else Defaults()
    page = build_page(_pipeline(_kind(args.model), args), args.model, defaults)
    _, address, _ = page.launch(**launch_settings(gr, args.host, args.port), prevent_thread_lock=True)
    print(f"{address} shows the page; stop with Ctrl-C", flush=True)
    page.block_thread()
    return 0


def _kind(model: str):
    """Return the pipeline of a model's task; that of panoramas says itself what is wrong with a model of another."""
    from mvdiff.pipelines.model_folder import model_location, read_model_info

    if read_model_info(model_location(model)).task == "outpaint":
        from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline

        return MVDiffusionOutpaintPipeline

    from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline

    return MVDiffusionPanoramaPipeline
