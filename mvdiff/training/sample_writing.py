"""Write the samples of `mvdiff test` and `mvdiff predict` as sample folders."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.panorama import stitch
from mvdiff.samples import SampleRecord, describe_cameras, is_complete, sample_folder, to_uint8, write_sample

_LIBRARIES = ("mvdiff", "torch", "diffusers", "transformers")


def all_complete(root: Path, batch: MultiViewBatch) -> bool:
    """Tell whether every sample of a batch is already written."""
    return all(is_complete(sample_folder(root, sample_id)) for sample_id in batch.sample_id)


def write_batch(
    root: Path,
    batch: MultiViewBatch,
    images: Tensor,
    prompt_prefix: str = "",
    seed: int | None = None,
    settings: dict[str, Any] | None = None,
    panoramas: bool = True,
    overwrite: bool = False,
) -> None:
    """Write a batch's images, one sample folder each; complete folders are kept unless `overwrite`.

    Args:
        root: Folder of the sample folders.
        batch: Whose cameras, prompts and ids are recorded.
        images: [B, V, 3, H, W] in [-1, 1], generated or real.
        prompt_prefix: Taken off the recorded prompts: the model adds it again.
        seed: Of the noise, None for real images.
        settings: What else shaped the images.
        panoramas: Whether to stitch and write `panorama.png`.
        overwrite: Replace complete folders.
    """
    for i, sample_id in enumerate(batch.sample_id):
        folder = sample_folder(root, sample_id)
        if is_complete(folder) and not overwrite:
            continue
        valid = batch.view_valid[i].cpu()
        views, K, R = (part[i].cpu()[valid] for part in (images.float(), batch.K, batch.R))
        record = SampleRecord(
            sample_id=sample_id,
            prompts=[
                prompt.removeprefix(prompt_prefix)
                for prompt, kept in zip(batch.prompts[i], valid.tolist(), strict=True)
                if kept
            ],
            cameras=describe_cameras(K, R, *views.shape[-2:]),
            seed=seed,
            settings=dict(settings or {}),
            versions={name: version(name) for name in _LIBRARIES},
        )
        panorama = to_uint8(stitch(views, K, R)[0]).permute(1, 2, 0) if panoramas else None
        write_sample(folder, record, to_uint8(views).permute(0, 2, 3, 1), panorama, overwrite=True)


def score_folder(root: Path) -> dict[str, float]:
    """Score `root/generated` against `root/reference`, write `root/results.json` and return the numbers to log."""
    from mvdiff.eval.runner import evaluate, write_results

    results = evaluate(root / "generated", root / "reference")
    write_results(results, root / "results.json")
    return results
