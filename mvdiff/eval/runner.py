"""Score folders of samples: one pass over the generated views, one over the reference, every metric that can be had.

What cannot be computed is reported as ``{"missing": reason}``; the rest still comes out.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from mvdiff.eval.collectors import (
    GENERATED,
    REFERENCE,
    AgreementCollector,
    ClipCollector,
    Collector,
    FeatureCollector,
    PerSample,
    SharpnessCollector,
)
from mvdiff.eval.given import GivenCollector
from mvdiff.eval.overlap import PAPER_SIZE, PairRule
from mvdiff.eval.overlap_collector import OverlapCollector
from mvdiff.eval.sources import FolderSource, Source, read_truth
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import write_json

SCHEMA_VERSION = 1
RESULTS = {
    "fid": ("fid",),
    "inception_score": ("inception_score",),
    "clip_score": ("clip_score",),
    "overlap_psnr": ("overlap_psnr_mean_of_pairs", "overlap_psnr_pooled"),
    "toy_fid": ("toy_fid",),
    "toy_inception_score": ("toy_inception_score",),
    "caption_agreement": ("caption_agreement", "label_agreement"),
    "given": ("known_psnr", "given_overlap_psnr"),
    "sharpness": ("sharpness_gradient_energy", "sharpness_laplacian_variance"),
}
"""Metrics one can ask for, and the numbers that each gives."""
PAPER_METRICS = ("fid", "inception_score", "clip_score", "overlap_psnr")
UNAVAILABLE = (ValueError, OSError, ImportError)


@dataclass(frozen=True)
class EvaluationSettings:
    """How to measure; the defaults are the paper's protocol (section 5).

    Args:
        inception_weights: Weight file of FID's Inception network; None: torch's cache, or a download.
        inception_hash: What its SHA-256 must start with.
        clip_model: open_clip architecture, or a folder with a transformers CLIPModel.
        clip_weights: Weight file or tag for open_clip.
        toy_features: Folder of the toy feature network; None: the packaged one.
        truth: JSON file ``{sample id: [what each view shows]}`` for caption_agreement; None: as noted in the samples.
        judge_heads: Heads of the toy network that caption_agreement asks; None: all.
        overlap_size: Size of images for the overlap PSNR (height), 0 for their own. Views with depth keep theirs.
        overlap_pairs: ``"adjacent"`` (with depth: consecutive views), ``"overlapping"``, or pairs of views.
        overlap_depth_error: Metres; pixels of views with depth that are off by more are left out.
        num_splits: Splits of the Inception Score.
        batch_size: Images per forward pass.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``.
        seed: Seed of orders and resamples.
        num_resamples: Bootstrap resamples of means over samples.
        fid_resamples: Bootstrap resamples of the toy FID's generated samples; 0 for no interval.
    """

    inception_weights: str | None = None
    inception_hash: str = "6726825d"
    clip_model: str = "ViT-B-16"
    clip_weights: str | None = None
    toy_features: str | None = None
    truth: str | None = None
    judge_heads: list[str] | None = None
    overlap_size: int = PAPER_SIZE
    overlap_pairs: PairRule = "adjacent"
    overlap_depth_error: float = 0.5
    num_splits: int = 10
    batch_size: int = 32
    device: str = "auto"
    seed: int = 0
    num_resamples: int = 1000
    fid_resamples: int = 0


def evaluate(
    generated: str | Path | Source,
    reference: str | Path | Source | None = None,
    metrics: Sequence[str] = PAPER_METRICS,
    settings: EvaluationSettings | None = None,
    rig: Rig | None = None,
    progress: Callable[[str, str], None] | None = None,
) -> dict[str, Any]:
    """Score generated samples.

    Args:
        generated: Folder of samples (ours or upstream's layout), or any `Source`.
        reference: Ground truth: such a folder (in upstream's layout its ``<i>_natural.png``), or a `Source` such as
            `mvdiff.eval.sources.source_from_config`. None takes the ground truth that upstream's layout has beside
            the generated views, and else leaves out what needs one.
        metrics: What to compute, of `RESULTS`.
        settings: How; default: the paper's protocol.
        rig: Cameras of folders in upstream's layout; default: the paper's ring of 8.
        progress: Called with ``("generated" | "reference", sample id)`` after each sample.

    Returns:
        ``{"generated": ..., "reference": ..., "metrics": {name: result or {"missing": reason}}, "settings": ...,
        "versions": ...}``, ready for JSON. See `mvdiff.eval.collectors` for a result's entries.

    Raises:
        ValueError: An unknown metric, or no complete sample at all.
        FileNotFoundError: A folder does not exist.
    """
    settings = settings or EvaluationSettings()
    unknown = sorted(set(metrics) - set(RESULTS))
    if unknown or not metrics:
        raise ValueError(f"metrics must be some of {', '.join(RESULTS)}; got {unknown or 'none'}. Choose among them.")
    source = FolderSource(Path(generated), rig) if isinstance(generated, str | Path) else generated
    truth = _open_reference(source, reference, rig)
    scoring = _Scoring(metrics, settings)
    scoring.run(GENERATED, source, progress)
    described = source.describe()
    if not described["num_samples"]:
        raise ValueError(f"generated must hold at least one readable sample; got none, in {described}. Generate again.")
    results: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "generated": described, "reference": None}
    if truth is not None:
        try:
            scoring.run(REFERENCE, truth, progress)
            results["reference"] = truth.describe()
        except UNAVAILABLE as error:
            results["reference"] = {"missing": str(error)}
            scoring.forget_reference(str(error))
    results["metrics"] = scoring.results()
    results["settings"] = asdict(settings)
    results["versions"] = library_versions()
    return results


def write_results(results: Mapping[str, Any], path: str | Path) -> Path:
    """Write results as JSON, atomically; the folder is made when absent.

    Raises:
        OSError: The file cannot be written; the text names it.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_json(path, dict(results))
    except OSError as error:
        raise OSError(
            error.errno, f"--out must be writable; got {error.strerror or error}, in {path}. Choose another place"
        ) from error


def flat_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers that came out, by name, for a logger; what is missing is left out."""
    return {name: float(entry["value"]) for name, entry in results["metrics"].items() if "value" in entry}


def library_versions() -> dict[str, str]:
    """Return versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("mvdiff", "torch", "torchvision", "torch-fidelity", "open_clip_torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _open_reference(source: Source, reference: str | Path | Source | None, rig: Rig | None) -> Source | None:
    if isinstance(reference, str | Path):
        folder = FolderSource(Path(reference), rig)
        return FolderSource(Path(reference), rig, natural=True) if folder.has_natural() else folder
    if reference is None and isinstance(source, FolderSource) and source.has_natural():
        return FolderSource(source.root, rig, natural=True)
    return reference


class _Scoring:
    """Collectors by group; a group that fails is dropped with its reason, the others go on."""

    def __init__(self, metrics: Sequence[str], settings: EvaluationSettings) -> None:
        self.metrics = list(dict.fromkeys(metrics))
        self.settings = settings
        self.missing: dict[str, str] = {}
        self.no_reference: dict[str, str] = {}
        self.collectors: dict[str, Collector] = {}
        for group in dict.fromkeys(_GROUPS[metric] for metric in self.metrics):
            try:
                self.collectors[group] = _make_collector(group, settings)
            except UNAVAILABLE as error:
                self.missing[group] = str(error)

    def run(self, which: str, source: Source, progress: Callable[[str, str], None] | None) -> None:
        """Feed every sample of a source to every collector."""
        for sample in source:
            for group, collector in list(self.collectors.items()):
                if which == REFERENCE and group in self.no_reference:
                    continue
                try:
                    collector.update(which, sample)
                except UNAVAILABLE as error:
                    reason = f"{error} (at {which} sample {sample.sample_id!r})"
                    if which == REFERENCE:
                        self._forget_reference(group, reason)
                    else:
                        self.missing[group] = reason
                        del self.collectors[group]
            if progress is not None:
                progress(which, sample.sample_id)

    def forget_reference(self, reason: str) -> None:
        """Drop what was read of a reference that broke off: no number stands on half a reference."""
        for group in self.collectors:
            self._forget_reference(group, reason)

    def _forget_reference(self, group: str, reason: str) -> None:
        self.no_reference[group] = reason
        self.collectors[group].forget(REFERENCE)

    def results(self) -> dict[str, Any]:
        """Return every number that was asked for, or why it is missing."""
        out: dict[str, Any] = {}
        for metric in self.metrics:
            group = _GROUPS[metric]
            for name in RESULTS[metric]:
                if group in self.missing:
                    out[name] = {"missing": self.missing[group]}
                    continue
                try:
                    out[name] = self.collectors[group].result(name)
                except ValueError as error:
                    reason = self.no_reference.get(group)
                    out[name] = {"missing": f"reference: {reason}" if reason else str(error)}
                if group in self.no_reference and "value" in out[name]:
                    out[name]["note"] = f"no reference: {self.no_reference[group]}"
        return out


_GROUPS = {
    "fid": "inception",
    "inception_score": "inception",
    "clip_score": "clip",
    "overlap_psnr": "overlap",
    "toy_fid": "toy",
    "toy_inception_score": "toy",
    "caption_agreement": "judge",
    "given": "given",
    "sharpness": "sharpness",
}


def _make_collector(group: str, settings: EvaluationSettings) -> Collector:
    from mvdiff.eval.clip_score import clip_scorer
    from mvdiff.eval.extractors import inception_extractor, toy_extractor
    from mvdiff.eval.features import ToyFeatureNet, packaged_toy_features

    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    sampled = {"seed": settings.seed, "num_resamples": settings.num_resamples}
    if group == "overlap":
        size = settings.overlap_size or None
        return OverlapCollector(size, settings.overlap_pairs, settings.overlap_depth_error, **sampled)
    if group == "sharpness":
        return SharpnessCollector(PerSample(**sampled), PerSample(**sampled))
    if group == "given":
        return GivenCollector(PerSample(**sampled), PerSample(**sampled))
    if group == "clip":
        scorer = clip_scorer(settings.clip_model, settings.clip_weights, device)
        return ClipCollector(scorer, settings.batch_size, PerSample(**sampled))
    if group == "judge":
        net = ToyFeatureNet.from_pretrained(settings.toy_features or packaged_toy_features()).to(device)
        truth = read_truth(settings.truth) if settings.truth else {}
        return AgreementCollector(net, truth, settings.judge_heads, settings.batch_size, **sampled)
    shared = {"num_splits": settings.num_splits, "seed": settings.seed, "batch_size": settings.batch_size}
    if group == "toy":
        extractor = toy_extractor(settings.toy_features, device=device)
        return FeatureCollector(extractor, **shared, fid_resamples=settings.fid_resamples)
    return FeatureCollector(inception_extractor(settings.inception_weights, settings.inception_hash, device), **shared)
