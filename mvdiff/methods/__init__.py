"""Methods: the rows of comparison tables. Each has a name and a `generate(batch, sampling, seed)`.

A method that users name (`--method NAME`) has a file of its own: `sd_pano.py` holds the `Method` whose `name` is
"sd-pano". A new file makes its method available everywhere.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mvdiff.methods.method import Method


def method_names(task: str | None = None) -> tuple[str, ...]:
    """Return the names of the packaged methods, of one task ("panorama", ...) or of all."""
    found = _packaged()
    return tuple(name for name, kind in found.items() if task is None or kind.tasks is None or task in kind.tasks)


def method_class(name: str, task: str | None = None) -> type[Method]:
    """Return the class of a packaged method, or of a class path such as `my_package.my_module.MyMethod`.

    Importing a module runs its code: resolve class paths from files of others with `mvdiff.class_paths` instead.

    Args:
        name: Name or class path.
        task: Name of the task that the method must serve; None: any.

    Raises:
        ValueError: The name is unknown, the class is not a `Method`, or it serves other tasks.
    """
    from mvdiff.methods.method import Method

    kind = _packaged().get(name)
    if kind is None and "." in name:
        path, _, class_name = name.rpartition(".")
        try:
            kind = getattr(import_module(path), class_name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"method must be an importable class path; got {name} ({error}).") from error
    served = isinstance(kind, type) and issubclass(kind, Method) and (None in (task, kind.tasks) or task in kind.tasks)
    if not served:
        names = ", ".join(method_names(task))
        of_task = "" if task is None else f" for the task {task}"
        raise ValueError(f"method{of_task} must be one of {names}, or the class path of a Method; got {name!r}.")
    return kind


def _packaged() -> dict[str, type[Method]]:
    """Return the packaged methods by name; modules that hold no method named as they are do not count."""
    from mvdiff.methods.method import Method

    kinds = {}
    for module in pkgutil.iter_modules(__path__):
        name = module.name.replace("_", "-")
        for item in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(item, type) and issubclass(item, Method) and item.name == name:
                kinds[name] = item
    return kinds
