"""Compare methods by what `mvdiff evaluate` says of their samples, and by paired differences to the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mvdiff.eval.bootstrap import Interval
from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.metric_specs import MetricSpec
from mvdiff.eval.paired import paired, paired_fid, sample_features
from mvdiff.eval.runner import EvaluationSettings, evaluate, write_results
from mvdiff.eval.sources import FolderSource, Source

FID_RESAMPLES = 200
PSNR, POOLED, FID, IS, CONTENT, SHARPNESS = (
    "overlap_psnr_mean_of_pairs",
    "overlap_psnr_pooled",
    "toy_fid",
    "toy_inception_score",
    "label_agreement",
    "sharpness_gradient_energy",
)


def evaluate_methods(
    samples: Mapping[str, Path],
    reference: str | Path | Source | None,
    metrics: Sequence[MetricSpec],
    how: EvaluationSettings,
) -> dict[str, dict[str, Any]]:
    """Score every method; return what `mvdiff.eval.runner.evaluate` says of each.

    Args:
        samples: Method -> folder of its samples.
        reference: Real views, none of which is generated.
        metrics: What to compute.
        how: How to measure.
    """
    return {method: evaluate(folder, reference, metrics, how) for method, folder in samples.items()}


def write_scores(results: Mapping[str, dict[str, Any]], samples: Mapping[str, Path], out: Path) -> None:
    """Write what `evaluate_methods` returned, a JSON file per method named as its folder of samples."""
    for method, scored in results.items():
        write_results(scored, out / f"{samples[method].name}.json")


def numbers_of(results: Mapping[str, Mapping[str, Any]], truth: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return some numbers of each method, and what share of the truth's overlap PSNR it reaches.

    Raises:
        ValueError: A number could not be had; the text says why.
    """
    methods = {
        method: {name: number(scored["metrics"][name], name, method) for name in names}
        for method, scored in results.items()
    }
    for numbers in methods.values():
        numbers["ratio_to_ground_truth"] = numbers[PSNR].estimate / methods[truth][PSNR].estimate
    return methods


def differences_to(
    base: str,
    results: Mapping[str, Mapping[str, Any]],
    samples: Mapping[str, Path],
    reference: Source,
    compared: Sequence[str],
    names: Sequence[str],
) -> dict[str, dict[str, Interval]]:
    """Return how much more each of some methods has than the base on the same samples, with intervals.

    Args:
        base: The method to compare with.
        results: What `evaluate_methods` returned.
        samples: Method -> folder of its samples.
        reference: Real views of the toy FID.
        compared: The methods.
        names: The numbers, beside the toy FID; each has one value per sample.
    """
    extractor = toy_extractor()
    features = {method: sample_features(FolderSource(samples[method]), extractor) for method in (*compared, base)}
    real = torch.cat(list(sample_features(reference, extractor).values()))
    return {
        method: {
            **{name: paired(results[method], results[base], name) for name in names},
            FID: paired_fid(features[method], features[base], real, num_resamples=FID_RESAMPLES),
        }
        for method in compared
    }


def feature_network(results: Mapping[str, Any]) -> dict[str, str]:
    """Return name, weights and variant of the network behind a method's toy FID."""
    fid = results["metrics"][FID]
    return {"name": fid["model"], "weights_hash": fid["weights_hash"], "variant": fid["variant"]}


def number(entry: Mapping[str, Any], name: str, method: str) -> float | Interval:
    """Return a result's value, with its interval where it has one."""
    if "missing" in entry:
        raise ValueError(f"{name} must come out to be compared; got none of {method}: {entry['missing']}")
    return Interval(entry["value"], *entry["interval"], 0.95) if "interval" in entry else entry["value"]
