"""Scores of outpainting by every method, and their paired differences to the base."""

from __future__ import annotations

from typing import Any

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.eval.runner import EvaluationSettings
from mvdiff.eval.sources import DataSource
from mvdiff.quickstart.compared import BASE, CAA, CONTROLS, METHODS, TRUTH, samples_of
from mvdiff.quickstart.comparison import (
    CONTENT,
    FID,
    PSNR,
    SHARPNESS,
    differences_to,
    evaluate_methods,
    feature_network,
    number,
    numbers_of,
    write_scores,
)
from mvdiff.quickstart.methods import toy_rig
from mvdiff.quickstart.outpaint.methods import PICTURE_METHODS, pictures_of
from mvdiff.quickstart.outpaint.settings import OutpaintSettings
from mvdiff.quickstart.scores import RESAMPLES, evaluation_settings
from mvdiff.quickstart.settings import PROMPT_PREFIX

GIVEN, KNOWN = "given_overlap_psnr", "known_psnr"
METRICS = ("given", "overlap_psnr", "toy_fid", "caption_agreement", "sharpness")
NUMBERS = (GIVEN, KNOWN, PSNR, FID, CONTENT, SHARPNESS)
PAIRED = (GIVEN, KNOWN, PSNR, CONTENT, SHARPNESS)


def score_all(settings: OutpaintSettings) -> dict[str, Any]:
    """Score every method; return `{"methods": ..., "differences": ..., "pictures": ..., ...}`.

    The toy FID is against the views of the training rooms. What `evaluate` returned of each method is written to
    `scores/`.

    Raises:
        ValueError: A number could not be had; the text says why.
    """
    data = Matterport3DDataModule(str(settings.data_root), toy_rig(), prompt_prefix=PROMPT_PREFIX, num_val=0)
    reference = DataSource(data, "train", str(settings.data_root))
    samples = {method: samples_of(settings, method) for method in METHODS}
    results = evaluate_methods(samples, reference, METRICS, evaluation_settings(settings))
    write_scores(results, samples, settings.out / "scores")
    return {
        "methods": numbers_of(results, TRUTH, NUMBERS),
        "differences": differences_to(BASE, results, samples, reference, (CAA, *CONTROLS), PAIRED),
        "pictures": _pictures(settings),
        "num_panoramas": results[CAA]["generated"]["num_samples"],
        "num_reference_panoramas": results[CAA]["reference"]["num_samples"],
        "feature_network": feature_network(results[CAA]),
    }


def _pictures(settings: OutpaintSettings) -> dict[str, dict[str, Any]]:
    """Score the panoramas around pictures: whether the pixels come back, and the overlap of all neighbours."""
    how = EvaluationSettings(overlap_size=0, device="cpu", seed=settings.seed, num_resamples=RESAMPLES)
    samples = {method: pictures_of(settings, method) for method in PICTURE_METHODS}
    results = evaluate_methods(samples, None, ("given", "overlap_psnr"), how)
    write_scores(results, samples, settings.out / "scores" / "pictures")
    return {
        method: {name: number(scored["metrics"][name], name, method) for name in (KNOWN, PSNR)}
        for method, scored in results.items()
    }
