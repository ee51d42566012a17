"""Scores of outpainting by every method, and their paired differences to the base."""

from __future__ import annotations

from typing import Any

from mvdiff.eval.runner import EvaluationSettings
from mvdiff.quickstart import scores
from mvdiff.quickstart.comparison import CONTENT, FID, PSNR, SHARPNESS, evaluate_methods, number, write_scores
from mvdiff.quickstart.outpaint.methods import PICTURE_METHODS, pictures_of
from mvdiff.quickstart.outpaint.settings import OutpaintSettings
from mvdiff.quickstart.scores import RESAMPLES

GIVEN, KNOWN = "given_overlap_psnr", "known_psnr"
METRICS = ("given", "overlap_psnr", "toy_fid", "caption_agreement", "sharpness")
NUMBERS = (GIVEN, KNOWN, PSNR, FID, CONTENT, SHARPNESS)
PAIRED = (GIVEN, KNOWN, PSNR, CONTENT, SHARPNESS)


def score_all(settings: OutpaintSettings) -> dict[str, Any]:
    """Score every method as the panorama quickstart does, and, as `pictures`, the panoramas around pictures.

    Raises:
        ValueError: A number could not be had; the text says why.
    """
    return scores.score_all(settings, METRICS, NUMBERS, PAIRED) | {"pictures": _pictures(settings)}


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
