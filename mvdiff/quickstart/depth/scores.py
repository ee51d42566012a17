"""Scores of the compared methods on held-out key frames, and their paired differences to the base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mvdiff.data.toyworld.truth import WalkTruth
from mvdiff.eval.metrics.thing_colours import ThingColours
from mvdiff.eval.runner import EvaluationSettings
from mvdiff.quickstart.compared import BASE, CAA, CONTROLS, METHODS, TRUTH, samples_of
from mvdiff.quickstart.comparison import (
    FID,
    POOLED,
    PSNR,
    SHARPNESS,
    differences_to,
    evaluate_methods,
    feature_network,
    numbers_of,
    write_scores,
)
from mvdiff.quickstart.depth.methods import held_out, reference
from mvdiff.quickstart.depth.settings import DepthSettings

COLOURS, PAIR_RATIO, UNOCCLUDED = "thing_colours", "mean_of_pair_ratios", "unoccluded"
RESAMPLES = 2000


def score_all(settings: DepthSettings) -> dict[str, Any]:
    """Score every method; return `{"methods": {name: {metric: number or Interval}}, "differences": ..., ...}`.

    The toy FID is against first key frames of the training rooms; the overlap PSNR has that of the held-out frames
    themselves beside it. What `evaluate` returned of each method is written to `scores/`.

    Raises:
        ValueError: A number could not be had; the text says why.
    """
    how = EvaluationSettings(overlap_size=0, device="cpu", seed=settings.seed, num_resamples=RESAMPLES)
    real = reference(settings)
    samples = {method: samples_of(settings, method) for method in METHODS}
    colours = ThingColours(things=held_out_truth(settings), seed=settings.seed, num_resamples=RESAMPLES)
    results = evaluate_methods(samples, real, ("toy_fid", "sharpness", colours), how)
    overlaps = evaluate_methods(samples, samples[TRUTH], ("overlap_psnr",), how)
    for method, scored in results.items():
        scored["metrics"] |= overlaps[method]["metrics"]
        scored["columns"] |= overlaps[method]["columns"]
    write_scores(results, samples, settings.out / "scores")
    methods = numbers_of(results, TRUTH, (PSNR, POOLED, FID, COLOURS, SHARPNESS))
    for method, numbers in methods.items():
        found = results[method]["metrics"][PSNR]
        numbers[PAIR_RATIO] = found[PAIR_RATIO]
        numbers[UNOCCLUDED] = found["unoccluded"]["value"]
    return {
        "methods": methods,
        "differences": differences_to(BASE, results, samples, real, (CAA, *CONTROLS), (PSNR, COLOURS, SHARPNESS)),
        "num_sequences": results[CAA]["generated"]["num_samples"],
        "num_reference_sequences": results[CAA]["reference"]["num_samples"],
        "num_views": held_out(settings).num_views,
        "num_things": results[TRUTH]["metrics"][COLOURS]["num_things"],
        "feature_network": feature_network(results[CAA]),
    }


def held_out_truth(settings: DepthSettings) -> Mapping[str, tuple[torch.Tensor, list[str]]]:
    """Return, by sample, which thing each pixel [V, H, W] shows and the colours of the things."""
    dataset, found = held_out(settings), {}
    for i, index in enumerate(dataset.indices):
        slot, frames = dataset.frames_of(0, index)
        truth = WalkTruth(dataset.scenes[slot.scene].path)
        labels = torch.stack([truth.labels(frame) for frame in frames])
        found[dataset[i]["sample_id"]] = labels, [thing["colour"] for thing in truth.things]
    return found
