"""Refuse settings of a scoring that would go unused or unmet, before any image is read."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metric_specs import MetricSpec, arguments_of, parse_specs
from mvdiff.eval.metrics import metric_class, metric_names
from mvdiff.eval.protocol import Protocol, apply_protocol, canonical_json
from mvdiff.eval.settings import FREE, EvaluationSettings, SettingError

PAPER_METRICS = ("fid", "inception_score", "clip_score", "overlap_psnr")
DEFAULT_METRICS = (*PAPER_METRICS, "overlap_chance", "overlap_zncc", "border_ratio", "sharpness")
"""The paper's metrics, and those without which overlap PSNR misleads."""
_FOR_ALL = ("seed", "batch_size", "device", "num_resamples")
"""Settings that every scoring has."""
_PATHS = ("inception_weights", "toy_features", "truth")


def planned(
    metrics: Sequence[MetricSpec], settings: EvaluationSettings | None, protocol: Protocol | None
) -> tuple[dict[type[SampleMetric] | SampleMetric, dict[str, Any]], EvaluationSettings]:
    """Return the arguments of each metric, and the settings; a protocol brings both.

    Raises:
        SettingError: Metrics other than the default ones, or a setting, contradict the protocol, or it is incomplete.
    """
    if protocol is None:
        return parse_specs(metrics), settings or EvaluationSettings()
    settings = apply_protocol(protocol, settings, None if metrics is DEFAULT_METRICS else metrics)
    specs = parse_specs(protocol.metrics)
    check_complete(protocol, specs)
    return specs, settings


def check_used(specs: Mapping[type[SampleMetric], Mapping[str, Any]], settings: EvaluationSettings) -> None:
    """Raise SettingError for a setting that no metric uses, or that names a path that does not exist.

    Args:
        specs: Arguments of each metric, see `mvdiff.eval.metric_specs.parse_specs`.
        settings: Settings; those equal to their defaults pass.
    """
    used = taken_by(specs)
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == field.default or field.name in _FOR_ALL:
            continue
        if field.name not in used:
            takers = [name for name in metric_names() if field.name in _taken(metric_class(name))]
            chosen = ", ".join(metric.name for metric in specs)
            raise SettingError(
                f"--{field.name} is not used by {chosen}; leave it out or choose {' or '.join(takers)} in --metrics."
            )
        if field.name in _PATHS and not Path(value).exists():
            raise SettingError(f"--{field.name} must be an existing path; got {value}.")
    weights = settings.clip_weights
    if weights is not None and Path(settings.clip_model).is_dir():
        raise SettingError(f"--clip_weights must be left out where --clip_model is a folder; got {weights}.")
    if weights is not None and ("/" in weights or "." in weights) and not Path(weights).is_file():
        raise SettingError(f"--clip_weights must be an existing file or a tag of open_clip; got {weights}.")


def check_needs(specs: Mapping[type[SampleMetric], Mapping[str, Any]], has_reference: bool) -> None:
    """Raise SettingError for a metric that needs a reference or an argument that is not there.

    Args:
        specs: Arguments of each metric that the user chose by name.
        has_reference: True if there is a reference.
    """
    for metric, init_args in specs.items():
        for need, message in metric.needs.items():
            is_argument = need in arguments_of(metric) and need not in EvaluationSettings.__dataclass_fields__
            if (need == "reference" and not has_reference) or (is_argument and need not in init_args):
                raise SettingError(f"--metrics {metric.name}: {message}")


def check_complete(protocol: Protocol, specs: Mapping[type[SampleMetric], Mapping[str, Any]]) -> None:
    """Raise SettingError where a protocol leaves a setting of its metrics to a default, or has one that none takes.

    Args:
        protocol: The protocol.
        specs: Arguments of each of its metrics.
    """
    taken = taken_settings(specs)
    if lacking := [name for name in taken if name not in protocol.settings]:
        defaults = ", ".join(f"{name} (default: {getattr(EvaluationSettings(), name)})" for name in lacking)
        raise SettingError(f"protocol {protocol.id} must give every setting of its metrics; it lacks {defaults}.")
    if unused := sorted(set(protocol.settings) - set(taken)):
        listed = ", ".join(unused)
        raise SettingError(f"protocol {protocol.id} must give settings of its metrics only; got {listed}.")


def taken_by(specs: Iterable[type[SampleMetric] | SampleMetric]) -> set[str]:
    """Return the names of all arguments of metrics and of their networks."""
    return {name for metric in specs for name in _taken(metric if isinstance(metric, type) else type(metric))}


def taken_settings(specs: Mapping[type[SampleMetric] | SampleMetric, Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings that metrics take and a protocol holds, sorted."""
    return sorted(taken_by(specs) & {one.name for one in fields(EvaluationSettings)} - set(FREE))


def custom_values(
    specs: Mapping[type[SampleMetric] | SampleMetric, Mapping[str, Any]], settings: EvaluationSettings
) -> dict[str, Any]:
    """Return what stands in place of a protocol's values: the metrics, and the settings that they take."""
    metrics = []
    for metric, init_args in specs.items():
        kind = metric if isinstance(metric, type) else type(metric)
        is_packaged = kind.name in metric_names() and metric_class(kind.name) is kind
        name = kind.name if is_packaged else f"{kind.__module__}.{kind.__qualname__}"
        metrics.append({"class_path": name, "init_args": dict(init_args)} if init_args else name)
    used = {name: _without_place(getattr(settings, name)) for name in taken_settings(specs)}
    plain = json.dumps({"metrics": metrics, "settings": used}, default=lambda value: type(value).__qualname__)
    return json.loads(canonical_json(json.loads(plain)))


def _without_place(value: Any) -> Any:
    """Return the name of a file or folder of weights in place of its path."""
    return Path(value).name if isinstance(value, str) and value and Path(value).exists() else value


def _taken(metric: type[SampleMetric]) -> set[str]:
    loader = inspect.signature(metric.load_network).parameters if metric.load_network else {}
    return arguments_of(metric) | set(loader)
