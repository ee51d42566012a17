"""Build the metrics of a run from names, class paths or class paths with arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metrics import metric_class, metric_names
from mvdiff.eval.settings import SettingError

MetricSpec = str | Mapping[str, Any] | SampleMetric
"""Name of a packaged metric, a class path, `{"class_path": ..., "init_args": {...}}`, or a metric instance."""


class MetricBuilder:
    """Builds the metrics of a run; metrics whose network loaders and arguments are equal share the network.

    A network that fails to load is tried only once; every metric that needs it gets the same error.

    Args:
        settings: Values by argument name, for constructors and network loaders.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self._networks: dict[str, Any] = {}

    def build(self, metric: type[SampleMetric], init_args: Mapping[str, Any]) -> SampleMetric:
        """Build a metric and, unless `init_args` holds it, its network.

        Raises:
            SettingError: The metric refuses an argument.
            ValueError, OSError, ImportError: The network cannot be loaded.
        """
        values = {**self.settings, **init_args}
        options = _select(values, arguments_of(metric))
        if metric.load_network is not None and "network" not in init_args:
            arguments = _select(values, set(inspect.signature(metric.load_network).parameters))
            options["network"] = self._network(metric.load_network, arguments)
        try:
            return metric(**options)
        except ValueError as error:
            raise SettingError(str(error)) from error

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
    """Return the arguments of each specified metric, by class or instance.

    Raises:
        ValueError: A metric or argument is unknown, or two metrics produce the same column.

    Example:
        >>> [(metric.__name__, arguments) for metric, arguments in parse_specs(["fid", "sharpness", "fid"]).items()]
        [('FID', {}), ('Sharpness', {})]
    """
    if not specs:
        raise ValueError(f"metrics must name at least one of {', '.join(metric_names())}; got none.")
    parsed: dict[Any, dict[str, Any]] = {}
    for spec in specs:
        if isinstance(spec, SampleMetric):
            parsed[spec] = {}
            continue
        named = {"class_path": spec} if isinstance(spec, str) else dict(spec)
        if not set(named) <= {"class_path", "init_args"} or "class_path" not in named:
            raise ValueError(f"metrics must have class_path and, optionally, init_args; got {spec!r}.")
        metric, init_args = metric_class(named["class_path"]), dict(named.get("init_args") or {})
        loader = inspect.signature(metric.load_network).parameters if metric.load_network else {}
        unknown = sorted(set(init_args) - arguments_of(metric) - set(loader))
        if unknown:
            raise ValueError(f"init_args of {metric.__name__} must be arguments of the class; got {unknown}.")
        if parsed.setdefault(metric, init_args) != init_args:
            raise ValueError(f"metrics must produce different columns; got {metric.__name__} twice.")
    columns = [column.name for metric in parsed for column in metric.columns]
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"metrics must produce different columns; got {', '.join(twice)} twice.")
    return parsed


def arguments_of(metric: type[SampleMetric]) -> set[str]:
    """Return the names of a constructor's arguments, including those it passes on as `**options`."""
    names: set[str] = set()
    for base in metric.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        if base is SampleMetric or all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return names


def _select(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}
