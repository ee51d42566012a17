"""Recipe: what is made, trained, compared and shown; `mvdiff.recipes.runner.run_recipe` runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.files.sharing import shared_name
from mvdiff.geometry.cameras import Rig
from mvdiff.methods.method import Method, write_method
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.recipes.compared import CAA, CONTROLS, FOLDERS, METHODS, REFERENCES
from mvdiff.recipes.fit_command import Run, Training
from mvdiff.recipes.page import opened, table_of
from mvdiff.recipes.precision import chosen_precision
from mvdiff.recipes.scoring import Number, Pass, Results, compare, evaluation_settings, verdict
from mvdiff.recipes.settings import RecipeSettings
from mvdiff.report import Table
from mvdiff.samples import Sample
from mvdiff.settings import Sampling

SHOWN = 6
Steps = dict[str, Callable[[], Any]]
"""Functions still to run, by step name."""


@dataclass
class Outcome:
    """Results of a recipe so far.

    Attributes:
        runs: Finished trainings, in order; the last one's model is compared.
        before: Last values of a fresh adapter, by metric: those of the base.
        scores: Scores of `mvdiff.recipes.scoring.compare`, counts, and the recipe's own entries.
        more: Further measurements, by their keys in `results.json`.
        shown: Further arguments of `mvdiff.report.report_sections`.
    """

    runs: list[Run] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    shown: dict[str, Any] = field(default_factory=dict)


class Recipe(ABC):
    """Description of an experiment: a world, trainings, methods, metrics, and the texts of its page.

    Texts are templates: `{s.rooms}` is a setting, and in notes of tables `{num_views}` is an entry of the scores.

    Attributes:
        command: Command that runs the recipe.
        title: Heading of the page.
        base: Name of the base.
        layout: Folder of the toy world that holds the data.
        rig: Views, if they form a rig.
        making_world: Name of the step that draws the world.
        making: Name of the step that generates samples; the method's name is appended.
        unit: Name of samples in `results.json`.
        numbers: Columns of the table of methods.
        differences: Columns of the table of differences to the base: the toy FID and per-sample numbers.
        content: Key of the number that measures agreement with captions, and its name in a sentence.
        tables_say: (title, note) of the table of methods and of the table of differences.

    Args:
        settings: Sizes and seeds; the precision "auto" is resolved for this processor.
    """

    command: ClassVar[str]
    title: ClassVar[str]
    base: ClassVar[str] = "{s.base}"
    layout: ClassVar[str]
    rig: ClassVar[Rig | None] = None
    making_world: ClassVar[str]
    making: ClassVar[str]
    unit: ClassVar[str]
    numbers: ClassVar[Sequence[Number]]
    differences: ClassVar[Sequence[Number]]
    content: ClassVar[tuple[str, str]]
    tables_say: ClassVar[tuple[tuple[str, str], tuple[str, str]]]

    def __init__(self, settings: RecipeSettings) -> None:
        self.settings = settings = replace(settings, precision=chosen_precision(settings.precision))
        self.data_root = settings.out / "data" / self.layout
        self.sampling = Sampling(
            num_inference_steps=settings.num_inference_steps, guidance_scale=settings.guidance_scale
        )

    @property
    def told(self) -> RecipeSettings:
        """Settings as pages and results tell them: without absolute paths."""
        names = {field.name for field in fields(self.settings)} & {"base", "init_adapter"}
        named = {name: shared_name(getattr(self.settings, name)) for name in names}
        return replace(self.settings, out=Path(shared_name(self.settings.out)), **named)

    def text(self, template: str, **values: Any) -> str:
        """Fill in a template; settings that are paths are told by their names."""
        return template.format(s=self.told, **values)

    def check(self) -> None:  # noqa: B027 (nothing to check is a fine default)
        """Raise an error if the settings cannot work, before anything is made."""

    @abstractmethod
    def world(self) -> dict[str, Any]:
        """Return the arguments of `write_toyworld` other than rooms and seed."""

    @abstractmethod
    def trainings(self) -> dict[str, list[Training]]:
        """Return the trainings by step name; a "validate" measures a fresh adapter."""

    @abstractmethod
    def held_out(self) -> Sequence[Mapping[str, Any]]:
        """Return the held-out samples in the form that `MultiViewBatch.collate` takes."""

    def batches(self, samples: Sequence[Mapping[str, Any]] | None = None) -> list[MultiViewBatch]:
        """Return samples, by default the held-out ones, in batches of `batch_size`."""
        samples, size = list(self.held_out() if samples is None else samples), self.settings.batch_size
        return [MultiViewBatch.collate(samples[start : start + size]) for start in range(0, len(samples), size)]

    def folder(self, method: str) -> Path:
        """Return the folder of a method's samples."""
        return self.settings.out / "samples" / FOLDERS[method]

    def write(
        self, method: Method, batches: Sequence[MultiViewBatch] | None = None, out: str | Path | None = None
    ) -> None:
        """Write a method's samples of the given batches, by default the held-out ones."""
        batches, out = batches or self.batches(), out or self.folder(method.name)
        write_method(method, batches, out, self.sampling, seed=self.settings.seed, rig=self.rig, overwrite=True)

    def more_samples(self, pipeline: MultiViewPipeline) -> Steps:
        """Return further steps that generate samples, by name."""
        return {}

    @abstractmethod
    def passes(self) -> list[Pass]:
        """Return pairs of metrics and the real views to compare with; the toy FID uses those of the first pair."""

    def evaluation(self) -> EvaluationSettings:
        """Return the settings of the scores."""
        return evaluation_settings(self.settings.seed)

    def score(self, outcome: Outcome) -> Results:
        """Score all samples; return the results of `evaluate` by method."""
        out, folders = self.settings.out / "scores", {method: self.folder(method) for method in METHODS}
        how = self.evaluation()
        outcome.scores, results = compare(folders, self.passes(), how, self.numbers, self.differences, out)
        outcome.scores[f"num_{self.unit}"] = results[CAA]["generated"]["num_samples"]
        outcome.scores[f"num_reference_{self.unit}"] = results[CAA]["reference"]["num_samples"]
        return results

    def more_steps(self, outcome: Outcome) -> Steps:
        """Return further steps after scoring, by name."""
        return {}

    def tables(self, outcome: Outcome) -> list[Table]:
        """Return the table of methods and the table of paired differences to the base."""
        scores, (methods, differences) = outcome.scores, self.tables_say
        note = self.text(methods[1], **scores)
        rows = {f"{name} − base": values for name, values in scores["differences"].items()}
        return [
            table_of(methods[0], self.numbers, scores["methods"], note, (*CONTROLS, *REFERENCES)),
            table_of(differences[0], self.differences, rows, differences[1], first="comparison"),
        ]

    def sentences(self, outcome: Outcome) -> list[str]:
        """Describe the results in sentences."""
        return verdict(outcome.scores, *self.content)

    @abstractmethod
    def story(self, outcome: Outcome) -> list[str]:
        """Describe in sentences which weights made the samples and what the trainings reached."""

    @abstractmethod
    def sections(self, outcome: Outcome) -> dict[str, Any]:
        """Return charts, galleries and viewer entries of the page, as `report_sections` takes them."""

    def rooms(self) -> list[dict[str, Sample]]:
        """Open the first held-out samples, each by method."""
        return opened({method: self.folder(method) for method in METHODS}, SHOWN)
