"""Protocols: every value that changes a number of an evaluation, with one hash over all of them. Free of torch.

A protocol is a YAML file (`mvdiff.eval.protocol_files` reads it). Each value either sets something (metrics, settings,
`data.split`) or is checked (`mvdiff.eval.deviations`): nothing in it is for information alone. null means that a value
is recorded with the results, but not demanded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from mvdiff.eval.settings import FREE, EvaluationSettings, SettingError

CUSTOM = "custom"
"""Id of an evaluation without a protocol."""
SPLIT = "split"
"""Option of `mvdiff evaluate` that `data.split` sets."""


@dataclass(frozen=True, kw_only=True)
class DataRule:
    """The data set."""

    split: Literal["train", "val", "test"] = "test"
    """split that --config reads; sets --split"""
    ids: str | None = None
    """regular expression that the whole id of every sample matches; tells data sets apart"""
    prompts_hash: str | None = None
    """SHA-256 of the prompts of the generated samples, see `mvdiff.eval.provenance.prompts_hash`"""
    yaw: float = 0.0
    """turn of the rig in degrees to the right, with which the cameras of the samples are compared"""
    manifest: bool = False
    """whether a file of hashes (--manifest) must name the reference, for data that each user brings"""


@dataclass(frozen=True, kw_only=True)
class ImageRule:
    """Views and counts, compared with every sample on both sides."""

    num_samples: int | None = None
    """generated samples"""
    num_reference_samples: int | None = None
    """samples of the reference"""
    num_views: int | None = None
    """views per sample"""
    height: int | None = None
    """height of the views in pixels"""
    width: int | None = None
    """width of the views in pixels"""
    rig: tuple[tuple[float, float, float], ...] | None = None
    """[yaw, pitch, horizontal field of view] of each view in degrees; null: each sample has cameras of its own"""


@dataclass(frozen=True, kw_only=True)
class SamplingRule:
    """Sampling, compared with what `sample.json` records; samples without a seed were not sampled and pass."""

    seed: int | None = None
    """random seed"""
    num_inference_steps: int | None = None
    """denoising steps"""
    guidance_scale: float | None = None
    """classifier-free guidance scale"""
    eta: float | None = None
    """noise added by DDIM"""
    negative_prompt: str | None = None
    """negative prompt; "" is none"""
    prompt_prefix: str | None = None
    """text before every prompt; null in sample.json passes: the method has one text for all views"""
    scheduler: str | None = None
    """class of the scheduler"""
    precision: str | None = None
    """precision of the model's weights and of autocast, as sample.json records it: float32"""


@dataclass(frozen=True, kw_only=True)
class IntervalRule:
    """Rule of intervals over samples, compared with that of the installed version (`mvdiff.eval.intervals`)."""

    level: float = 0.95
    """confidence level"""
    none_below: int = 8
    """fewest samples with an interval"""
    bootstrap_from: int = 30
    """fewest samples with a percentile bootstrap; below it Student's t"""


@dataclass(frozen=True, kw_only=True)
class NumberRule:
    """How one number must have been measured, compared with its entry in the results."""

    model: str | None = None
    """name of the network or of the geometry; a name in brackets may follow it in the results"""
    weights_hash: str | None = None
    """first hex digits of the SHA-256 of the network's weights"""
    variant: str | None = None
    """the fixed parts of the measurement: rounding, resizing, antialiasing, pairs, averages, splits, estimator"""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol.

    Raises:
        SettingError: A value is out of range or contradicts another.
    """

    id: str
    """name of the file without its ending; not part of the hash"""
    title: str
    """one line for lists; not part of the hash"""
    task: Literal["panorama", "outpaint", "depth"]
    """kind of the samples: views that share a centre, views with given pixels, or views with depth"""
    data: DataRule = field(default_factory=DataRule)
    """the data set"""
    images: ImageRule = field(default_factory=ImageRule)
    """views and counts"""
    order: Literal["sample_id"] = "sample_id"
    """order of samples in every number, also before the Inception Score's seeded shuffle"""
    sampling: SamplingRule = field(default_factory=SamplingRule)
    """sampling of the generated views"""
    metrics: tuple[Any, ...]
    """metrics, as --metrics takes them"""
    settings: Mapping[str, Any]
    """options of `mvdiff evaluate` that the metrics take, all of them but places of files, device and batch size"""
    intervals: IntervalRule = field(default_factory=IntervalRule)
    """rule of intervals"""
    numbers: Mapping[str, NumberRule] = field(default_factory=dict)
    """how each number must have been measured, by its name in the results"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", _typed_settings(self.settings))
        _check_data(self)
        _check_images(self.images)
        if not self.metrics or not all(map(_is_metric, self.metrics)):
            raise SettingError(
                f"metrics must be names, or class_path and init_args of JSON values; got {self.metrics!r}."
            )
        rule = self.intervals
        if not (0 < rule.level < 1 and 1 <= rule.none_below <= rule.bootstrap_from):
            raise SettingError(
                "intervals must have 0 < level < 1 and 1 <= none_below <= bootstrap_from; got "
                f"{rule.level}, {rule.none_below} and {rule.bootstrap_from}."
            )
        hashes = {f"numbers.{name}.weights_hash": rule.weights_hash for name, rule in self.numbers.items()}
        for name, value in (hashes | {"data.prompts_hash": self.data.prompts_hash}).items():
            if value is not None and not re.fullmatch("[0-9a-f]{1,64}", value):
                raise SettingError(f"{name} must be hex digits of a SHA-256, in lower case; got {value!r}.")

    def values(self) -> dict[str, Any]:
        """Return every value that changes a number, resolved, as JSON values."""
        values = {name: value for name, value in asdict(self).items() if name not in ("id", "title")}
        return json.loads(json.dumps(values, allow_nan=False))

    def hash(self) -> str:
        """Return the SHA-256 of the canonical JSON of `values`, in hex."""
        return values_hash(self.values())


def canonical_json(values: Mapping[str, Any]) -> str:
    """Return values as JSON with sorted keys and no spaces; floats as `repr` writes them.

    >>> canonical_json({"b": (1, 2.0), "a": "ü"})
    '{"a":"ü","b":[1,2.0]}'
    """
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def values_hash(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of `canonical_json` in UTF-8, in hex."""
    return hashlib.sha256(canonical_json(values).encode()).hexdigest()


def apply_protocol(
    protocol: Protocol,
    settings: EvaluationSettings | None = None,
    metrics: Sequence[Any] | None = None,
    typed: Collection[str] | None = None,
) -> EvaluationSettings:
    """Return the settings of a protocol; places of files, device and batch size are those of the user.

    Args:
        protocol: The protocol.
        settings: The user's settings.
        metrics: The user's metrics, or None.
        typed: Names of the options that the user typed; None: those that differ from their defaults.

    Raises:
        SettingError: An option contradicts the protocol; the text names both values.
    """
    settings = settings or EvaluationSettings()
    if metrics is not None and _named(metrics) != _named(protocol.metrics):
        raise _contradiction("metrics", _listed(metrics), protocol, _listed(protocol.metrics))
    defaults = {one.name: one.default for one in fields(EvaluationSettings)}
    chosen = dict(protocol.settings)
    for name, value in protocol.settings.items():
        own = getattr(settings, name)
        is_typed = own != defaults[name] if typed is None else name in typed
        if name == "clip_weights" and own is not None and Path(own).is_file():
            chosen[name] = own  # the place of the weights, whose name and hash stand in the results
        elif is_typed and _plain(own) != _plain(value):
            raise _contradiction(name, own, protocol, value)
    return replace(settings, **chosen)


def check_split(protocol: Protocol, split: str, typed: Collection[str]) -> None:
    """Raise SettingError where the typed option --split contradicts a protocol."""
    if SPLIT in typed and split != protocol.data.split:
        raise _contradiction(SPLIT, split, protocol, protocol.data.split)


def _typed_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check settings as `mvdiff evaluate` does, and return them sorted by name, numbers in their own types."""
    known = {one.name: one.default for one in fields(EvaluationSettings) if one.name not in FREE}
    for name in values:
        if name in FREE:
            raise SettingError(f"settings must not hold {name}, which is the user's: it changes no number.")
        if name not in known:
            raise SettingError(f"settings must be among {', '.join(known)}; got {name!r}.")
    given = {name: _like(known[name], value, f"settings.{name}") for name, value in values.items()}
    try:
        checked = EvaluationSettings(**given)
    except TypeError as error:  # of a text in a pair of views
        raise SettingError(f"settings must be options of mvdiff evaluate; got {values} ({error}).") from error
    return {name: _plain(getattr(checked, name)) for name in sorted(given)}


def _like(default: Any, value: Any, name: str) -> Any:
    """Check that a value has the type of its default, of which None stands for texts and lists of texts."""
    if isinstance(default, int | float):
        kinds = (int, float) if isinstance(default, float) else (int,)
        if not isinstance(value, kinds) or isinstance(value, bool):
            kind = "a number" if float in kinds else "a whole number"
            raise SettingError(f"{name} must be {kind}; got {value!r}.")
        return type(default)(value)
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str | list | None) for one in texts):
        raise SettingError(f"{name} must be a text or a list; got {value!r}.")
    return value


def _check_data(protocol: Protocol) -> None:
    data = protocol.data
    if data.ids is not None:
        try:
            re.compile(data.ids)
        except re.error as error:
            raise SettingError(f"data.ids must be a regular expression; got {data.ids!r} ({error}).") from error
    if data.yaw and protocol.images.rig is None:
        raise SettingError(f"data.yaw must be 0 without images.rig; got {data.yaw}.")


def _check_images(images: ImageRule) -> None:
    for one in fields(images):
        value = getattr(images, one.name)
        if isinstance(value, int) and value < 1:
            raise SettingError(f"images.{one.name} must be at least 1; got {value}.")
    if images.rig is not None and images.num_views != len(images.rig):
        raise SettingError(f"images.num_views must be that of the rig, {len(images.rig)}; got {images.num_views}.")


def _is_metric(metric: Any) -> bool:
    if isinstance(metric, str):
        return True
    if not isinstance(metric, Mapping) or "class_path" not in metric or not set(metric) <= {"class_path", "init_args"}:
        return False
    try:
        return bool(canonical_json(dict(metric)))
    except (TypeError, ValueError):  # YAML also has dates and NaN
        return False


def _named(metrics: Sequence[Any]) -> list[str]:
    """Return metrics in a form that does not depend on their order or spelling."""
    whole = [{"class_path": one} if isinstance(one, str) else dict(one) for one in metrics]
    return sorted(canonical_json({"init_args": {}} | one) for one in whole)


def _listed(metrics: Sequence[Any]) -> str:
    return ", ".join(one if isinstance(one, str) else str(one["class_path"]) for one in metrics)


def _plain(value: Any) -> Any:
    """Return a value with lists in place of tuples, as YAML and JSON have them."""
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _contradiction(name: str, own: Any, protocol: Protocol, value: Any) -> SettingError:
    return SettingError(
        f"--{name} must be that of --protocol {protocol.id}, {value}; got {own}. Leave out one of the two options."
    )
