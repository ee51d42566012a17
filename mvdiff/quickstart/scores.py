"""Scores of the compared methods, as `mvdiff evaluate` gives them, and their paired differences to the base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.eval.bootstrap import Interval
from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.paired import paired, paired_fid, sample_features
from mvdiff.eval.runner import EvaluationSettings, evaluate, write_results
from mvdiff.eval.sources import DataSource, FolderSource
from mvdiff.quickstart.methods import (
    BASE,
    CAA,
    FOLDERS,
    FOREIGN,
    METHODS,
    SILENT,
    TRUTH,
    facts,
    held_out,
    samples_of,
    toy_rig,
)
from mvdiff.quickstart.settings import PROMPT_PREFIX, Settings
from mvdiff.samples import write_json

FID_RESAMPLES = 200
RESAMPLES = 2000
METRICS = ("overlap_psnr", "toy_fid", "toy_inception_score", "caption_agreement", "sharpness")
PSNR, POOLED, FID, IS, CONTENT, SHARPNESS = NUMBERS = (
    "overlap_psnr_mean_of_pairs",
    "overlap_psnr_pooled",
    "toy_fid",
    "toy_inception_score",
    "label_agreement",
    "sharpness_gradient_energy",
)


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


def score_all(settings: Settings) -> dict[str, Any]:
    """Score every method; return `{"methods": {name: {metric: number or Interval}}, "differences": ..., ...}`.

    The reference is the training rooms' views at yaw 0: none of them is scored itself. What `evaluate` returned of each
    method is written to `scores/`.

    Raises:
        ValueError: A number could not be had; the text says why.
    """
    how = evaluation_settings(settings)
    data = Matterport3DDataModule(str(settings.data_root), toy_rig(), prompt_prefix=PROMPT_PREFIX, num_val=0)
    reference = DataSource(data, "train", str(settings.data_root))
    results = {method: evaluate(samples_of(settings, method), reference, METRICS, how) for method in METHODS}
    for method, scored in results.items():
        write_results(scored, settings.out / "scores" / f"{FOLDERS[method]}.json")
    methods = {
        method: {name: number(scored["metrics"][name], name, method) for name in NUMBERS}
        for method, scored in results.items()
    }
    for numbers in methods.values():
        numbers["ratio_to_ground_truth"] = numbers[PSNR].estimate / methods[TRUTH][PSNR].estimate
    extractor = toy_extractor()
    features = {
        method: sample_features(FolderSource(samples_of(settings, method)), extractor)
        for method in (CAA, FOREIGN, SILENT, BASE)
    }
    truth = torch.cat(list(sample_features(reference, extractor).values()))
    differences = {
        method: {
            **{name: paired(results[method], results[BASE], name) for name in (PSNR, CONTENT, SHARPNESS)},
            FID: paired_fid(features[method], features[BASE], truth, num_resamples=FID_RESAMPLES),
        }
        for method in (CAA, FOREIGN, SILENT)
    }
    fid = results[CAA]["metrics"][FID]
    return {
        "methods": methods,
        "differences": differences,
        "num_panoramas": results[CAA]["generated"]["num_samples"],
        "num_reference_panoramas": results[CAA]["reference"]["num_samples"],
        "feature_network": {"name": fid["model"], "weights_hash": fid["weights_hash"], "variant": fid["variant"]},
    }


def number(entry: Mapping[str, Any], name: str, method: str) -> float | Interval:
    """Return a result's value, with its interval where it has one."""
    if "missing" in entry:
        raise ValueError(f"{name} must come out to be compared; got none of {method}: {entry['missing']}")
    return Interval(entry["value"], *entry["interval"], 0.95) if "interval" in entry else entry["value"]
