"""Find the models of a row before any work, and say where a missing one comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from mvdiff.models.backbone import base_parts
from mvdiff.models.controlnet import controlnet_location
from mvdiff.models.loading import PACKAGED
from mvdiff.models.weight_files import weight_files
from mvdiff.pipelines.model_folder import model_location, read_model_info
from mvdiff.recipes.benchmarks.settings import BenchmarkSettings
from mvdiff.recipes.benchmarks.table import MethodRow, ModelPart

_WITH_WEIGHTS = ("unet", "text_encoder", "vae")


def missing_models(row: MethodRow, settings: BenchmarkSettings) -> list[str]:
    """Return a sentence for each model of a row that is not there: its option, what is wrong, where it comes from.

    Models on the hub are downloaded unless the libraries are offline.
    """
    chosen, parts = row.chosen(settings), row.parts.get(settings.size, {})
    return [line for place, part in parts.items() if (line := _missing(place, part, chosen[place])) is not None]


def _missing(place: str, part: ModelPart, name: str | None) -> str | None:
    if name is None:
        return f"--{part.option} must be given: {part.source}"
    try:
        _FIND[place](name)
    except (FileNotFoundError, ValueError) as error:
        if name.startswith(PACKAGED):  # of a version that does not have it
            return f"{part.source}, then --{part.option} FOLDER"
        return f"--{part.option}: {str(error).rstrip('.')} ({part.source})"
    return None


def _check_model(name: str) -> None:
    folder = model_location(name)
    info = read_model_info(folder)
    _need_weights("model", folder / "adapter")
    _check_base(info.base.id, info.base.revision)


def _check_base(name: str, revision: str | None = None) -> None:
    for part, folder in base_parts(name, revision).items():
        if part in _WITH_WEIGHTS:
            _need_weights(f"base, {part}", folder)


def _check_controlnet(name: str) -> None:
    _need_weights("controlnet", controlnet_location(name))


def _need_weights(what: str, folder: Path) -> None:
    if not weight_files(folder)[1]:
        raise FileNotFoundError(f"{what} must be a folder with weights; got none, in {folder}.")


_FIND: Mapping[str, Callable[[str], None]] = {
    "model": _check_model,
    "base": _check_base,
    "controlnet": _check_controlnet,
}
"""How a model is looked for, by its field in `mvdiff.methods.parts.Parts`."""
