"""The rows of the ablations: everything that is finished in a folder, whichever process made it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean

import torch
from torch import Tensor

from mvdiff.eval.comparability import read_results
from mvdiff.eval.realnet import realnet_extractor
from mvdiff.eval.shortcomings import shortcomings
from mvdiff.eval.sources import FolderSource, Source
from mvdiff.files.text import read_json_object
from mvdiff.pipelines.model_folder import load_adapter
from mvdiff.recipes.benchmarks.ablation_makers import makers_of
from mvdiff.recipes.benchmarks.ablation_numbers import PanoramaNumber, SeedMean, difference_over_seeds, over_seeds
from mvdiff.recipes.benchmarks.ablation_runs import ALONE, SCORES, TRUTH, AblationRun, AblationRuns
from mvdiff.recipes.benchmarks.ablation_settings import BASE, VARIANTS, Variant
from mvdiff.recipes.benchmarks.makers import Maker
from mvdiff.recipes.scoring import CONTENT, PSNR
from mvdiff.training.cost import FILE as COST

ZNCC, KERNEL = "overlap_zncc", "realnet_kid"
NUMBERS = (PSNR, ZNCC, KERNEL, CONTENT)
COSTS = ("seconds_per_step", "cpu_seconds_per_step", "peak_memory_bytes")
_TITLES = {TRUTH: "ground truth", ALONE: "base alone"}


@dataclass
class AblationRow:
    """A variant with its finished runs, or a reference.

    Attributes:
        title: Name of the row.
        runs: Finished runs by seed.
        variant: The variant; None for references.
        numbers: Mean over seeds of each number that came out.
        differences: Differences to the base variant; none for itself and for references.
        costs: Mean over seeds of each cost of the training.
        num_parameters: Trained parameters; None for references.
    """

    title: str
    runs: Mapping[int, AblationRun]
    variant: Variant | None = None
    numbers: Mapping[str, SeedMean] = field(default_factory=dict)
    differences: Mapping[str, SeedMean] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    num_parameters: int | None = None


@dataclass
class AblationOutcome:
    """The finished runs of a folder, measured.

    Attributes:
        rows: Variants in their order, then references, by name.
        missing: Reason for each number that did not come out.
        network: Name of the network of the kernel distance, with its weights; "" if it is not there.
        deviations: What runs have other than the protocol, and what their scores lack.
        makers: Names of the runs of each commit and machine; a run of several is named under each.
    """

    rows: dict[str, AblationRow] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    network: str = ""
    deviations: list[str] = field(default_factory=list)
    makers: dict[Maker, list[str]] = field(default_factory=dict)


def read_outcome(runs: AblationRuns) -> AblationOutcome:
    """Measure everything that is finished.

    Raises:
        ValueError: A file of a finished run is damaged.
    """
    return _Reader(runs).read()


class _Reader:
    def __init__(self, runs: AblationRuns) -> None:
        self.runs, self.outcome, self.extractor = runs, AblationOutcome(), None
        try:
            self.extractor = realnet_extractor()
            self.extractor.cache = runs.cache
            self.outcome.network = f"{self.extractor.name} ({self.extractor.weights_hash[:12]})"
        except (ImportError, ValueError) as error:
            self.outcome.missing[KERNEL] = str(error)

    def read(self) -> AblationOutcome:
        rule, rows = self.runs.protocol.settings, self.outcome.rows
        options = {"num_resamples": rule["num_resamples"], "seed": rule["seed"]}
        for variant in VARIANTS:
            rows[variant.name] = AblationRow(variant.title, self._finished(variant), variant)
        for run in self.runs.references:
            rows[run.folder.name] = AblationRow(_TITLES[run.folder.name], {0: run} if run.is_finished else {})
        for name in [name for name, row in rows.items() if not row.runs]:
            del rows[name]
        found = {name: self._measured(row) for name, row in rows.items()}
        base = found.get(BASE, {})
        for name, row in rows.items():
            row.numbers = {metric: over_seeds(by_seed, **options) for metric, by_seed in found[name].items()}
            if row.variant is not None:
                self._add_training(row)
            if row.variant is not None and name != BASE:
                row.differences = {
                    metric: difference_over_seeds(by_seed, base[metric], **options)
                    for metric, by_seed in found[name].items()
                    if metric in base and by_seed.keys() & base[metric].keys()
                }
        return self.outcome

    def _finished(self, variant: Variant) -> dict[int, AblationRun]:
        """Return the finished runs of a variant by seed."""
        folders = (self.runs.out / "runs").glob(f"{variant.name}-*")
        seeds = sorted(int(match[1]) for one in folders if (match := re.fullmatch(rf"{variant.name}-(\d+)", one.name)))
        return {seed: run for seed in seeds if (run := self.runs.run_of(variant, seed)).is_finished}

    def _measured(self, row: AblationRow) -> dict[str, dict[int, PanoramaNumber]]:
        """Return each number of a row by seed; one that a seed lacks is left out, with its reason."""
        found: dict[str, dict[int, PanoramaNumber]] = {metric: {} for metric in NUMBERS}
        for seed, run in row.runs.items():
            for maker in makers_of(run):
                self.outcome.makers.setdefault(maker, []).append(run.folder.name)
            scores = read_results(run.folder / SCORES)
            self.outcome.deviations += [f"{run.folder.name}: {line}" for line in shortcomings(scores)]
            for metric in (PSNR, ZNCC, CONTENT):
                entry = scores["metrics"].get(metric, {"missing": "it is not among the protocol's numbers"})
                if "per_sample" in entry:
                    found[metric][seed] = PanoramaNumber.of_values(entry["per_sample"])
                else:
                    self.outcome.missing[metric] = entry["missing"]
            if self.extractor is not None and run.folder.name != TRUTH:  # its distance to itself says nothing
                features = self._features(FolderSource(run.samples))
                found[KERNEL][seed] = PanoramaNumber.of_features(features, self._real)
        return {metric: by_seed for metric, by_seed in found.items() if len(by_seed) == len(row.runs)}

    def _add_training(self, row: AblationRow) -> None:
        """Add costs and parameters of a variant's trainings."""
        costs = [read_json_object(run.train / COST) for run in row.runs.values()]
        row.costs = {cost: fmean(one[cost] for one in costs) for cost in COSTS}
        adapter = load_adapter(next(iter(row.runs.values())).model)
        row.num_parameters = sum(parameter.numel() for parameter in adapter.parameters())

    @cached_property
    def _real(self) -> Tensor:
        return torch.cat(list(self._features(self.runs.reference).values()))

    def _features(self, source: Source) -> dict[str, Tensor]:
        """Return the features [V, D] by sample id, each computed once for all runs of the command."""
        features = {sample.sample_id: self.extractor.of_sample(sample)[0] for sample in source}
        self.runs.cache.flush()
        return features
