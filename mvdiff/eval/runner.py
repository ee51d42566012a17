"""Score folders of samples in one pass over the generated views and one over the reference.

A metric that cannot be computed is reported as `{"missing": reason}`; the others still come out.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metric_specs import MetricBuilder, MetricSpec, parse_specs
from mvdiff.eval.overlap import PAPER_SIZE, PairRule
from mvdiff.eval.processes import gather_objects
from mvdiff.eval.sources import FolderSource, PlainSource, Source, Tally
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import write_json

SCHEMA_VERSION = 1
PAPER_METRICS = ("fid", "inception_score", "clip_score", "overlap_psnr")
UNAVAILABLE = (ValueError, OSError, ImportError)
Progress = Callable[[str, str, int], None]


@dataclass(frozen=True)
class EvaluationSettings:
    """Evaluation settings; defaults follow the paper (section 5).

    Args:
        inception_weights: Weight file of FID's Inception network; None: torch's cache, or a download.
        inception_hash: Start of its SHA-256.
        clip_model: open_clip architecture, or a folder with a transformers CLIPModel.
        clip_weights: Weight file or tag for open_clip.
        toy_features: Folder of the toy feature network; None: the packaged one.
        truth: JSON file `{sample id: [what each view shows]}` for caption_agreement; None: as noted in the samples.
        judge_heads: Heads of the toy network that caption_agreement asks; None: all.
        overlap_size: Size of images for the overlap PSNR (height), 0 for their own. Views with depth keep theirs.
        overlap_pairs: `"adjacent"` (with depth: consecutive views), `"overlapping"`, or pairs of views.
        overlap_depth_error: Metres; pixels of views with depth that are off by more are left out.
        num_splits: Splits of the Inception Score.
        batch_size: Images per forward pass.
        device: `"auto"`, `"cpu"`, `"cuda"`.
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
    metrics: Sequence[MetricSpec] = PAPER_METRICS,
    settings: EvaluationSettings | None = None,
    rig: Rig | None = None,
    progress: Progress | None = None,
    num_workers: int = 0,
    distributed: bool = False,
) -> dict[str, Any]:
    """Score generated samples.

    Args:
        generated: Folder of samples (ours or upstream's layout), or any `Source`. In one process, any object with
            `__iter__` and `describe` will do, here and as the reference.
        reference: Ground truth: such a folder (in upstream's layout its `<i>_natural.png`), or a `Source` such as
            `mvdiff.eval.sources.source_from_config`. None takes the ground truth that upstream's layout has beside
            the generated views, and else leaves out what needs one.
        metrics: Metrics, see `MetricSpec`; names are those of `mvdiff.eval.metrics`.
        settings: Default: the paper's protocol.
        rig: Cameras of folders in upstream's layout; default: the paper's ring of 8.
        progress: Called with ("generated" or "reference", sample id, number of samples) after each sample; the
            number is 0 for an object that has no `len`.
        num_workers: Processes that read images ahead; 0 reads between the measurements.
        distributed: Share the samples among the processes of `torch.distributed`, all of which must call this. Each
            returns the results of all samples.

    Returns:
        `{"generated": ..., "reference": ..., "metrics": {name: result or {"missing": reason}}, "columns": ...,
        "settings": ..., "versions": ...}`, ready for JSON. See `mvdiff.eval.metric.Result` for a result's entries and
        `mvdiff.eval.metric.Column` for a column's.

    Raises:
        ValueError: An unknown metric, no complete sample at all, or `distributed` with an object that is no `Source`.
        FileNotFoundError: A folder does not exist.
    """
    settings = settings or EvaluationSettings()
    asked = parse_specs(metrics)
    source = FolderSource(Path(generated), rig) if isinstance(generated, str | Path) else generated
    source = _as_source(source, "generated", distributed)
    if reference is None and isinstance(source, FolderSource) and source.has_natural():
        truth = FolderSource(source.root, rig, natural=True)
    else:
        truth = _open_reference(reference, rig)
    truth = None if truth is None else _as_source(truth, "reference", distributed)
    scoring = _Scoring(asked, settings, distributed)
    scoring.run(source, False, progress, num_workers)
    described, real = _described(source), None
    if truth is not None:
        broken = scoring.run(truth, True, progress, num_workers)
        real = {"missing": broken} if broken else truth.describe()
    return _results(described, real, scoring, settings)


def evaluate_each(
    generated: Mapping[str, str | Path | Source],
    reference: str | Path | Source | None,
    metrics: Sequence[MetricSpec],
    settings: EvaluationSettings,
) -> dict[str, dict[str, Any]]:
    """Score several methods against one reference, which is read and measured once.

    Args:
        generated: Samples by method.
        reference: See `evaluate`; None: there is none.
        metrics: See `evaluate`.
        settings: See `evaluate`.

    Returns:
        What `evaluate` returns, by method.

    Raises:
        ValueError: See `evaluate`.
        FileNotFoundError: See `evaluate`.
    """
    sources = {name: FolderSource(Path(x)) if isinstance(x, str | Path) else x for name, x in generated.items()}
    scoring, real, results = _Scoring(parse_specs(metrics), settings, distributed=False), None, {}
    if reference is not None:
        truth = _open_reference(reference)
        broken = scoring.run(truth, True, None, 0)
        real = {"missing": broken} if broken else truth.describe()
    measured = scoring.state()
    for name, source in sources.items():
        scoring.set_back(*measured)
        scoring.run(source, False, None, 0)
        results[name] = _results(_described(source), real, scoring, settings)
    return results


def _described(source: Source) -> dict[str, Any]:
    described = source.describe()
    if not described["num_samples"]:
        raise ValueError(f"generated must hold at least one readable sample; got none, in {described}.")
    return described


def _results(
    generated: dict[str, Any], reference: dict[str, Any] | None, scoring: _Scoring, settings: EvaluationSettings
) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "generated": generated,
        "reference": reference,
        "metrics": scoring.results(),
        "columns": {
            column.name: {key: value for key, value in asdict(column).items() if key != "name"}
            for metric in scoring.asked
            for column in metric.columns
        },
        "settings": asdict(settings),
        "versions": library_versions(),
    }


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
        raise OSError(error.errno, f"--out must be writable; got {error.strerror or error}, in {path}") from error


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


def _open_reference(reference: str | Path | Source | None, rig: Rig | None = None) -> Source | None:
    if isinstance(reference, str | Path):
        folder = FolderSource(Path(reference), rig)
        return FolderSource(Path(reference), rig, natural=True) if folder.has_natural() else folder
    return reference


def _as_source(source: Any, name: str, distributed: bool) -> Source:
    if isinstance(source, Source):
        return source
    if distributed:
        raise ValueError(f"{name} must be a folder or a Source when distributed; got {type(source).__name__}.")
    return PlainSource(source)


class _Scoring:
    """The metrics of one run; one that fails is dropped with its reason, the others go on.

    Processes agree on what failed after each pass, so that all of them compute the same metrics.
    """

    def __init__(
        self,
        asked: Mapping[type[SampleMetric] | SampleMetric, Mapping[str, Any]],
        settings: EvaluationSettings,
        distributed: bool,
    ) -> None:
        self.distributed = distributed
        self.asked = list(asked)
        self.missing: dict[int, str] = {}
        self.no_reference: dict[int, str] = {}
        self.metrics: dict[int, SampleMetric] = {}
        self.sample_ids: dict[int, str] = {}
        builder = MetricBuilder(asdict(replace(settings, device=_device(settings.device, self._rank()[0]))))
        failures: dict[int, tuple[int, str]] = {}
        for number, (metric, init_args) in enumerate(asked.items()):
            try:
                built = metric if isinstance(metric, SampleMetric) else builder.build(metric, init_args)
                built.reset()
                built.distributed_available_fn = partial(bool, distributed)
                self.metrics[number] = built
            except UNAVAILABLE as error:
                failures[number] = 0, str(error)
        self._drop(failures)

    def run(self, source: Source, real: bool, progress: Progress | None, num_workers: int) -> str | None:
        """Feed every sample of a source to every metric; return why a reference broke off, if it did.

        No number stands on half a reference: where it breaks off, or a metric fails on it, the metric is set back to
        what it was before.
        """
        before = {number: _states(metric) for number, metric in self.metrics.items()}
        part = source.part(*self._rank(), num_workers)
        failures: dict[int, tuple[int, str]] = {}
        broken = None
        try:
            self._feed(part, real, progress, failures)
        except UNAVAILABLE as error:
            if not real:
                raise
            broken = str(error)
        tallies, reasons, sample_ids = zip(
            *gather_objects((part.tally, broken, self.sample_ids), self.distributed), strict=True
        )
        source.tally = Tally.merged(tallies)
        broken = next((reason for reason in reasons if reason), None)
        if not real:
            self.sample_ids = {key: name for ids in sample_ids for key, name in ids.items()}
            self._drop(failures)
            return None
        found = self._agreed(failures)
        for number in self.metrics if broken else found:
            self.no_reference[number] = broken or found[number]
            _set_states(self.metrics[number], before[number])
        return broken

    def _feed(self, part: Source, real: bool, progress: Progress | None, failures: dict[int, tuple[int, str]]) -> None:
        which = "reference" if real else "generated"
        rank, world_size = self._rank()
        for position, sample in enumerate(part):
            if sample.index is None:
                sample = replace(sample, index=rank + position * world_size)
            for number, metric in self.metrics.items():
                if number in failures:
                    continue
                try:
                    metric.update(sample, real)
                except UNAVAILABLE as error:
                    failures[number] = sample.order, f"{error} (at {which} sample {sample.sample_id!r})"
            if not real:
                self.sample_ids[sample.key] = sample.sample_id
            if progress is not None:
                progress(which, sample.sample_id, len(part))

    def state(self) -> tuple[dict[int, SampleMetric], dict[int, dict[str, Any]], dict[int, str]]:
        """Return the metrics that are left, what they have gathered, and why the others are missing."""
        return dict(self.metrics), {number: _states(one) for number, one in self.metrics.items()}, dict(self.missing)

    def set_back(
        self, metrics: dict[int, SampleMetric], gathered: dict[int, dict[str, Any]], missing: dict[int, str]
    ) -> None:
        """Go back to an earlier `state`."""
        self.metrics, self.missing, self.sample_ids = dict(metrics), dict(missing), {}
        for number, metric in metrics.items():
            metric.reset()
            _set_states(metric, gathered[number])

    def results(self) -> dict[str, Any]:
        """Return every number that was asked for, or why it is missing."""
        out: dict[str, Any] = {}
        for number in range(len(self.asked)):
            reason = self.no_reference.get(number)
            for name, result in self._computed(number).items():
                if isinstance(result, ValueError):
                    out[name] = {"missing": f"reference: {reason}" if reason else str(result)}
                    continue
                out[name] = result.to_json(self.sample_ids) | ({"note": f"no reference: {reason}"} if reason else {})
        return out

    def _computed(self, number: int) -> dict[str, Any]:
        names = [column.name for column in self.asked[number].columns]
        if number in self.missing:
            return dict.fromkeys(names, ValueError(self.missing[number]))
        try:
            found = self.metrics[number].compute()
            return {name: found[name] for name in names}
        except ValueError as error:
            return dict.fromkeys(names, error)

    def _drop(self, failures: Mapping[int, tuple[int, str]]) -> None:
        for number, reason in self._agreed(failures).items():
            self.missing[number] = reason
            self.metrics.pop(number, None)

    def _agreed(self, failures: Mapping[int, tuple[int, str]]) -> dict[int, str]:
        """Return the reason of every metric that failed in some process: the one of the first sample."""
        parts = gather_objects(dict(failures), self.distributed)
        numbers = sorted({number for part in parts for number in part})
        return {number: min(part[number] for part in parts if number in part)[1] for number in numbers}

    def _rank(self) -> tuple[int, int]:
        return (dist.get_rank(), dist.get_world_size()) if self.distributed else (0, 1)


def _states(metric: SampleMetric) -> dict[str, Any]:
    """Copy what a metric has gathered; the tensors in its lists are never changed in place."""
    return {
        name: state.clone() if isinstance(state, torch.Tensor) else list(state)
        for name, state in metric.metric_state.items()
    }


def _set_states(metric: SampleMetric, states: Mapping[str, Any]) -> None:
    """Give a metric copies of states that `_states` returned."""
    for name, state in states.items():
        setattr(metric, name, state.clone() if isinstance(state, torch.Tensor) else list(state))


def _device(name: str, rank: int) -> str:
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return "cpu" if name == "auto" else name
    return f"cuda:{rank % torch.cuda.device_count()}"
