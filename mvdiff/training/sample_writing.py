"""The real views and the scores of `mvdiff test`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.runner import EvaluationSettings, evaluate, flat_numbers, write_results
from mvdiff.eval.sources import FolderSource
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.frame_folders import frame_record
from mvdiff.pipelines.sample_folders import library_versions
from mvdiff.samples import SampleRecord, is_complete, read_sample, sample_folder, to_uint8, write_sample


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
    root: Path, sample_ids: Collection[str], metrics: Sequence[str], settings: EvaluationSettings | None
) -> dict[str, float]:
    """Score `root/generated` against `root/reference`, write `root/results.json` and return the numbers that came out.

    Args:
        root: What `mvdiff test` wrote.
        sample_ids: Which of the samples there are scored.
        metrics: Names, see `mvdiff.eval.runner.RESULTS`.
        settings: How to measure; None for the paper's protocol.
    """
    generated, reference = (RunSource(root / name, sample_ids=sample_ids) for name in ("generated", "reference"))
    results = evaluate(generated, reference, metrics, settings)
    write_results(results, root / "results.json")
    return flat_numbers(results)
