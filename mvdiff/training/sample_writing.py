"""The real views and the scores of `mvdiff test`."""

from collections.abc import Sequence
from pathlib import Path

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.runner import EvaluationSettings, evaluate, flat_numbers, write_results
from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.sample_folders import library_versions
from mvdiff.samples import SampleRecord, is_complete, sample_folder, to_uint8, write_sample


def write_reference(root: Path, batch: MultiViewBatch, rig: Rig, prompt_prefix: str) -> None:
    """Write a batch's real views, one sample folder each; complete folders are kept.

    Args:
        root: Folder of the sample folders.
        batch: Images of the rig's views, prompts and ids.
        rig: The views.
        prompt_prefix: Taken off the recorded prompts: the model adds it again.
    """
    for sample_id, images, prompts in zip(batch.sample_id, batch.images, batch.prompts, strict=True):
        folder = sample_folder(root, sample_id)
        if not is_complete(folder):
            prompts = [prompt.removeprefix(prompt_prefix) for prompt in prompts]
            record = SampleRecord(sample_id, prompts, rig.to_dict(), versions=library_versions())
            write_sample(folder, record, to_uint8(images).permute(0, 2, 3, 1))


def score_folder(root: Path, metrics: Sequence[str], settings: EvaluationSettings | None) -> dict[str, float]:
    """Score `root/generated` against `root/reference`, write `root/results.json` and return the numbers that came out.

    Args:
        root: What `mvdiff test` wrote.
        metrics: Names, see `mvdiff.eval.runner.RESULTS`.
        settings: How to measure; None for the paper's protocol.
    """
    results = evaluate(root / "generated", root / "reference", metrics, settings)
    write_results(results, root / "results.json")
    return flat_numbers(results)
