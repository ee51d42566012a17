"""Build the metrics that a run asks for: by name, by class path, or with arguments of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metrics import metric_class, metric_names

MetricSpec = str | Mapping[str, Any] | SampleMetric
"""A packaged name, a class path, `{"class_path": ..., "init_args": {...}}`, or a metric."""


class MetricBuilder:
    """Builds metrics for one run from settings by argument name; equal loaders with equal arguments share a network.

    One that fails to load is tried once and fails again for every metric that needs it.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self._networks: dict[str, Any] = {}

    def build(self, metric: type[SampleMetric], init_args: Mapping[str, Any]) -> SampleMetric:
        """Build a metric and, unless `init_args` brings it, its network."""
        values = {**self.settings, **init_args}
        options = _chosen(values, _arguments(metric))
        if metric.load_network is not None and "network" not in init_args:
            arguments = _chosen(values, set(inspect.signature(metric.load_network).parameters))
            options["network"] = self._network(metric.load_network, arguments)
        return metric(**options)

    def _network(self, load: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        key = f"{load.__module__}.{load.__qualname__} {sorted(arguments.items())}"
        if key not in self._networks:
            try:
                self._networks[key] = load(**arguments)
            except Exception as error:
                self._networks[key] = error
        if isinstance(self._networks[key], Exception):
            raise self._networks[key]
        return self._networks[key]


def parse_specs(specs: Sequence[MetricSpec]) -> dict[type[SampleMetric] | SampleMetric, dict[str, Any]]:
    """Return each specified metric (or its class), once, with its arguments.

    Raises:
        ValueError: There is no such metric or argument, or two metrics give the same column.

    Example:
        >>> [(metric.__name__, arguments) for metric, arguments in parse_specs(["fid", "sharpness", "fid"]).items()]
        [('FID', {}), ('Sharpness', {})]
    """
    if not specs:
        raise ValueError(f"metrics must be some of {', '.join(metric_names())}; got none.")
    parsed: dict[Any, dict[str, Any]] = {}
    for spec in specs:
        if isinstance(spec, SampleMetric):
            parsed[spec] = {}
            continue
        named = {"class_path": spec} if isinstance(spec, str) else dict(spec)
        if not set(named) <= {"class_path", "init_args"} or "class_path" not in named:
            raise ValueError(f"metrics must have class_path and, if any, init_args; got {spec!r}.")
        metric, init_args = metric_class(named["class_path"]), dict(named.get("init_args") or {})
        loader = inspect.signature(metric.load_network).parameters if metric.load_network else {}
        unknown = sorted(set(init_args) - _arguments(metric) - set(loader))
        if unknown:
            raise ValueError(f"init_args of {metric.__name__} must be some of its arguments; got {unknown}.")
        if parsed.setdefault(metric, init_args) != init_args:
            raise ValueError(f"metrics must give different columns; got {metric.__name__} twice.")
    columns = [column.name for metric in parsed for column in metric.columns]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"metrics must give different columns; got {', '.join(twice)} twice.")
    return parsed


def _arguments(metric: type[SampleMetric]) -> set[str]:
    """Return the names of a constructor's arguments, those that it hands on as `**options` included."""
    names: set[str] = set()
    for base in metric.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if base is SampleMetric or all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return names


def _chosen(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}
