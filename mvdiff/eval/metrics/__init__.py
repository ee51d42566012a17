"""The packaged metrics, one per file: `<name>.py` holds the `SampleMetric` called `<name>`.

A new file makes its metric available everywhere: in `--metrics`, the runner, tables and reports. Listing the names
imports no metric, which keeps the command line's help fast.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvdiff.eval.metric import Column, SampleMetric


def metric_names() -> tuple[str, ...]:
    """Return the names of the packaged metrics."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def metric_class(name: str) -> type[SampleMetric]:
    """Return the class of a packaged metric, or of a class path such as `my_package.my_module.MyMetric`.

    Raises:
        ValueError: The name is unknown, or the class is not a `SampleMetric`.
    """
    from mvdiff.eval.metric import SampleMetric

    if name in metric_names():
        classes = vars(import_module(f"{__name__}.{name}")).values()
        return next(item for item in classes if getattr(item, "name", None) == name and issubclass(item, SampleMetric))
    path, _, class_name = name.rpartition(".")
    try:
        metric = getattr(import_module(path), class_name) if path else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"metrics must be importable class paths; got {name} ({error}).") from error
    if not (isinstance(metric, type) and issubclass(metric, SampleMetric)):
        raise ValueError(
            f"metrics must be among {', '.join(metric_names())}, or class paths of SampleMetrics; got {name!r}."
        )
    return metric


def metric_columns() -> dict[str, Column]:
    """Return the columns of the packaged metrics, by name."""
    return {column.name: column for name in metric_names() for column in metric_class(name).columns}
