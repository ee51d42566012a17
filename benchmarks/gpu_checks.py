"""Check a device against the CPU's float32: attention across views, every pipeline, resumed training, CPU offload.

    export PYTHONPATH=.
    python benchmarks/gpu_checks.py --device cuda
    python benchmarks/gpu_checks.py --device cpu --size tiny

Pipelines are tiny, with random weights, from the tests' own builders (install the development tools); `--size full`
also runs a packaged model, and attention at all widths of Stable Diffusion 2. float32 runs without TF32. Prints a line
per check and exits with status 1 if one fails.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from precision import BOUNDS, MODES, ROUNDING, Mode, errors
from torch import Tensor

from mvdiff.cli.main import main as mvdiff
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from tests import tiny_bases
from tests.pipelines.conftest import RING, make_pipeline, trained_like
from tests.pipelines.depth_pipelines import given, make_depth_pipeline, walls
from tests.pipelines.test_outpaint import make_outpaint, some_views
from tests.training.tiny_run import tiny_config, write_config

STEPS = {"seed": 1, "num_inference_steps": 2, "output_type": "latent", "guidance_scale": 2.0}
LATENT_BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.01}
"""Largest relative error of the latents of a whole call; on a CPU at most 0, 0.033 and 0.0033 were seen."""
FULL = Mode(torch.float32, False)
Check = Callable[[], str]


class CheckError(Exception):
    """A result is not what it should be."""


def relative(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is expected."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


def within(error: float, bound: float) -> str:
    """Return both as text; raise CheckError if the error is larger or NaN."""
    text = f"error {error:.1e}, bound {bound:.1e}"
    if not error <= bound:
        raise CheckError(text)
    return text


def check_attention(device: str, channels: int, mode: Mode) -> str:
    """Compare updates and gradients of a block with those on the CPU in float32."""
    found = errors(channels, mode, device)
    bounds = dict.fromkeys(BOUNDS, 1e-4) if mode is FULL else {k: v * ROUNDING[mode.dtype] for k, v in BOUNDS.items()}
    return "; ".join(f"{name} {within(found[name], bounds[name])}" for name in bounds)


def panorama(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    """Make the tiny panorama pipeline, and a call of it."""
    return make_pipeline(folder), lambda pipeline: pipeline("a ball", **STEPS).images


def outpaint(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    """Make the tiny outpainting pipeline, and a call of it."""
    images, known = some_views()
    return make_outpaint(folder), lambda pipeline: pipeline("a ball", images=images, known=known, **STEPS).images


def depth(folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    """Make the tiny depth pipeline, and a call of it with padded frames and a known one."""
    frames = walls(3, 2) | given(2, 3, [0])
    return make_depth_pipeline(folder), lambda pipeline: pipeline(["a ball", "red"], **frames, **STEPS).images


def family(name: str, folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    """Make the tiny panorama pipeline of a family of bases, and a call of it."""
    base = tiny_bases.make(name)
    adapter = trained_like(base.new_adapter({"init_args": {"head_dim": 8}}))
    pipeline = MVDiffusionPanoramaPipeline.from_backbone(base, adapter, rig=RING)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, lambda pipeline: pipeline("a ball", **STEPS).images


def packaged(name: str, folder: Path) -> tuple[Any, Callable[[Any], Any]]:
    """Load a packaged panorama model, and make a call of it."""
    pipeline = MultiViewPipeline.from_pretrained(name)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline, lambda pipeline: pipeline("a red sofa, mint walls", **STEPS | {"num_inference_steps": 10}).images


def check_pipeline(device: str, make: Callable[[Path], tuple[Any, Callable[[Any], Any]]], dtype: torch.dtype) -> str:
    """Compare the latents of a call with those of the CPU in float32."""
    with TemporaryDirectory() as folder:
        pipeline, call = make(Path(folder))
        expected = call(pipeline)
        return within(relative(call(pipeline.to(device, dtype)), expected), LATENT_BOUNDS[dtype])


def check_offload(device: str, make: Callable[[Path], tuple[Any, Callable[[Any], Any]]], kind: str) -> str:
    """Compare the latents of a call with CPU offload, bit for bit, with those without."""
    with TemporaryDirectory() as folder:
        pipeline, call = make(Path(folder))
        expected = call(pipeline.to(device)).cpu()
        pipeline.to("cpu")
        getattr(pipeline, f"enable_{kind}_cpu_offload")(device=device)
        for _ in range(2):
            if not torch.equal(call(pipeline).cpu(), expected):
                raise CheckError("other bits than without offload")
    return "equal bit for bit"


def check_resume(device: str) -> str:
    """Compare a run of two steps, bit for bit, with one that was resumed after its first; algorithms deterministic."""
    with TemporaryDirectory() as folder:
        root = Path(folder)

        def fit(name: str, *arguments: str) -> dict[str, Tensor]:
            config = tiny_config(root)
            keep = {"dirpath": str(root / name), "every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}
            saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}
            config["trainer"] |= {"max_steps": 2, "num_sanity_val_steps": 0, "limit_val_batches": 0, "logger": False}
            config["trainer"] |= {"accelerator": "cpu" if device == "cpu" else "gpu", "devices": 1}
            config["trainer"] |= {"callbacks": [saver], "deterministic": True, "enable_progress_bar": False}
            config["trainer"]["default_root_dir"] = str(root / name)
            run = write_config(root / f"{name}.yaml", config)
            with redirect_stdout(sys.stderr):
                status = mvdiff(["fit", "--config", str(run), *arguments])
            if status:
                raise CheckError("mvdiff fit failed")
            return torch.load(root / name / "step=2.ckpt", weights_only=True)["state_dict"]

        try:
            whole = fit("whole")
            resumed = fit("resumed", "--ckpt_path", str(root / "whole" / "step=1.ckpt"))
        finally:
            torch.use_deterministic_algorithms(False)
    different = [name for name, value in whole.items() if not torch.equal(value, resumed[name])]
    if different:
        raise CheckError(f"{len(different)} of {len(whole)} tensors differ, {different[0]} first")
    return f"{len(whole)} tensors equal bit for bit"


def checks(device: str, size: str) -> Iterator[tuple[str, Check]]:
    """Yield the name of each check, and the check."""
    for channels in (320, 640, 1280) if size == "full" else (320,):
        for mode in (FULL, *MODES):
            yield f"attention, {channels} channels, {mode}", partial(check_attention, device, channels, mode)
    makers = {"panorama": panorama, "outpaint": outpaint, "depth": depth}
    makers |= {name: partial(family, name) for name in tiny_bases.FAMILIES}
    if size == "full":
        makers["mvdiff://toy-caa"] = partial(packaged, "mvdiff://toy-caa")
    for name, make in makers.items():
        for dtype in LATENT_BOUNDS:
            kind = str(dtype).removeprefix("torch.")
            yield f"pipeline {name}, {kind}", partial(check_pipeline, device, make, dtype)
    yield "resumed training", partial(check_resume, device)
    for name in ("panorama", "sana", "sd3"):
        for kind in ("model", "sequential"):
            yield f"CPU offload, {kind}, {name}", partial(check_offload, device, makers[name], kind)


def main() -> int:
    """Run all checks; return 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["tiny", "full"], default="full")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    failed = 0
    for name, check in checks(args.device, args.size):
        start = time.perf_counter()
        try:
            result = check()
        except Exception as error:  # a check that fails must not keep the others from running
            failed += 1
            result = f"FAILED: {type(error).__name__}: {error}"
            if not isinstance(error, CheckError):
                traceback.print_exc()
        print(f"{name}: {result} ({time.perf_counter() - start:.1f} s)", flush=True)
    print(f"{failed} checks failed" if failed else "all checks passed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
