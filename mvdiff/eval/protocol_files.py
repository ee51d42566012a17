"""Find protocols and read their YAML files. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from mvdiff.eval.protocol import CUSTOM, Protocol
from mvdiff.eval.settings import SettingError
from mvdiff.files.paths import expanded
from mvdiff.files.text import read_yaml_mapping

_PACKAGED = Path(__file__).parent / "protocols"
_ENDINGS = (".yaml", ".yml")
_KINDS = {str: "a text", int: "a whole number", bool: "true or false"}


def protocol_ids() -> list[str]:
    """Return the ids of the packaged protocols, sorted."""
    return sorted(path.stem for path in _PACKAGED.glob("*.yaml"))


def read_protocol(name: str | Path) -> Protocol:
    """Read a packaged protocol by its id, or a protocol in a YAML file by its path.

    Raises:
        SettingError: There is no such protocol, a value is wrong, or a file has the id of a packaged protocol with
            other values.
        ValueError: The file is not YAML.

    Example:
        >>> read_protocol("mvdiffusion-pano-v1").images.num_samples
        1092
    """
    if str(name) in protocol_ids():
        return _read(_PACKAGED / f"{name}.yaml")
    path = expanded(name)
    if not path.is_file():
        close = get_close_matches(str(name), protocol_ids(), n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise SettingError(
            f"protocol must be one of {', '.join(protocol_ids())}, or a YAML file; got {str(name)!r}{hint}."
        )
    if path.suffix.lower() not in _ENDINGS:
        raise SettingError(f"a protocol's file must end in .yaml; got {path}.")
    protocol = _read(path)
    if protocol.id == CUSTOM:
        raise SettingError(f"a protocol's file must not be called {CUSTOM}, which means no protocol; got {path}.")
    if protocol.id in protocol_ids() and protocol.hash() != read_protocol(protocol.id).hash():
        raise SettingError(
            f"a protocol with values of its own must have a name of its own; got those of a file other than the "
            f"packaged {protocol.id}, in {path}. Rename the file."
        )
    return protocol


def protocol_from(values: Mapping[str, Any], protocol_id: str) -> Protocol:
    """Build a protocol from the values of its file.

    Raises:
        SettingError: A field is unknown or missing, or a value is wrong.
    """
    if "id" in values:
        raise SettingError(f"id must be left out, since the name of the file is the id; got {values['id']!r}.")
    return _built(Protocol, {"id": protocol_id, **values}, "")


def _read(path: Path) -> Protocol:
    try:
        return protocol_from(read_yaml_mapping(path), path.stem)
    except SettingError as error:
        raise SettingError(f"{str(error).rstrip('.')}, in {path}.") from error


def _built(kind: type, values: Any, name: str) -> Any:
    """Build a dataclass from a mapping, with every value of the declared type."""
    if not isinstance(values, Mapping):
        _refuse(name, "fields and values", values)
    hints, before = get_type_hints(kind), f"{name}." if name else ""
    for key in values:
        if key not in hints:
            raise SettingError(f"{before or 'a protocol: '}{key} is not a field; there are {', '.join(hints)}.")
    for one in fields(kind):
        if one.default is MISSING and one.default_factory is MISSING and one.name not in values:
            raise SettingError(f"{before}{one.name} must be given; got nothing.")
    return kind(**{key: _typed(hints[key], value, f"{before}{key}") for key, value in values.items()})


def _typed(hint: Any, value: Any, name: str) -> Any:
    if get_origin(hint) in (Union, UnionType):
        if value is None:
            return None
        hint = next(one for one in get_args(hint) if one is not NoneType)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _built(hint, value, name)
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Literal:
        return value if isinstance(value, str) and value in parts else _refuse(name, " or ".join(parts), value)
    if kind is tuple:
        if not isinstance(value, list) or (parts[-1] is not Ellipsis and len(parts) != len(value)):
            _refuse(name, "a list" if parts[-1] is Ellipsis else f"a list of {len(parts)}", value)
        items = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_typed(item, one, f"{name}[{i}]") for i, (item, one) in enumerate(zip(items, value, strict=True)))
    if kind is not None:  # a mapping from texts
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            _refuse(name, "fields and values", value)
        return {key: _typed(parts[1], one, f"{name}.{key}") for key, one in value.items()}
    if hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
        return float(value) if is_number else _refuse(name, "a finite number", value)
    fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    return value if fits else _refuse(name, _KINDS[hint], value)


def _refuse(name: str, requirement: str, value: Any) -> NoReturn:
    raise SettingError(f"{name or 'a protocol'} must be {requirement}; got {value!r}.")
