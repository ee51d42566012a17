"""Resolve classes that files name, and their arguments.

A `class_path` in a model folder or a checkpoint comes from whoever wrote the file. Importing a module runs its code, so
such a name resolves only inside `mvdiff` or inside modules that the user named, and only to a class of the wanted kind.
Its `init_args` are JSON values.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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


def allow_plugins_of(model: Any) -> None:
    """Let files name classes of the modules that a user's own settings of a model take task and attention from.

    Nothing else is let in: neither packages around these modules nor what other settings name.

    Args:
        model: `{class_path: ..., init_args: {task: ..., adapter: {attention: ...}}}`, as parsed from YAML.
    """
    arguments = _entry(model, "init_args")
    task, attention = _entry(arguments, "task"), _entry(_entry(arguments, "adapter"), "attention")
    named = [task if isinstance(task, str) else _entry(task, "class_path"), _entry(attention, "class_path")]
    allow_plugins(*(name.rpartition(".")[0] for name in named if _is_class_path(name)))


def packages_of(*class_paths: str) -> set[str]:
    """Return the packages outside `mvdiff` of some class paths.

    Example:
        >>> packages_of("my_package.attention.Mine", "mvdiff.a.B", "panorama")
        {'my_package'}
    """
    return {name.split(".")[0] for name in class_paths if _is_class_path(name)} - {_HOME}


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
    if not _is_class_path(class_path):
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
    except Exception as error:  # a module's own code may raise anything
        raise ValueError(f"class_path must name an importable class; got {class_path} ({error!r}){place}.") from error
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
        ValueError: See `resolve_class`; or an argument is unknown, missing, no JSON value or not of its annotation.
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
    if unknown:
        taken = ", ".join(known) or "no arguments"
        names = ", ".join(sorted(unknown))
        raise ValueError(f"init_args of {class_path} has unknown {names}; it takes {taken}{place}.")
    if missing:
        raise ValueError(f"init_args of {class_path} needs {', '.join(sorted(missing))}{place}.")
    hints = _hints(cls)
    for name, value in given.items():
        if not _fits(value, hints.get(name, Any)):
            wanted = inspect.formatannotation(hints[name])
            raise ValueError(f"{name} must be {wanted} in init_args of {class_path}; got {value!r}{place}.")
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


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class's arguments; none where they cannot be evaluated."""
    try:
        return get_type_hints(cls.__init__)
    except NameError:
        return {}


def _fits(value: Any, wanted: Any) -> bool:
    """Tell whether a JSON value is of an annotation; an annotation that JSON says nothing of takes any."""
    origin, inner = get_origin(wanted) or wanted, get_args(wanted)
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in inner)
    if origin in (int, bool, str, type(None)):
        return type(value) is origin
    if origin is float:
        return type(value) in (int, float)
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return isinstance(value, list) and len(value) == len(inner) and all(map(_fits, value, inner))
    if origin in (list, tuple, Sequence):
        return isinstance(value, list) and all(_fits(item, each) for item in value for each in inner[:1])
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(item, each) for item in value.values() for each in inner[1:])
    return True


def _entry(settings: Any, name: str) -> Any:
    return settings.get(name) if isinstance(settings, Mapping) else None


def _is_class_path(name: Any) -> bool:
    return _is_dotted(name) and "." in name


def _is_dotted(name: Any) -> bool:
    return isinstance(name, str) and all(part.isidentifier() for part in name.split("."))
