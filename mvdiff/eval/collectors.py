"""What the runner feeds samples to: one collector per network or protocol, each answering with named numbers.

A result is ``{"value": ..., "model": ..., "weights_hash": ..., "num_images": ..., "variant": ..., ...}``; a number
never stands without the name of what measured it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.bootstrap import bootstrap, mean
from mvdiff.eval.clip_score import ClipScorer
from mvdiff.eval.distribution import frechet_distance, inception_score
from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.features import ToyFeatureNet, caption_agreement
from mvdiff.eval.sharpness import gradient_energy, laplacian_variance
from mvdiff.eval.sources import ScoredSample, Truth

GENERATED, REFERENCE = "generated", "reference"
_NO_TRUTH = "no sample has a truth to judge by. Give truth, or write settings.truth into the samples."
Result = dict[str, Any]


class MissingError(ValueError):
    """A number cannot be had; the text says why and what to do."""


class Collector(Protocol):
    """Accumulates one pass over generated samples and, where there is one, over the reference."""

    def update(self, which: str, sample: ScoredSample) -> None:
        """Take one sample of `GENERATED` or `REFERENCE`."""

    def forget(self, which: str) -> None:
        """Drop what was taken of `GENERATED` or `REFERENCE`."""

    def result(self, metric: str) -> Result:
        """Return one metric's result; raises `MissingError` (or ValueError) where it cannot be computed."""


@dataclass
class FeatureCollector:
    """FID and Inception Score of one extractor."""

    extractor: FeatureExtractor
    num_splits: int = 10
    seed: int = 0
    batch_size: int = 32
    fid_resamples: int = 0
    features: dict[str, list[Tensor]] = field(default_factory=lambda: {GENERATED: [], REFERENCE: []})
    logits: dict[str, list[Tensor]] = field(default_factory=lambda: {GENERATED: [], REFERENCE: []})

    def update(self, which: str, sample: ScoredSample) -> None:
        """Extract a sample's features."""
        features, logits = self.extractor(sample.images_uint8, self.batch_size)
        self.features[which].append(features)
        if logits is not None:
            self.logits[which].append(logits)

    def forget(self, which: str) -> None:
        """Drop one set's features."""
        self.features[which], self.logits[which] = [], []

    def result(self, metric: str) -> Result:
        """Return ``fid`` or ``inception_score`` (also under their toy names)."""
        named = {"model": self.extractor.name, "weights_hash": self.extractor.weights_hash}
        return named | (self._fid() if metric.endswith("fid") else self._inception_score())

    def _fid(self) -> Result:
        if not self.features[REFERENCE]:
            raise MissingError("no reference images. Give --reference DIR or --config YAML.")
        generated, reference = torch.cat(self.features[GENERATED]), torch.cat(self.features[REFERENCE])
        size = self.extractor.num_features
        out: Result = {
            "value": frechet_distance(generated, reference),
            "variant": f"{size} features; {self.extractor.variant}; unbiased covariance, float64",
            "num_images": len(generated),
            "num_reference_images": len(reference),
        }
        if min(len(generated), len(reference)) <= size:
            out["note"] = f"fewer images than {size} features: compare only with numbers from as many images"
        shapes = {tuple(f.shape) for f in self.features[GENERATED]}
        if self.fid_resamples and len(shapes) == 1:
            stacked = torch.stack(self.features[GENERATED]).numpy()

            def distance(chosen: np.ndarray) -> float:
                return frechet_distance(torch.from_numpy(chosen).flatten(0, 1), reference)

            interval = bootstrap(distance, stacked, num_resamples=self.fid_resamples, seed=self.seed)
            out["interval"] = [interval.low, interval.high]
        return out

    def _inception_score(self) -> Result:
        if not self.logits[GENERATED]:
            raise MissingError(f"{self.extractor.name} has no class logits.")
        value, deviation = inception_score(torch.cat(self.logits[GENERATED]), self.num_splits, self.seed)
        out: Result = {
            "value": value,
            "std_over_splits": deviation,
            "variant": f"mean over {self.num_splits} splits in a seeded order; {self.extractor.variant}",
            "num_images": sum(len(part) for part in self.logits[GENERATED]),
        }
        if self.logits[REFERENCE]:
            reference = torch.cat(self.logits[REFERENCE])
            if len(reference) >= self.num_splits:
                out["reference"] = inception_score(reference, self.num_splits, self.seed)[0]
        return out


@dataclass
class PerSample:
    """Numbers that are means over samples: value, bootstrap interval, and the same of the reference."""

    seed: int = 0
    num_resamples: int = 1000
    values: dict[str, dict[str, float]] = field(default_factory=lambda: {GENERATED: {}, REFERENCE: {}})

    def add(self, which: str, sample_id: str, value: float) -> None:
        """Take one sample's number."""
        self.values[which][sample_id] = value

    def forget(self, which: str) -> None:
        """Drop one set's numbers."""
        self.values[which] = {}

    def result(self) -> Result:
        """Mean over samples, interval, per-sample numbers; with a reference also its mean and the quotient."""
        own = self.values[GENERATED]
        if not own:
            raise MissingError("no sample has a value.")
        interval = bootstrap(mean, list(own.values()), num_resamples=self.num_resamples, seed=self.seed)
        out: Result = {"value": interval.estimate, "interval": [interval.low, interval.high], "num_samples": len(own)}
        out |= with_reference(interval.estimate, list(self.values[REFERENCE].values()))
        return out | {"per_sample": own}


def with_reference(value: float, reference: list[float]) -> Result:
    """Return the reference's mean and the quotient, where there is one."""
    if not reference:
        return {}
    truth = float(np.mean(reference))
    return {"reference": truth} | ({"ratio_to_reference": value / truth} if truth else {})


@dataclass
class ClipCollector:
    """CLIP score of every view with its own prompt, averaged over views, then samples."""

    scorer: ClipScorer
    batch_size: int = 32
    samples: PerSample = field(default_factory=PerSample)
    num_images: int = 0

    def update(self, which: str, sample: ScoredSample) -> None:
        """Score a sample's views."""
        scores = self.scorer(sample.images_uint8, sample.prompts, self.batch_size)
        self.samples.add(which, sample.sample_id, float(scores.mean()))
        self.num_images += len(scores) if which == GENERATED else 0

    def forget(self, which: str) -> None:
        """Drop one set's scores."""
        self.samples.forget(which)

    def result(self, metric: str) -> Result:
        """Return the score."""
        named = {"model": self.scorer.name, "weights_hash": self.scorer.weights_hash, "num_images": self.num_images}
        return self.samples.result() | named | {"variant": "100 max(0, cosine), mean over views, then samples"}


@dataclass
class SharpnessCollector:
    """Gradient energy and variance of the Laplacian."""

    gradient: PerSample = field(default_factory=PerSample)
    laplacian: PerSample = field(default_factory=PerSample)

    def update(self, which: str, sample: ScoredSample) -> None:
        """Measure a sample's views."""
        self.gradient.add(which, sample.sample_id, float(gradient_energy(sample.images_uint8).mean()))
        self.laplacian.add(which, sample.sample_id, float(laplacian_variance(sample.images_uint8).mean()))

    def forget(self, which: str) -> None:
        """Drop one set's numbers."""
        self.gradient.forget(which)
        self.laplacian.forget(which)

    def result(self, metric: str) -> Result:
        """Return ``sharpness_gradient_energy`` or ``sharpness_laplacian_variance``."""
        chosen = self.gradient if metric.endswith("gradient_energy") else self.laplacian
        variant = "grey in [0, 1] at the images' own size, mean over views, then samples"
        return chosen.result() | {"model": "finite differences", "variant": variant}


@dataclass
class AgreementCollector:
    """How often the toy judge reads in a view what the truth states, by whole views and by single labels."""

    net: ToyFeatureNet
    truth: Mapping[str, Truth]
    heads: Sequence[str] | None = None
    batch_size: int = 32
    seed: int = 0
    num_resamples: int = 1000
    verdicts: dict[str, dict[str, dict[str, list[bool]]]] = field(
        default_factory=lambda: {GENERATED: {}, REFERENCE: {}}
    )

    def update(self, which: str, sample: ScoredSample) -> None:
        """Judge a sample; one without truth is not judged."""
        truth = self.truth.get(sample.sample_id, sample.truth)
        if truth is not None:
            self.verdicts[which][sample.sample_id] = caption_agreement(
                self.net, sample.images_uint8, truth, self.batch_size, self.heads
            )

    def forget(self, which: str) -> None:
        """Drop one set's verdicts."""
        self.verdicts[which] = {}

    def result(self, metric: str) -> Result:
        """Return ``caption_agreement`` (by whole views; also each head's own share) or ``label_agreement``."""
        named = {"model": self.net.name, "weights_hash": self.net.weights_hash()}
        return named | (self._labels() if metric == "label_agreement" else self._views())

    def _labels(self) -> Result:
        means = PerSample(self.seed, self.num_resamples)
        for which, samples in self.verdicts.items():
            for name, verdicts in samples.items():
                asked = [verdict for head, found in verdicts.items() if head != "all" for verdict in found]
                if asked:
                    means.add(which, name, float(np.mean(asked)))
        if not means.values[GENERATED]:
            raise MissingError(_NO_TRUTH)
        return means.result() | {"variant": f"share of stated labels that are read{self._of()}, mean over samples"}

    def _of(self) -> str:
        return "" if self.heads is None else f" (of {', '.join(self.heads)})"

    def _views(self) -> Result:
        shares = {which: self._shares(which) for which in (GENERATED, REFERENCE)}
        if "all" not in shares[GENERATED]:
            raise MissingError(_NO_TRUTH)
        judged = {name: v["all"] for name, v in self.verdicts[GENERATED].items() if v["all"]}
        counts = [(sum(v), len(v)) for v in judged.values()]
        interval = bootstrap(
            lambda drawn: float(drawn[:, 0].sum() / drawn[:, 1].sum()),
            np.array(counts),
            num_resamples=self.num_resamples,
            seed=self.seed,
        )
        out: Result = {
            "value": shares[GENERATED]["all"],
            "interval": [interval.low, interval.high],
            "per_head": {head: share for head, share in shares[GENERATED].items() if head != "all"},
            "num_images": sum(count for _, count in counts),
            "variant": f"share of judged views in which every head{self._of()} reads the stated label",
        }
        reference = shares[REFERENCE]
        out |= with_reference(out["value"], [reference["all"]] if "all" in reference else [])
        return out | {"per_sample": {name: float(np.mean(v)) for name, v in judged.items()}}

    def _shares(self, which: str) -> dict[str, float]:
        pooled: dict[str, list[bool]] = {}
        for sample in self.verdicts[which].values():
            for head, verdicts in sample.items():
                pooled.setdefault(head, []).extend(verdicts)
        return {head: sum(verdicts) / len(verdicts) for head, verdicts in pooled.items() if verdicts}
