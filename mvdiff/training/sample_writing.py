"""Output of `mvdiff test` and `mvdiff predict`: generated and real views, and scores."""

from __future__ import annotations

import logging
import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from torch import distributed as dist

from mvdiff.batch import MultiViewBatch
from mvdiff.class_paths import resolve_class
from mvdiff.eval.metric import SampleMetric
from mvdiff.eval.metric_specs import MetricSpec
from mvdiff.eval.metrics import metric_names
from mvdiff.eval.processes import gather_objects, new_cpu_group
from mvdiff.eval.protocol import Protocol, apply_protocol
from mvdiff.eval.protocol_files import read_protocol
from mvdiff.eval.results_file import flat_numbers, write_results
from mvdiff.eval.runner import DEFAULT_METRICS, evaluate
from mvdiff.eval.scoring import Progress
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import FolderSource
from mvdiff.methods import method_class, method_names
from mvdiff.methods.method import Method, write_method
from mvdiff.methods.parts import Parts, WrongPart
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.sample_folders import write_reference
from mvdiff.samples import sample_folder
from mvdiff.settings import Sampling, settings_from
from mvdiff.training.evaluation_watch import EvaluationWatch
from mvdiff.training.progress import TrainingProgressBar
from mvdiff.training.run_folder import run_folder
from mvdiff.training.settings import OutputSettings
from mvdiff.training.sharded_weights import is_sharded
from mvdiff.training.trained_part import TrainedPartModule

_log = logging.getLogger(__name__)


def output_from(value: Any) -> OutputSettings:
    """Return output settings unchanged, or build them from a checkpoint's plain values.

    Raises:
        ValueError: See `settings_from`; or a checkpoint names a class of a metric or method that is not allowed (see
            `resolve_class`).
    """
    if isinstance(value, OutputSettings):
        return value
    output = settings_from(OutputSettings, value)
    if output.method not in method_names():
        resolve_class(output.method, Method, "the checkpoint's settings")
    for metric in output.metrics or ():
        class_path = metric.get("class_path") if isinstance(metric, Mapping) else metric
        if class_path not in metric_names():
            resolve_class(class_path, SampleMetric, "the checkpoint's settings")
    if output.evaluation is None:
        return output
    return replace(output, evaluation=settings_from(EvaluationSettings, output.evaluation))


class SampleWritingModule(TrainedPartModule):
    """Module whose predict loop writes sample folders, and whose test loop scores them against the real views.

    Args:
        seed: Random seed of the samples.
        sampling: Sampling settings.
        output: Output folder and metrics.
    """

    def __init__(self, seed: int, sampling: Sampling, output: OutputSettings) -> None:
        super().__init__()
        self.seed, self.sampling, self.output = seed, sampling, output
        self._tested_ids: list[str] = []
        self.output_folder = Path()
        self._method: Method | None = None
        self._group: Any = None
        """Group of the processes that test together."""

    @abstractmethod
    def pipeline(self) -> MultiViewPipeline:
        """Return the model as a pipeline."""

    def write_generated(self, root: Path, batch: MultiViewBatch) -> None:
        """Generate a batch and write sample folders, without pasting known pixels; complete samples are skipped."""
        how = {"seed": self.seed, "overwrite": self.output.overwrite}
        rig = getattr(self.trainer.datamodule, "rig", None)
        write_method(self.method(), [batch], root, self.sampling, rig=rig, **how)

    def method(self) -> Method:
        """Return the method that makes the samples of this run; the first call opens it.

        Raises:
            ValueError: The method is unknown, is for another task, or needs a part that `output` does not name, or
                does not use one that it names.
        """
        if self._method is None:
            pipeline = self.pipeline()
            kind = method_class(self.output.method, pipeline.task.name)
            try:
                parts = Parts(model=pipeline, base=self.output.base, controlnet=self.output.controlnet)
                parts.check_used(self.output.method, kind.unused_parts)
                self._method = kind.open(parts, pipeline.task)
            except WrongPart as error:
                raise ValueError(str(error).replace(f"--{error.part}", f"model.output.{error.part}", 1)) from error
            for part in self._method.pipelines:
                if part is not pipeline:
                    part.set_progress_bar_config(disable=True)
                    part.to(self.device)
        return self._method

    def write_real(self, root: Path, batch: MultiViewBatch) -> None:
        """Write the real views of a batch as sample folders; complete samples are skipped."""
        rig = getattr(self.trainer.datamodule, "rig", None)
        write_reference(batch, root, rig=rig, overwrite=self.output.overwrite)

    def on_predict_start(self) -> None:
        """Set the output folder; with `fast_dev_run` it is removed when the run ends.

        Raises:
            ValueError: The weights are sharded, as in the process of a training; ranks may generate different numbers
                of samples.
        """
        if is_sharded(self.trained()):
            raise ValueError(
                "test and predict need whole weights on every device; got a sharded module. Load a checkpoint in a "
                "process of its own."
            )
        self._method = None
        if not self.trainer.fast_dev_run:
            self.output_folder = Path(self.output.dir or Path(run_folder(self.trainer)) / "samples")
            return
        made = tempfile.mkdtemp(prefix="mvdiff-") if self.trainer.is_global_zero else None
        self.output_folder = Path(self.trainer.strategy.broadcast(made))

    def on_predict_end(self) -> None:
        """Remove what `fast_dev_run` wrote."""
        if self.trainer.fast_dev_run and self.trainer.is_global_zero:
            shutil.rmtree(self.output_folder)

    def predict_step(self, batch: MultiViewBatch, batch_idx: int) -> list[str]:
        """Generate a batch and write sample folders; complete samples are skipped. Return the ids of the samples."""
        batch = batch.originals()
        if batch is None:
            return []
        self.write_generated(self.output_folder, batch)
        return list(batch.sample_id)

    def on_test_start(self) -> None:
        """Set the output folder, clear the sample ids of the last test, and check the protocol before any work."""
        self.protocol()
        self.on_predict_start()
        self._tested_ids.clear()
        self._group = new_cpu_group()

    def test_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Write generated and real views as sample folders, which are scored when the epoch ends."""
        batch = batch.originals()
        if batch is None:
            return
        self.write_generated(self.output_folder / "generated", batch)
        self.write_real(self.output_folder / "reference", batch)
        self._tested_ids.extend(batch.sample_id)

    def protocol(self) -> Protocol | None:
        """Return the protocol of the test, or None.

        Raises:
            SettingError: There is no such protocol, or `output.evaluation` contradicts it.
        """
        if self.output.protocol is None:
            return None
        protocol = read_protocol(self.output.protocol)
        apply_protocol(protocol, self.output.evaluation)
        return protocol

    def on_test_end(self) -> None:
        """Remove what `fast_dev_run` wrote."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None
        self.on_predict_end()

    def on_test_epoch_end(self) -> None:
        """Score the samples of this test, each rank its share; log every number and write results.json."""
        how = (self.output.metrics or DEFAULT_METRICS, self.output.evaluation, self.protocol())
        tested = gather_objects(self._tested_ids, self._group is not None, self._group)  # waits for all ranks
        sample_ids = set(chain.from_iterable(tested))
        numbers = score_folder(self.output_folder, sample_ids, *how, group=self._group, progress=self._scored)
        if self.trainer.is_global_zero:
            # Nothing is reduced over the ranks: `sync_dist` says that the numbers are already those of all samples.
            scores = {f"test/{name}": value for name, value in numbers.items()}
            self.log_dict(scores, rank_zero_only=True, sync_dist=True)

    def _scored(self, which: str, sample_id: str, total: int) -> None:
        """Tell the callbacks that follow the scoring that one of this rank's samples is read."""
        for callback in self.trainer.callbacks:
            if isinstance(callback, EvaluationWatch | TrainingProgressBar):
                callback.on_sample_scored(self.trainer, which, total)


@dataclass
class RunSource(FolderSource):
    """The samples of one run in a folder that may also have samples of an earlier run.

    Attributes:
        sample_ids: Ids of the samples to use.
    """

    sample_ids: Collection[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        folders = {sample_folder(self.root, sample_id) for sample_id in self.sample_ids}
        self.complete = [folder for folder in self.complete if folder in folders]
        self.incomplete = [folder for folder in self.incomplete if folder in folders]


def score_folder(
    root: Path,
    sample_ids: Collection[str],
    metrics: Sequence[MetricSpec],
    settings: EvaluationSettings | None,
    protocol: Protocol | None = None,
    group: Any = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Score samples of `root/generated` against `root/reference`, write `root/results.json` and return the numbers.

    A protocol takes the place of `metrics`; every deviation from it is logged. With a `group` of processes
    (`new_cpu_group`), each of them measures its share of the samples; all must call this, and the first one writes.
    `progress` is that of `evaluate`.
    """
    generated, reference = (RunSource(root / name, sample_ids=sample_ids) for name in ("generated", "reference"))
    distributed = group is not None
    for source in (generated, reference):  # all read what the first process sees on the disk
        source.complete, source.incomplete = gather_objects((source.complete, source.incomplete), distributed, group)[0]
    metrics = metrics if protocol is None else protocol.metrics
    how = {"progress": progress, "protocol": protocol, "distributed": distributed, "group": group}
    results = evaluate(generated, reference, metrics, settings, **how)
    if not distributed or dist.get_rank(group) == 0:
        for line in results["deviations"]:
            _log.warning("deviation from %s: %s", results["protocol"]["id"], line)
        write_results(results, root / "results.json")
    return flat_numbers(results)
