"""Scores of the compared methods, each with a bootstrap interval over panoramas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.eval.bootstrap import Interval, bootstrap, mean, paired_difference
from mvdiff.eval.distribution import frechet_distance, inception_score
from mvdiff.eval.extractors import FeatureExtractor, toy_extractor
from mvdiff.eval.features import ToyFeatureNet, caption_agreement, packaged_toy_features
from mvdiff.eval.overlap import OverlapPSNR
from mvdiff.eval.sharpness import gradient_energy
from mvdiff.geometry.cameras import Rig
from mvdiff.quickstart.methods import BASE, CAA, FOREIGN, METHODS, SILENT, TRUTH, facts, samples_of, toy_rig
from mvdiff.quickstart.settings import PROMPT_PREFIX, Settings
from mvdiff.samples import find_samples, read_sample

FID_RESAMPLES = 200
PSNR, POOLED, FID, IS, CONTENT, SHARPNESS = (
    "overlap_psnr_mean_of_pairs",
    "overlap_psnr_pooled",
    "toy_fid",
    "toy_is",
    "object_and_colour_read",
    "sharpness",
)


@dataclass(frozen=True)
class Scored:
    """One method's numbers, per panorama where a number belongs to one.

    Attributes:
        psnr: `[S]` overlap PSNR, mean over pairs, dB.
        pooled: Overlap PSNR of the pooled error, dB.
        features: `[S, V, D]` toy features.
        inception: Toy Inception Score over all views.
        content: `[S]` share of questions (object, colour) that the judge answers as captioned.
        sharpness: `[S]` mean gradient energy.
    """

    psnr: np.ndarray
    pooled: float
    features: np.ndarray
    inception: float
    content: np.ndarray
    sharpness: np.ndarray


def score_method(settings: Settings, method: str, rig: Rig, net: ToyFeatureNet, extract: FeatureExtractor) -> Scored:
    """Score all panoramas of one method."""
    overlap = OverlapPSNR(size=None)
    features, logits, content, sharpness = [], [], [], []
    K, R = rig.cameras()
    for folder in find_samples(samples_of(settings, method)):
        sample = read_sample(folder)
        images = sample.images_uint8()
        overlap.update(images, K, R)
        found, scores = extract(images)
        features.append(found.numpy())
        logits.append(scores)
        content.append(agreement(net, images, facts(settings, sample.record.sample_id)))
        sharpness.append(float(gradient_energy(images).mean()))
    all_logits = torch.cat(logits)
    return Scored(
        psnr=np.array(overlap.per_sample()),
        pooled=overlap.compute()["overlap_psnr_pooled"],
        features=np.stack(features),
        inception=inception_score(all_logits, min(10, len(all_logits)), settings.seed)[0],
        content=np.array(content),
        sharpness=np.array(sharpness),
    )


def agreement(net: ToyFeatureNet, images: Tensor, truth: Sequence[Mapping[str, str]]) -> float:
    """Return how often the judge reads the kind and the colour of the thing in the middle as captioned.

    Chance is 1/8 for either. NaN where no view has a thing in its middle.
    """
    verdicts = caption_agreement(net, images, [{head: view[head] for head in ("object", "colour")} for view in truth])
    asked = verdicts["object"] + verdicts["colour"]
    return float(np.mean(asked)) if asked else float("nan")


def reference_features(settings: Settings, extract: FeatureExtractor) -> np.ndarray:
    """Return `[S, V, D]` features of the training rooms' views at yaw 0: none of them is scored itself."""
    from mvdiff.data.datamodule import Matterport3DDataModule
    from mvdiff.data.panoramas import PanoramaDataset
    from mvdiff.samples import to_uint8

    data = Matterport3DDataModule(str(settings.data_root), toy_rig(), prompt_prefix=PROMPT_PREFIX)
    dataset = PanoramaDataset(data.source("train"), toy_rig(), (0,), PROMPT_PREFIX)
    return np.stack([extract(to_uint8(dataset[i]["images"]))[0].numpy() for i in range(len(dataset))])


def _fid(features: np.ndarray, reference: np.ndarray) -> float:
    flat = (torch.from_numpy(part.reshape(-1, part.shape[-1])) for part in (features, reference))
    return frechet_distance(*flat)


def score_all(settings: Settings) -> dict[str, Any]:
    """Score every method; return `{"methods": {name: {metric: number or Interval}}, "differences": ..., ...}`."""
    net = ToyFeatureNet.from_pretrained(packaged_toy_features())
    extract = toy_extractor()
    reference = reference_features(settings, extract)
    scored = {method: score_method(settings, method, toy_rig(), net, extract) for method in METHODS}
    truth = float(scored[TRUTH].psnr.mean())

    def fid(features: np.ndarray) -> float:
        return _fid(features, reference)

    methods = {
        method: {
            PSNR: bootstrap(mean, s.psnr, seed=settings.seed),
            POOLED: s.pooled,
            "ratio_to_ground_truth": float(s.psnr.mean()) / truth,
            FID: fid(
                s.features
            ),  # resampled sets have a larger FID than the set itself: only differences get intervals
            IS: s.inception,
            CONTENT: bootstrap(mean, s.content[np.isfinite(s.content)], seed=settings.seed),
            SHARPNESS: bootstrap(mean, s.sharpness, seed=settings.seed),
        }
        for method, s in scored.items()
    }
    return {
        "methods": methods,
        "differences": {method: _differences(scored[method], scored[BASE], fid) for method in (CAA, FOREIGN, SILENT)},
        "num_panoramas": len(scored[CAA].psnr),
        "num_reference_panoramas": len(reference),
        "feature_network": {"name": extract.name, "weights_hash": extract.weights_hash, "variant": extract.variant},
    }


def _differences(method: Scored, base: Scored, fid) -> dict[str, Interval]:
    """Return the paired differences to the base: positive is more."""
    finite = np.isfinite(method.content) & np.isfinite(base.content)
    return {
        PSNR: paired_difference(method.psnr, base.psnr),
        FID: bootstrap(
            lambda a, b: fid(a) - fid(b), method.features, base.features, paired=True, num_resamples=FID_RESAMPLES
        ),
        CONTENT: paired_difference(method.content[finite], base.content[finite]),
        SHARPNESS: paired_difference(method.sharpness, base.sharpness),
    }
