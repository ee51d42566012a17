"""Tables of three small rooms and two walks: tiny real models, one step; and a process that is killed in one."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from mvdiff.geometry.cameras import RingRig
from mvdiff.recipes.benchmarks.runner import run_table
from mvdiff.recipes.benchmarks.settings import BenchmarkSettings, Table1Settings, Table2Settings
from mvdiff.recipes.benchmarks.table import MethodRow, ModelPart, PaperTable
from mvdiff.recipes.benchmarks.table1 import GROUND_TRUTH, INDEPENDENT, MVDIFFUSION, PANORAMAS, TABLE1
from mvdiff.recipes.benchmarks.table2 import FRAMES, TABLE2
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
        "num_resamples": 100,
    },
}
WORLD = {"rooms": 4, "test_rooms": 3, "size": 32, "num_frames": 0}


def with_parts(row: MethodRow, **names: Path | str) -> MethodRow:
    """Return a row with models of the tests by place, under the options of the row's own."""
    own = row.parts["toy"]
    return replace(row, parts={"toy": {place: replace(own[place], name=str(name)) for place, name in names.items()}})


def small_table(folder: Path, models: Mapping[str, Path]) -> PaperTable:
    """Table 1 with six rows that mvdiff makes, of which one has no weights, and one that it imports."""
    protocol = folder / "small.yaml"
    protocol.write_text(yaml.safe_dump(PROTOCOL))
    model = models["model"]
    base = ModelPart(option="pano_base", name="mvdiff://no-base", source="mvdiff fit --config x.yaml")
    rows = (
        with_parts(PANORAMAS.row("inpainting"), base=models["inpainting"], model=model),
        PANORAMAS.row("text2light"),
        replace(PANORAMAS.row("sd-pano"), parts={"toy": {"base": base}}),
        with_parts(INDEPENDENT, model=model),
        with_parts(PANORAMAS.row("multidiffusion"), model=model),
        with_parts(MVDIFFUSION, model=model),
        GROUND_TRUTH,
    )
    section = PANORAMAS.with_rows(rows, protocols={"toy": str(protocol)}, world=WORLD)
    return replace(TABLE1, sections=(section,))


def small_depth_table(folder: Path, models: Mapping[str, Path]) -> PaperTable:
    """Table 2: the first 4 key frames of two walks."""
    images = {"num_samples": 2, "num_reference_samples": 2, "num_views": 4, "height": 24, "width": 32, "rig": None}
    changes = {"title": "two small walks", "task": "depth", "images": images}
    changes["data"] = {"ids": r"toy\d{5}_keyframes_0"}
    changes["metrics"] = ["overlap_psnr", "overlap_chance", "overlap_zncc", "border_ratio", "sharpness"]
    overlap = {"overlap_size": 0, "overlap_pairs": "adjacent", "overlap_depth_error": 0.5}
    changes["settings"] = {**overlap, "seed": 0, "num_resamples": 100}
    protocol = folder / "walks.yaml"
    protocol.write_text(yaml.safe_dump(PROTOCOL | changes))
    world = {"rooms": 3, "test_rooms": 2, "size": 32, "num_frames": 16, "arc_deg": 150}
    model = models["model"]
    rows = (
        with_parts(FRAMES.row("repaint"), model=model),
        with_parts(FRAMES.row("controlnet-inpainting"), base=models["inpainting"], controlnet=models["controlnet"]),
        with_parts(FRAMES.row("independent"), model=model),
        with_parts(FRAMES.row("mvdiffusion"), model=model),
        FRAMES.row("truth"),
    )
    section = FRAMES.with_rows(rows, protocols={"toy": str(protocol)}, world=world)
    return replace(TABLE2, sections=(section,))


def settings(out: Path, **changes) -> Table1Settings:
    """Settings of a run in this process."""
    return Table1Settings(**{"out": out, "device": "cpu", "num_workers": 0, "batch_size": 2} | changes)


def depth_settings(out: Path) -> Table2Settings:
    """Settings of a run of frames in this process."""
    own = settings(out)
    return Table2Settings(**{one.name: getattr(own, one.name) for one in fields(BenchmarkSettings)})


def stop_at(deadly: Path, stop: Callable[[], None]) -> Callable[..., None]:
    """Return a `SampleWriter.__init__` that calls `stop` when a sample is to be written into a folder."""
    write = sample_writing.SampleWriter.__init__

    def stop_when_due(self, place, *args, **options):
        if Path(place) == deadly:
            stop()
        write(self, place, *args, **options)

    return stop_when_due


def run_killed(folder: Path, models: Mapping[str, Path], deadly: Path) -> None:
    """Run the table in a folder; die when a sample is to be written into `deadly`."""
    sample_writing.SampleWriter.__init__ = stop_at(deadly, lambda: os.kill(os.getpid(), signal.SIGKILL))
    run_table(small_table(folder, models), settings(folder / "out"))


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


def run_until(deadly: Path, table, chosen) -> None:
    """Run a table that is killed when a sample is to be written into a folder."""

    def kill():
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sample_writing.SampleWriter, "__init__", stop_at(deadly, kill))
        with pytest.raises(Killed):
            run_table(table, chosen)


def rows_of(folder: Path) -> dict:
    """Return the rows of the table's JSON by method, and its differences."""
    (file,) = folder.glob("table*.json")
    (section,) = json.loads(file.read_text())["sections"].values()
    return {row["method"]: row for row in section["rows"]} | {"differences": section["differences"]}


def numbers_of(folder: Path) -> dict:
    """Everything in the table's JSON that a rerun must repeat."""
    found = rows_of(folder)
    differences = found.pop("differences")
    kept = ("content_hash", "metrics", "num_samples", "needs", "shortcomings")
    return {"differences": differences} | {method: {key: row.get(key) for key in kept} for method, row in found.items()}
