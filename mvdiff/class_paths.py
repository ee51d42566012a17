"""Resolve classes that files name, and their arguments.

A `class_path` in a model folder or a checkpoint comes from whoever wrote the file. Importing a module runs its code, so
such a name resolves only inside `mvdiff` or inside modules that the user named, and only to a class of the wanted kind.
Its `init_args` are JSON values.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")
_HOME = "mvdiff"
_plugins: set[str] = set()


def allow_plugins(*modules: str) -> None:
    """Let files name classes of modules or packages such as `my_package`, for this process.

    A module is imported when a file first names it.

    Raises:
        ValueError: A name cannot be a module's.
    """
    for module in modules:
        if not _is_dotted(module):
            raise ValueError(f"plugin must be the name of a module, as my_package; got {module!r}.")
    _plugins.update(modules)


def allow_plugins_of(settings: Any) -> None:
    """Let files name classes of the packages of every `class_path` in a user's own settings (parsed YAML)."""
    allow_plugins(*packages_of(settings))


def packages_of(settings: Any) -> set[str]:
    """Return the packages outside `mvdiff` of every `class_path` in some settings (JSON or YAML values).

    Example:
        >>> packages_of([{"class_path": "my_package.attention.Mine"}, {"class_path": "mvdiff.a.B"}])
        {'my_package'}
    """
    found: set[str] = set()
    if isinstance(settings, Mapping):
        class_path = settings.get("class_path")
        if isinstance(class_path, str) and "." in class_path and _is_dotted(class_path):
            found = {class_path.split(".")[0]} - {_HOME}
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        found = found.union(*map(packages_of, settings))
    return found


def resolve_class(class_path: Any, kind: type[T], where: str = "") -> type[T]:
    """Import the class of a name that a file holds.

    Args:
        class_path: Module and class, as `mvdiff.models.attention.CorrespondenceAwareAttention`.
        kind: Base class that it must have.
        where: The file, for errors.

    Raises:
        ValueError: The name lies outside `mvdiff` and the modules of `allow_plugins` (nothing is imported then), there
            is no such class, or it is of another kind.
    """
    place = f", in {where}" if where else ""
    if not isinstance(class_path, str) or "." not in class_path or not _is_dotted(class_path):
        raise ValueError(f"class_path must be the dotted name of a class; got {class_path!r}{place}.")
    module, _, name = class_path.rpartition(".")
    if not any(module == home or module.startswith(f"{home}.") for home in (_HOME, *_plugins)):
        top = module.split(".")[0]
        raise ValueError(
            f"class_path must lie in {_HOME} or in a module that you named; got {class_path}{place}. If you trust it, "
            f'pass --plugin {top} (in Python: mvdiff.class_paths.allow_plugins("{top}")).'
        )
    try:
        found = vars(importlib.import_module(module)).get(name)
    except ImportError as error:
        raise ValueError(f"class_path must name an importable class; got {class_path} ({error}){place}.") from error
    if not isinstance(found, type) or not issubclass(found, kind) or inspect.isabstract(found):
        raise ValueError(f"class_path must name a {kind.__name__}; got {class_path}{place}, which is none.")
    return found


def resolve_settings(
    settings: Any, kind: type[T], default: str, where: str = ""
) -> tuple[type[T], dict[str, Any], dict[str, Any]]:
    """Resolve `{class_path: ..., init_args: ...}` to a class and all of its settings.

    Args:
        settings: The mapping; either key may be left out, and None is `default` with its own defaults.
        kind: See `resolve_class`.
        default: `class_path` where `settings` has none.
        where: See `resolve_class`.

    Returns:
        The class, its keyword-only arguments with defaults filled in, and the settings with these arguments, as JSON
        has them.

    Raises:
        ValueError: See `resolve_class`; or an argument is unknown, missing or no JSON value.
    """
    settings = {} if settings is None else settings
    place = f", in {where}" if where else ""
    if not isinstance(settings, Mapping) or not set(settings) <= {"class_path", "init_args"}:
        found = sorted(map(str, settings)) if isinstance(settings, Mapping) else type(settings).__name__
        raise ValueError(f"{kind.__name__} must have class_path and init_args, and nothing else; got {found}{place}.")
    class_path = settings.get("class_path") or default
    cls = resolve_class(class_path, kind, where)
    given = settings.get("init_args")
    given = _json({} if given is None else given, f"init_args of {class_path}", place)
    if not isinstance(given, dict):
        raise ValueError(f"init_args of {class_path} must be a mapping; got {given!r}{place}.")
    known = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    needed = {name for name, default in known.items() if default is inspect.Parameter.empty}
    unknown, missing = set(given) - set(known), needed - set(given)
    if unknown or missing:
        found = ", ".join(sorted(unknown)) if unknown else f"none for {', '.join(sorted(missing))}"
        raise ValueError(f"init_args of {class_path} must be of {', '.join(known) or 'none'}; got {found}{place}.")
    arguments = _json(known | given, class_path, place)
    return cls, arguments, {"class_path": class_path, "init_args": arguments}


def merge_settings(settings: Mapping[str, Any] | None, chosen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Lay chosen class settings over others: arguments are merged unless another class is chosen.

    Example:
        >>> merge_settings({"class_path": "a.B", "init_args": {"x": 1, "y": 2}}, {"init_args": {"y": 3}})
        {'class_path': 'a.B', 'init_args': {'x': 1, 'y': 3}}
        >>> merge_settings({"init_args": {"x": 1}}, {"class_path": "a.C"})
        {'class_path': 'a.C'}
    """
    settings, chosen = dict(settings or {}), dict(chosen or {})
    if chosen.get("class_path") not in (None, settings.get("class_path")):
        return chosen
    merged = settings | chosen
    arguments = {**(settings.get("init_args") or {}), **(chosen.get("init_args") or {})}
    return merged | ({"init_args": arguments} if arguments else {})


def _json(value: Any, name: str, place: str) -> Any:
    """Return a copy with lists for tuples; raise ValueError for what JSON does not have, and for nested classes."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_json(item, name, place) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) and "class_path" not in value:
        return {key: _json(item, name, place) for key, item in value.items()}
    raise ValueError(f"{name} must hold numbers, texts, lists and mappings alone; got {value!r}{place}.")


def _is_dotted(name: Any) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))
