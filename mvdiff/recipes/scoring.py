"""Score methods as `mvdiff evaluate` does, compare them with the base, and say what the intervals show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.intervals import Interval
from mvdiff.eval.metric_specs import MetricSpec
from mvdiff.eval.metrics import metric_columns
from mvdiff.eval.paired import paired, paired_fid, sample_features
from mvdiff.eval.protocol import CUSTOM, values_hash
from mvdiff.eval.results_file import write_results
from mvdiff.eval.runner import evaluate_each
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import FolderSource, Source
from mvdiff.recipes.compared import BASE, CAA, CONTROLS, ROUND_TRIP, TRUTH
from mvdiff.report import Column

RESAMPLES, FID_RESAMPLES = 2000, 200
PSNR, POOLED, FID, IS = "overlap_psnr_mean_of_pairs", "overlap_psnr_pooled", "toy_fid", "toy_inception_score"
CONTENT, SHARPNESS, RATIO = "label_agreement", "sharpness_gradient_energy", "ratio_to_ground_truth"

Results = Mapping[str, Mapping[str, Any]]
"""Results of `mvdiff.eval.runner.evaluate`, by method."""
Pass = tuple[Sequence[MetricSpec], str | Path | Source | None]
"""Metrics, and the real views that they compare with."""


def evaluation_settings(seed: int, **more: Any) -> EvaluationSettings:
    """Return the settings of a recipe's scores: views at their own size, on the CPU."""
    return EvaluationSettings(overlap_size=0, device="cpu", seed=seed, num_resamples=RESAMPLES, **more)


@dataclass(frozen=True)
class Number:
    """One column of a recipe's tables.

    Attributes:
        name: Key in `results.json`.
        column: Column of the table.
        path: Keys under `metrics` in the results; default: the metric's own value, with its interval.
        scale: Factor by which the shown number is multiplied.
    """

    name: str
    column: Column
    path: tuple[str, ...] = ()
    scale: float = 1

    @classmethod
    def of(cls, metric: str, **changes: Any) -> Number:
        """Return a metric's own number; `changes` are what this table shows otherwise."""
        return cls(metric, Column.of_metric(metric_columns()[metric], **changes))

    def read(self, results: Mapping[str, Any], method: str) -> float | Interval:
        """Return a method's number.

        Raises:
            ValueError: It could not be computed; the text says why.
        """
        if self.path:
            found: Any = results["metrics"]
            for key in self.path:
                found = found[key]
            return found
        entry = results["metrics"][self.name]
        if "missing" in entry:
            raise ValueError(f"{self.name} must come out to be compared; got none of {method}: {entry['missing']}")
        if "interval_rule" not in entry:
            return entry["value"]
        return Interval(entry["value"], *entry.get("interval", (None, None)), 0.95, entry["interval_rule"])

    def cell(self, value: float | Interval) -> object:
        """Return a number as a cell of `mvdiff.report.Table`."""
        if isinstance(value, Interval):
            if value.ends is None:
                return self.scale * value.estimate
            return tuple(self.scale * part for part in (value.estimate, *value.ends))
        return self.scale * value


OF_TRUTH = Number(RATIO, Column("of ground truth", "", "higher", 2))
"""Share of the ground truth's overlap PSNR."""
SHARP = Number(SHARPNESS, Column("sharpness", "1000 x gradient energy", None, 2), scale=1000)


def compare(
    samples: Mapping[str, Path],
    passes: Sequence[Pass],
    how: EvaluationSettings,
    numbers: Sequence[Number],
    differences: Sequence[Number],
    out: Path,
) -> tuple[dict[str, Any], Results]:
    """Score every method, and compare the model and its controls with the base on equal samples.

    Args:
        samples: Method -> folder of its samples.
        passes: Pairs of metrics and real views; the toy FID uses the real views of the first.
        how: Settings of the scores.
        numbers: Numbers of each method.
        differences: Numbers to compare with the base: the toy FID and per-sample numbers.
        out: Folder that receives the results of each method as JSON, named after its folder of samples.

    Returns:
        `{"methods": {name: {number: value or Interval}}, "differences": ..., "feature_network": ...}`, and the results.

    Raises:
        ValueError: A number could not be computed; the text says why.
    """
    results = evaluate_methods(samples, passes, how, out)
    extractor, compared = toy_extractor(), (CAA, *CONTROLS)
    features = {method: sample_features(FolderSource(samples[method]), extractor) for method in (*compared, BASE)}
    real = torch.cat(list(sample_features(passes[0][1], extractor).values()))
    names = [number.name for number in differences if number.name != FID]
    fid = results[CAA]["metrics"][FID]
    scores = {
        "methods": numbers_of(numbers, results),
        "differences": {
            method: {
                **{name: paired(results[method], results[BASE], name) for name in names},
                FID: paired_fid(features[method], features[BASE], real, num_resamples=FID_RESAMPLES),
            }
            for method in compared
        },
        "feature_network": {"name": fid["model"], "weights_hash": fid["weights_hash"], "variant": fid["variant"]},
    }
    return scores, results


def evaluate_methods(
    samples: Mapping[str, Path], passes: Sequence[Pass], how: EvaluationSettings, out: Path
) -> Results:
    """Score every method in all passes, and write the results."""
    first, *others = (evaluate_each(samples, real, metrics, how) for metrics, real in passes)
    for method, folder in samples.items():
        for other in others:
            first[method] = _joined(first[method], other[method])
        write_results(first[method], out / f"{folder.name}.json")
    return first


def _joined(results: Mapping[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """Return results with the numbers that the same samples have against another reference."""
    first, second = (one["protocol"]["values"] for one in (results, further))
    values = {"metrics": first["metrics"] + second["metrics"], "settings": first["settings"] | second["settings"]}
    protocol = {"id": CUSTOM, "hash": values_hash(values), "values": values}
    return {**results, "protocol": protocol} | {key: results[key] | further[key] for key in ("metrics", "columns")}


def numbers_of(numbers: Sequence[Number], results: Results) -> dict[str, dict[str, float | Interval]]:
    """Return some numbers of each method."""
    methods = {
        method: {number.name: number.read(scored, method) for number in numbers if number is not OF_TRUTH}
        for method, scored in results.items()
    }
    if OF_TRUTH in numbers:
        for values in methods.values():
            values[RATIO] = values[PSNR].estimate / methods[TRUTH][PSNR].estimate
    return methods


def verdict(scores: Mapping[str, Any], content: str, content_name: str) -> list[str]:
    """Describe in sentences the gain of CAA, the gain of the controls, and losses beyond the interval.

    Args:
        scores: Scores of `compare`.
        content: Key of the number that measures agreement with captions.
        content_name: Name of that number in a sentence.
    """
    methods, differences = scores["methods"], scores["differences"]
    gain, controls = differences[CAA], [differences[name][PSNR].estimate for name in CONTROLS]
    base, caa, truth, round_trip = (methods[name][PSNR] for name in (BASE, CAA, TRUTH, ROUND_TRIP))
    return [
        f"Overlap PSNR {base.estimate:.1f} dB without CAA, {caa.estimate:.1f} dB with it (ground truth "
        f"{truth.estimate:.1f} dB, autoencoder round trip {round_trip.estimate:.1f} dB): the paired difference is "
        f"{signed(gain[PSNR])}; {_touching(base, caa)}.",
        "Controls on the same weights: "
        + ", ".join(f"{estimate:+.1f} dB" for estimate in controls)
        + " with neighbours of another scene and with attention switched off.",
        _losses(methods, gain, content, content_name),
    ]


def signed(value: Interval) -> str:
    """Write a difference in dB with its interval."""
    ends = f"[{value.low:+.1f}, {value.high:+.1f}]" if value.ends else "(too few samples for an interval)"
    return f"{value.estimate:+.1f} dB {ends}"


def _touching(base: Interval, other: Interval) -> str:
    if base.ends is None or other.ends is None:
        return "there are too few samples for intervals"
    return "the two intervals do not touch" if other.low > base.high else "the two intervals overlap"


def _losses(methods: Mapping[str, Any], gain: Mapping[str, Any], content: str, content_name: str) -> str:
    if gain[content].ends is None:
        return f"Too few samples to say whether toy FID, {content_name} or sharpness are worse than the base's."
    worse = []
    if gain[FID].is_above(0):
        worse.append("toy FID")
    if gain[content].is_below(0):
        worse.append(content_name)
    if gain[SHARPNESS].is_below(0):
        base = methods[BASE][SHARPNESS].estimate
        kept, real = 1 + gain[SHARPNESS].estimate / base, methods[ROUND_TRIP][SHARPNESS].estimate / base
        worse.append(f"sharpness ({kept:.0%} of the base's; real views through the autoencoder have {real:.0%})")
    if worse:
        return f"With CAA worse than the base beyond the interval: {', '.join(worse)}."
    return f"Toy FID, {content_name} and sharpness are no worse than the base's, within their intervals."
