"""Run a recipe: world, trainings, samples of every method, scores, page; each step is announced and timed."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mvdiff.data.toyworld import write_toyworld
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import library_versions
from mvdiff.recipes.compared import reference_methods, sampled_methods
from mvdiff.recipes.fit_command import RunTrainer
from mvdiff.recipes.page import print_tables
from mvdiff.recipes.precision import autocast
from mvdiff.recipes.recipe import Outcome, Recipe
from mvdiff.report import Page, report_sections, write_page
from mvdiff.samples import write_json


class Clock:
    """Announce each step and remember how long it took: seconds, and CPU seconds of this process and its children."""

    def __init__(self) -> None:
        self.console = Console()
        self.started = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step."""
        self.console.print(f"[bold]{name}[/bold]")
        start, cpu_start = time.monotonic(), cpu_seconds()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.cpu_seconds[name] = round(cpu_seconds() - cpu_start, 1)

    @property
    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def __str__(self) -> str:
        """Every step, and all of it."""
        steps = [f"{name}: {took:.0f} s (CPU {self.cpu_seconds[name]:.0f} s)" for name, took in self.seconds.items()]
        return f"{', '.join(steps)}; {self.total:.0f} s in all (CPU {cpu_seconds():.0f} s)"


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def run_recipe(recipe: Recipe, run_trainer: RunTrainer) -> Path:
    """Make data, train, generate, score and report.

    Args:
        recipe: The experiment.
        run_trainer: Runs `mvdiff fit|validate` with the given arguments.

    Returns:
        The path of `report.html`; `results.json`, samples, runs and data lie beside it.

    Raises:
        ValueError: Settings that cannot work.
        FileNotFoundError: A base or an adapter of the settings is not there.
        OSError: The folder cannot be written.
    """
    settings, clock, outcome = recipe.settings, Clock(), Outcome()
    recipe.check()
    with clock.step(recipe.text(recipe.making_world)):
        rooms = {name: getattr(settings, name) for name in ("rooms", "test_rooms", "seed", "num_workers")}
        write_toyworld(settings.out / "data", **rooms, **recipe.world())
        recipe.held_out()  # an error in the settings shows before anything is trained
    for step, trainings in recipe.trainings().items():
        with clock.step(step):
            for training in trainings:
                run = training.run(settings, run_trainer)
                if training.command == "validate":
                    outcome.before = {name: run.last(name) for name in ("val/loss", "val/overlap_psnr")}
                else:
                    outcome.runs.append(run)
    pipeline = MultiViewPipeline.from_pretrained(outcome.runs[-1].folder / "model")
    pipeline.set_progress_bar_config(disable=True)
    for method in sampled_methods(pipeline, settings.batch_size):
        with clock.step(f"{recipe.text(recipe.making)}: {method.name}"), autocast(settings.precision):
            recipe.write(method)
    for step, make in recipe.more_samples(pipeline).items():
        with clock.step(step), autocast(settings.precision):
            make()
    with clock.step("scoring"):
        for method in reference_methods(pipeline):
            recipe.write(method)
        recipe.score(outcome)
    for step, make in recipe.more_steps(outcome).items():
        with clock.step(step):
            make()
    facts = facts_of(recipe, f"{recipe.text(recipe.base)}, weights {pipeline.base.weights_hash[:12]}", clock)
    report = write_report(recipe, outcome, facts)
    write_json(settings.out / "results.json", results_of(recipe, outcome, clock))
    print_tables(recipe.tables(outcome), [*recipe.sentences(outcome), *recipe.story(outcome)])
    clock.console.print(f"{clock.total:.0f} s; open {report}")
    return report


def results_of(recipe: Recipe, outcome: Outcome, clock: Clock) -> dict[str, Any]:
    """Return the content of `results.json`."""
    return {
        "settings": dataclasses.asdict(recipe.told) | {"out": str(recipe.told.out)},
        "scores": _plain(outcome.scores),
        **_plain(outcome.more),
        "curves": {run.name: run.curves for run in outcome.runs},
        "seconds": clock.seconds,
        "cpu_seconds": clock.cpu_seconds,
        "machine": machine(),
    }


def write_report(recipe: Recipe, outcome: Outcome, facts: Mapping[str, object]) -> Path:
    """Write `report.html`; return its path."""
    shown = recipe.sections(outcome) | outcome.shown
    sections = report_sections(tables=recipe.tables(outcome), facts=facts, **shown)
    page = Page(recipe.title, [*recipe.sentences(outcome), *recipe.story(outcome)], sections)
    return write_page(recipe.settings.out / "report.html", page)


def machine() -> str:
    """Describe processor, cores and Python."""
    name = torch.cpu.get_capabilities().get("cpu_name", "")
    return f"{name} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}".strip()


def facts_of(recipe: Recipe, base: str, clock: Clock) -> dict[str, str]:
    """Return facts about the run, for the page."""
    described = dataclasses.asdict(recipe.told)
    return {
        "command": recipe.command,
        "settings": ", ".join(f"{key}={value}" for key, value in described.items() if key != "out"),
        "base": base,
        "versions": ", ".join(f"{name} {number}" for name, number in library_versions().items()),
        "machine": machine(),
        "time": str(clock),
    }


def _plain(value: Any) -> Any:
    """Turn intervals into dictionaries, for JSON."""
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, Mapping) else value
