"""What `mvdiff test` and `mvdiff predict` write: generated and real views, and the scores."""

from abc import abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.metric_specs import MetricSpec
from mvdiff.eval.runner import PAPER_METRICS, EvaluationSettings, evaluate, flat_numbers, write_results
from mvdiff.eval.sources import FolderSource
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.frame_folders import frame_record
from mvdiff.pipelines.sample_folders import library_versions
from mvdiff.samples import SampleRecord, is_complete, read_sample, sample_folder, to_uint8, write_sample
from mvdiff.training.callbacks import gather, run_folder
from mvdiff.training.trained_part import TrainedPartModule


class SampleWritingModule(TrainedPartModule):
    """A module whose predictions are sample folders, which its tests score beside the real views.

    A derived module has the hyperparameters `output_dir` and `test_metrics`, and says how a batch is written.

    Args:
        evaluation: How tests score; None: the paper's protocol.
    """

    def __init__(self, evaluation: EvaluationSettings | None) -> None:
        super().__init__()
        self.evaluation = evaluation
        self._tested_ids: list[str] = []
        self._run_folder = Path()

    @abstractmethod
    def write_generated(self, root: Path, batch: MultiViewBatch) -> None:
        """Generate a batch and write sample folders; complete ones are kept."""

    @abstractmethod
    def write_real(self, root: Path, batch: MultiViewBatch) -> None:
        """Write the real views of a batch as sample folders; complete ones are kept."""

    def on_predict_start(self) -> None:
        """Find the folder to write to."""
        self._run_folder = Path(self.hparams.output_dir or Path(run_folder(self.trainer)) / "samples")

    def predict_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Generate and write sample folders; complete ones are kept."""
        self.write_generated(self._run_folder, batch)

    def on_test_start(self) -> None:
        """Find the folder to write to; forget the samples of the last test."""
        self.on_predict_start()
        self._tested_ids.clear()

    def test_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Write generated and real views as sample folders, to be scored when all are there."""
        self.write_generated(self._run_folder / "generated", batch)
        self.write_real(self._run_folder / "reference", batch)
        self._tested_ids.extend(batch.sample_id)

    def on_test_epoch_end(self) -> None:
        """Score the samples of this test on the first rank; log every number and write results.json."""
        sample_ids = set(chain.from_iterable(gather(self._tested_ids)))  # waits for all ranks
        if self.trainer.is_global_zero:
            metrics = self.hparams.test_metrics or PAPER_METRICS
            numbers = score_folder(self._run_folder, sample_ids, metrics, self.evaluation)
            self.log_dict({f"test/{name}": value for name, value in numbers.items()}, rank_zero_only=True)
        self.trainer.strategy.barrier()


def write_reference(root: Path, batch: MultiViewBatch, rig: Rig, prompt_prefix: str, overwrite: bool = False) -> None:
    """Write a batch's real views, one sample folder each; folders that hold these very views are kept.

    Args:
        root: Folder of the sample folders.
        batch: Images of the rig's views, prompts and ids.
        rig: The views.
        prompt_prefix: Taken off the recorded prompts: the model adds it again.
        overwrite: Whether complete folders are written again.

    Raises:
        ValueError: A complete folder holds other views, prompts or another rig, and `overwrite` is False.
    """
    for sample_id, images, prompts in zip(batch.sample_id, to_uint8(batch.images).cpu(), batch.prompts, strict=True):
        prompts = [prompt.removeprefix(prompt_prefix) for prompt in prompts]
        record = SampleRecord(sample_id, prompts, rig.to_dict(), versions=library_versions())
        _write_real(sample_folder(root, sample_id), record, images, None, overwrite)


def write_frame_reference(root: Path, batch: MultiViewBatch, prompt_prefix: str, overwrite: bool = False) -> None:
    """Write a batch's real frames with their depths and cameras, padding left out; otherwise as `write_reference`."""
    for i, images in enumerate(to_uint8(batch.images).cpu()):
        valid, record = batch.view_valid[i].cpu(), frame_record(batch, i, prompt_prefix)
        folder = sample_folder(root, record.sample_id)
        _write_real(folder, record, images[valid], batch.depths[i].cpu()[valid], overwrite)


def _write_real(
    folder: Path, record: SampleRecord, images_uint8: Tensor, depths: Tensor | None, overwrite: bool
) -> None:
    """Write real views [V, 3, H, W], unless the folder holds these very views."""
    if overwrite or not is_complete(folder):
        write_sample(folder, record, images_uint8.permute(0, 2, 3, 1), overwrite=overwrite, depths=depths)
        return
    found = read_sample(folder)
    same = {
        "prompts": found.record.prompts == record.prompts,
        "rig": found.record.rig == record.rig,
        "cameras": found.record.cameras == record.cameras,
        "views": torch.equal(found.images_uint8(), images_uint8),
    }
    if not all(same.values()):
        others = " and ".join(name for name, kept in same.items() if not kept)
        raise ValueError(
            f"a complete reference sample must be that of this run; got other {others}, in {folder}. "
            "Set model.output_dir to another folder, or model.overwrite to true."
        )


@dataclass
class RunSource(FolderSource):
    """The samples of one run; what else the folder holds, of an earlier run of more samples, is left out.

    Args:
        sample_ids: Ids of the run's samples.
    """

    sample_ids: Collection[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = {sample_folder(self.root, sample_id) for sample_id in self.sample_ids}
        self.complete = [folder for folder in self.complete if folder in wanted]
        self.incomplete = [folder for folder in self.incomplete if folder in wanted]


def score_folder(
    root: Path, sample_ids: Collection[str], metrics: Sequence[MetricSpec], settings: EvaluationSettings | None
) -> dict[str, float]:
    """Score `root/generated` against `root/reference`, write `root/results.json` and return the numbers that came out.

    Args:
        root: What `mvdiff test` wrote.
        sample_ids: Which of the samples there are scored.
        metrics: What is scored, see `mvdiff.eval.metric_specs.MetricSpec`.
        settings: How to measure; None for the paper's protocol.
    """
    generated, reference = (RunSource(root / name, sample_ids=sample_ids) for name in ("generated", "reference"))
    results = evaluate(generated, reference, metrics, settings)
    write_results(results, root / "results.json")
    return flat_numbers(results)
