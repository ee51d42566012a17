"""The metrics, one file each: `<name>.py` holds the one `SampleMetric` called `<name>`.

Adding a file adds the metric everywhere: to `--metrics`, the runner, printed tables and reports. Listing names imports
no metric, so the command line's help stays fast.
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
    """Return a packaged metric's class, or the one at a class path such as `my_package.my_module.MyMetric`.

    Raises:
        ValueError: The name is unknown, or the class is not a SampleMetric.
    """
    from mvdiff.eval.metric import SampleMetric

    if name in metric_names():
        classes = vars(import_module(f"{__name__}.{name}")).values()
        return next(item for item in classes if getattr(item, "name", None) == name and issubclass(item, SampleMetric))
    path, _, class_name = name.rpartition(".")
    try:
        found = getattr(import_module(path), class_name) if path else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"metrics must be importable class paths; got {name} ({error}).") from error
    if not (isinstance(found, type) and issubclass(found, SampleMetric)):
        raise ValueError(
            f"metrics must be some of {', '.join(metric_names())}, or class paths of SampleMetrics; got {name!r}."
        )
    return found


def metric_columns() -> dict[str, Column]:
    """Return the columns of the packaged metrics, by name."""
    return {column.name: column for name in metric_names() for column in metric_class(name).columns}
