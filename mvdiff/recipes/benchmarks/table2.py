"""Table 2 of the paper: depth to frames."""

from __future__ import annotations

from mvdiff.recipes.benchmarks.table import MethodRow, ModelPart, PaperTable, TableSection
from mvdiff.recipes.benchmarks.table1 import BESIDE_OVERLAP, GROUND_TRUTH, INPAINTING_BASES, PUBLISHED
from mvdiff.recipes.scoring import Number

_TRAINED = "a model trained by mvdiff fit --config depth_stage2.yaml, or the published one (docs/checkpoints.md)"
MODEL = {
    "toy": {"model": ModelPart(option="model", name="mvdiff://toy-depth", source="part of the package")},
    "paper": {"model": ModelPart(option="model", source=_TRAINED)},
}
CONTROLNETS = {
    "toy": ModelPart(
        option="controlnet", name="mvdiff://toy-controlnet", source="mvdiff fit --config toy/controlnet.yaml"
    ),
    "paper": ModelPart(
        option="controlnet", source="folder or hub id of a depth ControlNet for the inpainting base's Stable Diffusion"
    ),
}

INDEPENDENT = MethodRow(
    method="independent", label="SD, no CAA", parts=MODEL, note="the base, frame by frame, with depth"
)
MVDIFFUSION = MethodRow(method="mvdiffusion", label="MVDiffusion", parts=MODEL, published=("23.10", "7.27", "29.03"))

FRAMES = TableSection(
    task="depth",
    title="Frames from depth and poses",
    protocols={"toy": "toy-depth-v1", "paper": "mvdiffusion-depth-v1"},
    world={"rooms": 40, "test_rooms": 32, "size": 64, "num_frames": 48, "arc_deg": 192},
    layout="scannet",
    data_source="ScanNet's recordings with captions, split into train and test (docs/data.md)",
    rows=(
        MethodRow(
            method="repaint",
            label="RePaint",
            parts=MODEL,
            published=("70.05", "7.15", "26.98"),
            note="warp by depth, repaint the rest",
        ),
        MethodRow(
            method="controlnet-inpainting",
            label="depth ControlNet + inpainting",
            parts={size: {"base": INPAINTING_BASES[size], "controlnet": CONTROLNETS[size]} for size in CONTROLNETS},
            published=("43.67", "7.23", "28.14"),
            note="warp by depth, inpaint the holes under the control of depth",
        ),
        INDEPENDENT,
        MVDIFFUSION,
        GROUND_TRUTH,
    ),
    numbers=(
        Number.of("fid"),
        Number.of("inception_score"),
        Number.of("clip_score"),
        *BESIDE_OVERLAP,
    ),
    published=PUBLISHED,
    published_on="ScanNet, 590 sequences of 12 key frames of 192x256, Inception and CLIP",
    note="There is no toy FID here: it ranked the ground truth last at 8 rooms, and was not measured at more "
    "(notes/quickstarts.md).",
)

TABLE2 = PaperTable(name="table2", title="Table 2: depth to frames", sections=(FRAMES,))
