"""Names of settings that have changed: an old one is one error that says the new one.

Only settings of mvdiff's own classes count; a user's class may call its arguments what it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mvdiff.files.text import read_yaml_mapping

_ATTENTION = "model.adapter.attention.init_args"
RENAMED_SETTINGS = {
    "model.kernel_size": f"{_ATTENTION}.kernel_size",
    "model.head_dim": f"{_ATTENTION}.head_dim",
    "model.wavelengths": f"{_ATTENTION}.wavelengths",
    "model.min_overlap": f"{_ATTENTION}.min_overlap",
    "model.neighbours": f"{_ATTENTION}.neighbours",
    "model.mid_place": "model.adapter.mid_place",
    "model.residual": "model.adapter.residual",
    "model.image_condition": "model.adapter.image_condition",
    "model.num_inference_steps": "model.sampling.num_inference_steps",
    "model.guidance_scale": "model.sampling.guidance_scale",
    "model.cache_dir": "model.cache.dir",
    "model.cache_latents": "model.cache.latents",
    "model.gradient_checkpointing": "model.memory.gradient_checkpointing",
    "model.views_per_chunk": "model.memory.views_per_chunk",
    "model.vae_slicing": "model.memory.vae_slicing",
    "model.output_dir": "model.output.dir",
    "model.overwrite": "model.output.overwrite",
    "model.test_metrics": "model.output.metrics",
    "model.evaluation": "model.output.evaluation",
    "model.add_depth_input": "model.add_input",
    "model.add_inpainting_input": "model.add_input",
    "data.prompt_prefix": "model.prompt_prefix",
}
"""Old key -> new key, both without the `init_args` of model and data."""

_MULTI_VIEW, _SINGLE_VIEW = "mvdiff.training.multi_view.MultiViewModule", "mvdiff.training.single_view.SingleViewModule"
RENAMED_CLASSES = {
    "mvdiff.training.depth.DepthMultiViewModule": f"{_MULTI_VIEW} with model.task: depth",
    "mvdiff.training.outpaint.OutpaintMultiViewModule": f"{_MULTI_VIEW} with model.task: outpaint",
    "mvdiff.training.depth.DepthSingleViewModule": f"{_SINGLE_VIEW} with model.task: depth",
    "mvdiff.training.inpainting.InpaintingSingleViewModule": f"{_SINGLE_VIEW} with model.task: outpaint",
}
"""Old class path of the model -> what to write now."""


def check_names(arguments: Sequence[str]) -> None:
    """Raise ValueError where arguments of `mvdiff fit`, or YAML files among them, use old names; it gives the new.

    Files are those after `--config`; see `mvdiff.cli.config_files.with_config_paths` for other ways to name them.
    """
    given = list(_given(arguments))
    classes = {section: "mvdiff." for section in ("model", "data")}
    for key, value, _ in given:
        if key in (*classes, *(f"{section}.class_path" for section in classes)) and isinstance(value, str):
            classes[key.split(".")[0]] = value
    changes: dict[str, None] = {}
    for key, value, where in given:
        section = key.split(".")[0]
        if not classes.get(section, "").startswith("mvdiff."):
            continue
        if isinstance(value, str) and value in RENAMED_CLASSES:
            changes[f"{section}: {value} is now {RENAMED_CLASSES[value]}, {where}"] = None
        old = next((old for old in RENAMED_SETTINGS if f"{key}.".startswith(f"{old}.")), None)
        if old is not None:
            changes[f"{old} is now {RENAMED_SETTINGS[old]}, {where}"] = None
    if changes:
        raise ValueError(f"renamed settings: {'; '.join(changes)}.")


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, Any, str]]:
    """List (key without `init_args`, value, where it stands) of all settings, in order."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        value = value if equals else following
        if name == "--config":
            yield from _settings_of(Path(value))
        elif name.startswith("--"):
            yield _plain_key(name[2:]), value, "on the command line"


def _settings_of(path: Path) -> Iterator[tuple[str, Any, str]]:
    if not path.is_file():
        return  # the parser says so
    for key, value in _flat("", read_yaml_mapping(path)):
        yield _plain_key(key), value, f"in {path}"


def _flat(prefix: str, values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _flat(f"{prefix}.{name}" if prefix else str(name), value)
    else:
        yield prefix, values


def _plain_key(key: str) -> str:
    section, _, rest = key.partition(".")
    return f"{section}.{rest.removeprefix('init_args.')}" if rest else section


RENAMED_OPTIONS = {
    "generate depth": {"--real": "--reference"},
    "generate dataset": {"--real": "--reference"},
    "mesh": {"--size": "--height and --width"},
    "data check": {"--num_threads": "--num_workers"},
    "data import-sens": {"--frame_skip": "--every"},
    "data keyframes": {"--min_depth": "--min_depth_share"},
    "quickstart depth": {"--adapter": "--init_adapter"},
    "quickstart outpaint": {
        "--adapter": "--init_adapter",
        "--fov_deg": "--fov",
        "--yaw_deg": "--yaw",
        "--pitch_deg": "--pitch",
    },
}
"""Command -> old option -> new option."""
