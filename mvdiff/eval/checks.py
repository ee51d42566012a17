"""Refuse settings of a scoring that would go unused or unmet, before any image is read."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metric_specs import arguments_of
from mvdiff.eval.metrics import metric_class, metric_names
from mvdiff.eval.settings import EvaluationSettings, SettingError

_FOR_ALL = ("seed", "batch_size", "device", "num_resamples")
"""Settings that every scoring has."""
_PATHS = ("inception_weights", "toy_features", "truth")


def check_used(specs: Mapping[type[SampleMetric], Mapping[str, Any]], settings: EvaluationSettings) -> None:
    """Raise SettingError for a setting that no metric uses, or that names a path that does not exist.

    Args:
        specs: Arguments of each metric, see `mvdiff.eval.metric_specs.parse_specs`.
        settings: Settings; those equal to their defaults pass.
    """
    used = {name for metric in specs for name in _taken(metric)}
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


def _taken(metric: type[SampleMetric]) -> set[str]:
    loader = inspect.signature(metric.load_network).parameters if metric.load_network else {}
    return arguments_of(metric) | set(loader)
