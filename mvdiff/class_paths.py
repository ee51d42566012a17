"""Resolve class paths from files safely.

A `class_path` in a model folder or checkpoint comes from whoever wrote the file, and importing a module runs its code.
A class path therefore resolves only inside `mvdiff` or inside modules that the user allowed, and only to a subclass of
the expected class. Its `init_args` must be JSON values.
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
    """Allow class paths inside the given modules or packages, such as `my_package`, for this process.

    A module is imported only when a file names one of its classes.

    Raises:
        ValueError: A name is not a valid module name.
    """
    for module in modules:
        if not _is_dotted(module):
            raise ValueError(f"plugin must be the name of a module, such as my_package; got {module!r}.")
    _plugins.update(modules)


def allow_plugins_of(model: Any) -> None:
    """Allow the modules of the task, the attention and the family of bases that a user's own model settings name.

    Parent packages and classes named by other settings stay disallowed.

    Args:
        model: `{class_path: ..., init_args: {task: ..., family: ..., adapter: {attention: ...}}}`, as parsed from
            YAML.
    """
    arguments = _entry(model, "init_args")
    task, attention = _entry(arguments, "task"), _entry(_entry(arguments, "adapter"), "attention")
    task = task if isinstance(task, str) else _entry(task, "class_path")
    named = [task, _entry(attention, "class_path"), _entry(arguments, "family")]
    allow_plugins(*(name.rpartition(".")[0] for name in named if _is_class_path(name)))


def packages_of(*class_paths: str) -> set[str]:
    """Return the top-level packages of class paths, without `mvdiff`; names without a dot are ignored.

    Example:
        >>> packages_of("my_package.attention.Mine", "mvdiff.a.B", "panorama")
        {'my_package'}
    """
    return {name.split(".")[0] for name in class_paths if _is_class_path(name)} - {_HOME}


def resolve_class(class_path: Any, kind: type[T], where: str = "") -> type[T]:
    """Import the class at a class path from a file.

    Args:
        class_path: Module and class, such as `mvdiff.models.attention.CorrespondenceAwareAttention`.
        kind: Required base class.
        where: File named in errors.

    Raises:
        ValueError: The path is outside `mvdiff` and the modules of `allow_plugins` (nothing is imported then), the
            class does not exist, is abstract, or is not a subclass of `kind`.
    """
    place = f", in {where}" if where else ""
    if not _is_class_path(class_path):
        raise ValueError(f"class_path must be the dotted name of a class; got {class_path!r}{place}.")
    module, _, name = class_path.rpartition(".")
    if not any(module == home or module.startswith(f"{home}.") for home in (_HOME, *_plugins)):
        top = module.split(".")[0]
        raise ValueError(
            f"class_path must lie in {_HOME} or in a module that you allowed; got {class_path}{place}. If you trust "
            f'it, pass --plugin {top} (in Python: mvdiff.class_paths.allow_plugins("{top}")).'
        )
    try:
        resolved = vars(importlib.import_module(module)).get(name)
    except Exception as error:  # a module's own code may raise anything
        raise ValueError(f"class_path must name an importable class; got {class_path} ({error!r}){place}.") from error
    if not isinstance(resolved, type) or not issubclass(resolved, kind) or inspect.isabstract(resolved):
        raise ValueError(f"class_path must name a {kind.__name__}; got {class_path}{place}.")
    return resolved


def resolve_settings(
    settings: Any, kind: type[T], default: str, where: str = ""
) -> tuple[type[T], dict[str, Any], dict[str, Any]]:
    """Resolve `{class_path: ..., init_args: ...}` to a class and its complete arguments.

    Args:
        settings: The mapping. Both keys are optional; None means the default class with its default arguments.
        kind: Required base class.
        default: `class_path` to use if `settings` has none.
        where: File named in errors.

    Returns:
        The class; its keyword-only arguments as JSON values, with defaults filled in; and `{class_path, init_args}`
        with these arguments.

    Raises:
        ValueError: `resolve_class` fails, or an argument is unknown, missing, not a JSON value, or contradicts its
            annotation.
    """
    settings = {} if settings is None else settings
    place = f", in {where}" if where else ""
    if not isinstance(settings, Mapping) or not set(settings) <= {"class_path", "init_args"}:
        got = sorted(map(str, settings)) if isinstance(settings, Mapping) else type(settings).__name__
        raise ValueError(f"{kind.__name__} must have only class_path and init_args; got {got}{place}.")
    class_path = settings.get("class_path") or default
    cls = resolve_class(class_path, kind, where)
    init_args = settings.get("init_args")
    init_args = _json({} if init_args is None else init_args, f"init_args of {class_path}", place)
    if not isinstance(init_args, dict):
        raise ValueError(f"init_args of {class_path} must be a mapping; got {init_args!r}{place}.")
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    required = {name for name, default in defaults.items() if default is inspect.Parameter.empty}
    unknown, missing = set(init_args) - set(defaults), required - set(init_args)
    if unknown:
        accepted = ", ".join(defaults) or "no arguments"
        names = ", ".join(sorted(unknown))
        raise ValueError(f"init_args of {class_path} has unknown {names}; it takes {accepted}{place}.")
    if missing:
        raise ValueError(f"init_args of {class_path} needs {', '.join(sorted(missing))}{place}.")
    hints = _hints(cls)
    for name, value in init_args.items():
        if not _fits(value, hints.get(name, Any)):
            annotation = inspect.formatannotation(hints[name])
            raise ValueError(f"{name} must be {annotation} in init_args of {class_path}; got {value!r}{place}.")
    arguments = _json(defaults | init_args, class_path, place)
    return cls, arguments, {"class_path": class_path, "init_args": arguments}


def merge_settings(settings: Mapping[str, Any] | None, chosen: Mapping[str, Any] | None) -> dict[str, Any]:
    """Override class settings with chosen ones; if `chosen` names another class, it replaces them entirely.

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
    """Return a copy with tuples as lists; raise ValueError for values that JSON lacks and for nested class paths."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_json(item, name, place) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) and "class_path" not in value:
        return {key: _json(item, name, place) for key, item in value.items()}
    raise ValueError(f"{name} must hold only numbers, texts, lists and mappings; got {value!r}{place}.")


def _hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class's arguments; empty if they cannot be evaluated."""
    try:
        return get_type_hints(cls.__init__)
    except NameError:
        return {}


def _fits(value: Any, annotation: Any) -> bool:
    """Check a JSON value against an annotation; annotations without a JSON counterpart accept any value."""
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
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
