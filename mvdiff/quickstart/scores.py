"""Scores of the compared methods, as `mvdiff evaluate` gives them, and their paired differences to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.eval.runner import EvaluationSettings
from mvdiff.eval.sources import DataSource
from mvdiff.quickstart.compared import BASE, CAA, CONTROLS, METHODS, TRUTH, samples_of
from mvdiff.quickstart.comparison import (
    CONTENT,
    FID,
    IS,
    POOLED,
    PSNR,
    SHARPNESS,
    differences_to,
    evaluate_methods,
    feature_network,
    numbers_of,
    write_scores,
)
from mvdiff.quickstart.methods import facts, held_out, toy_rig
from mvdiff.quickstart.settings import Settings
from mvdiff.samples import write_json

RESAMPLES = 2000
METRICS = ("overlap_psnr", "toy_fid", "toy_inception_score", "caption_agreement", "sharpness")
NUMBERS = (PSNR, POOLED, FID, IS, CONTENT, SHARPNESS)
PAIRED = (PSNR, CONTENT, SHARPNESS)


def evaluation_settings(settings: Settings) -> EvaluationSettings:
    """Return how every method is scored: views at their own size, judged by the objects and colours of their captions.

    The distance to the training rooms gets no interval: resampled sets lie further away than the set itself.
    """
    truth = {sample["sample_id"]: facts(settings, sample["sample_id"]) for sample in held_out(settings)}
    return EvaluationSettings(
        truth=str(write_json(settings.out / "truth.json", truth)),
        judge_heads=["object", "colour"],
        overlap_size=0,
        device="cpu",
        seed=settings.seed,
        num_resamples=RESAMPLES,
    )


def score_all(
    settings: Settings,
    metrics: Sequence[str] = METRICS,
    numbers: Sequence[str] = NUMBERS,
    compared: Sequence[str] = PAIRED,
) -> dict[str, Any]:
    """Score every method; return `{"methods": {name: {metric: number or Interval}}, "differences": ..., ...}`.

    The reference is the training rooms' views at yaw 0: none of them is scored itself. What `evaluate` returned of each
    method is written to `scores/`.

    Args:
        settings: The quickstart.
        metrics: What is computed.
        numbers: What of it is shown.
        compared: What of it is compared with the base, sample by sample.

    Raises:
        ValueError: A number could not be had; the text says why.
    """
    data = Matterport3DDataModule(str(settings.data_root), toy_rig(), num_val=0)
    reference = DataSource(data, "train", str(settings.data_root))
    samples = {method: samples_of(settings, method) for method in METHODS}
    results = evaluate_methods(samples, reference, metrics, evaluation_settings(settings))
    write_scores(results, samples, settings.out / "scores")
    return {
        "methods": numbers_of(results, TRUTH, numbers),
        "differences": differences_to(BASE, results, samples, reference, (CAA, *CONTROLS), compared),
        "num_panoramas": results[CAA]["generated"]["num_samples"],
        "num_reference_panoramas": results[CAA]["reference"]["num_samples"],
        "feature_network": feature_network(results[CAA]),
    }
