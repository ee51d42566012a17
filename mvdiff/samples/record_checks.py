"""Validation of `sample.json`, run once when it is read."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, NoReturn

from mvdiff.samples.ids import check_id

_TOO_LARGE = 1e12  # no angle, position or focal length reaches this
_MAX_SIDE = 1 << 16


def check_record(values: Mapping[str, Any], where: str) -> None:
    """Check the fields of a `mvdiff.samples.SampleRecord`, given as parsed JSON.

    Args:
        values: The fields; `sample_id` and `prompts` are required.
        where: File named in errors.

    Raises:
        ValueError: A field has the wrong type or contradicts another.

    Example:
        >>> check_record({"sample_id": "room", "prompts": ["a sofa"], "seed": "a"}, "room/sample.json")
        Traceback (most recent call last):
        ...
        ValueError: seed must be a whole number or null; got 'a', in room/sample.json. Correct it, or generate ...
    """
    sample_id, prompts, seed = values["sample_id"], values["prompts"], values.get("seed")
    if not (isinstance(sample_id, str) and sample_id):
        _refuse("sample_id", "a non-empty text", sample_id, where)
    check_id(sample_id, where)
    if not (_is_list(prompts) and all(isinstance(prompt, str) for prompt in prompts)):
        _refuse("prompts", "a list of texts, one per view", prompts, where)
    if seed is not None and not _is_whole(seed):
        _refuse("seed", "a whole number or null", seed, where)
    for name in ("settings", "versions"):
        if not isinstance(values.get(name, {}), Mapping):
            _refuse(name, "an object", values[name], where)
    for name in ("frames", "key_frames"):
        numbers = values.get("settings", {}).get(name)
        if numbers is not None and not (
            isinstance(numbers, list) and all(isinstance(number, str) or _is_whole(number) for number in numbers)
        ):
            _refuse(f"settings.{name}", "a list of frame numbers or names", numbers, where)
    for name, check in (("rig", _check_rig), ("cameras", _check_cameras)):
        described = values.get(name)
        if described is None:
            continue
        if not isinstance(described, Mapping) or not {"views", "height", "width"} <= set(described):
            _refuse(name, "an object with views, height and width, or null", described, where)
        for side in ("height", "width"):
            if not (_is_whole(described[side]) and 1 <= described[side] <= _MAX_SIDE):
                _refuse(f"{name}.{side}", f"a whole number of pixels, from 1 to {_MAX_SIDE}", described[side], where)
        if not _is_list(described["views"]):
            _refuse(f"{name}.views", "a list with one entry per view", described["views"], where)
        check(described, where)
        if len(described["views"]) != len(prompts):
            _refuse("prompts", f"one text per view of {name} ({len(described['views'])})", len(prompts), where)


def _check_rig(rig: Mapping[str, Any], where: str) -> None:
    if set(rig) != {"views", "height", "width"}:
        _refuse("rig", "an object with only views, height and width", sorted(rig), where)
    for i, view in enumerate(rig["views"]):
        if not (_is_vector(view) and 0 < view[2] < 180):
            _refuse(f"rig.views[{i}]", "[yaw, pitch, fov] in degrees, with 0 < fov < 180", view, where)


def _check_cameras(cameras: Mapping[str, Any], where: str) -> None:
    views = cameras["views"]
    for i, view in enumerate(views):
        name = f"cameras.views[{i}]"
        if not isinstance(view, Mapping):
            _refuse(name, "an object with K and R", view, where)
        for key in ("K", "R"):
            rows = view.get(key)
            if not (_is_list(rows) and len(rows) == 3 and all(map(_is_vector, rows))):
                _refuse(f"{name}.{key}", "three rows of three numbers", rows, where)
        if not (view["K"][0][0] > 0 and view["K"][1][1] > 0):
            _refuse(f"{name}.K", "intrinsics with positive focal lengths", view["K"], where)
        if view.get("t") is not None and not _is_vector(view["t"]):
            _refuse(f"{name}.t", "three numbers, or null", view["t"], where)
    placed = sum(view.get("t") is not None for view in views)
    if placed not in (0, len(views)):
        raise ValueError(
            f"cameras.views must have t for every view or for none; got {placed} of {len(views)}, in {where}."
        )


def _refuse(name: str, requirement: str, got: object, where: str) -> NoReturn:
    raise ValueError(
        f"{name} must be {requirement}; got {reprlib.repr(got)}, in {where}. Correct it, or generate the sample again."
    )


def _is_list(value: object) -> bool:
    return isinstance(value, list) and len(value) > 0


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_TOO_LARGE < value < _TOO_LARGE
