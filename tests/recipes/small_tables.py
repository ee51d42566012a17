"""A table of three small rooms: tiny real models, one step, 16 x 16 pixels; and a process that is killed in it."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import yaml

from mvdiff.geometry.cameras import RingRig
from mvdiff.recipes.benchmarks.runner import run_table
from mvdiff.recipes.benchmarks.settings import Table1Settings
from mvdiff.recipes.benchmarks.table import ModelPart, PaperTable
from mvdiff.recipes.benchmarks.table1 import GROUND_TRUTH, INDEPENDENT, MVDIFFUSION, PANORAMAS, TABLE1
from mvdiff.recipes.benchmarks.table2 import FRAMES, TABLE2
from mvdiff.samples import sample_folder
from mvdiff.samples import writing as sample_writing

RIG = RingRig(num_views=8, height=16, width=16)
PROTOCOL = {
    "title": "three small rooms",
    "task": "panorama",
    "data": {"ids": r"toy\d{5}_toy\d{5}"},
    "images": {
        "num_samples": 3,
        "num_reference_samples": 3,
        "num_views": 8,
        "height": 16,
        "width": 16,
        "rig": [list(view) for view in RIG.views],
    },
    "sampling": {
        "seed": 5,
        "num_inference_steps": 1,
        "guidance_scale": 1.0,
        "eta": 0,
        "negative_prompt": "",
        "scheduler": "DDIMScheduler",
        "precision": "float32",
    },
    "metrics": ["toy_fid", "caption_agreement", "overlap_psnr", "overlap_chance", "border_ratio", "sharpness"],
    "settings": {
        "fid_resamples": 0,
        "judge_heads": ["object"],
        "overlap_size": 0,
        "overlap_pairs": "adjacent",
        "overlap_depth_error": 0.5,
        "seed": 0,
        "num_resamples": 20,
    },
}
WORLD = {"rooms": 4, "test_rooms": 3, "size": 32, "num_frames": 0}


def small_table(folder: Path, model: Path) -> PaperTable:
    """Table 1 with four rows that mvdiff makes, of which one has no weights, and one that it imports."""
    protocol = folder / "small.yaml"
    protocol.write_text(yaml.safe_dump(PROTOCOL))
    parts = {"toy": {"model": ModelPart(option="model", name=str(model), source="tests")}}
    base = ModelPart(option="pano_base", name="mvdiff://no-base", source="mvdiff fit --config x.yaml")
    rows = (
        PANORAMAS.row("text2light"),
        replace(PANORAMAS.row("sd-pano"), parts={"toy": {"base": base}}),
        replace(INDEPENDENT, parts=parts),
        replace(MVDIFFUSION, parts=parts),
        GROUND_TRUTH,
    )
    section = PANORAMAS.with_rows(rows, protocols={"toy": str(protocol)}, world=WORLD)
    return replace(TABLE1, sections=(section,))


def small_depth_table(folder: Path) -> PaperTable:
    """Table 2 with the real frames alone: the first 4 key frames of two walks."""
    images = {"num_samples": 2, "num_reference_samples": 2, "num_views": 4, "height": 24, "width": 32, "rig": None}
    changes = {"title": "two small walks", "task": "depth", "images": images}
    changes["data"] = {"ids": r"toy\d{5}_keyframes_0"}
    changes["metrics"] = ["overlap_psnr", "overlap_chance", "overlap_zncc", "border_ratio", "sharpness"]
    overlap = {"overlap_size": 0, "overlap_pairs": "adjacent", "overlap_depth_error": 0.5}
    changes["settings"] = {**overlap, "seed": 0, "num_resamples": 20}
    protocol = folder / "walks.yaml"
    protocol.write_text(yaml.safe_dump(PROTOCOL | changes))
    world = {"rooms": 3, "test_rooms": 2, "size": 32, "num_frames": 16, "arc_deg": 150}
    section = FRAMES.with_rows((FRAMES.row("truth"),), protocols={"toy": str(protocol)}, world=world)
    return replace(TABLE2, sections=(section,))


def settings(out: Path, **changes) -> Table1Settings:
    """Settings of a run in this process."""
    return Table1Settings(**{"out": out, "device": "cpu", "num_workers": 0, "batch_size": 2} | changes)


def run_until(folder: Path, model: Path, method: str, due: str) -> None:
    """Run the table in a folder with a model; die when a method is to write a sample."""
    write, out = sample_writing.SampleWriter.__init__, folder / "out"
    deadly = sample_folder(out / "small" / "samples" / method, due)

    def kill_when_due(self, place, *args, **options):
        if Path(place) == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, place, *args, **options)

    sample_writing.SampleWriter.__init__ = kill_when_due
    run_table(small_table(folder, model), settings(out))
