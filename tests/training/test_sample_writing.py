import dataclasses
import json

import pytest
import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.runner import EvaluationSettings
from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.sample_folders import write_reference
from mvdiff.samples import read_sample, sample_folder, to_uint8
from mvdiff.training.sample_writing import score_folder

RIG = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)


def batch_of(*sample_ids: str, seed: int = 0) -> MultiViewBatch:
    generator = torch.Generator().manual_seed(seed)
    K, R = RIG.cameras()
    return MultiViewBatch.collate(
        [
            {
                "images": 2 * torch.rand(3, 3, 16, 16, generator=generator) - 1,
                "K": K,
                "R": R,
                "prompts": [f"{view}" for view in range(3)],
                "sample_id": sample_id,
                "sample_index": index,
                "epoch": 0,
            }
            for index, sample_id in enumerate(sample_ids)
        ]
    )


def test_a_kept_reference_is_checked(tmp_path):
    first, other = batch_of("a"), batch_of("a", seed=1)
    write_reference(first, tmp_path, rig=RIG)
    written = (tmp_path / "a" / "sample.json").stat().st_mtime_ns
    write_reference(first, tmp_path, rig=RIG)
    assert (tmp_path / "a" / "sample.json").stat().st_mtime_ns == written
    reworded = dataclasses.replace(first, prompts=[["x"] * 3])
    for batch, rig, text in (
        (other, RIG, "views of a complete sample must equal those of the data"),
        (reworded, RIG, "was made with another prompt"),
        (first, RingRig(num_views=3, fov_deg=140.0, height=16, width=16), "rig.* of a complete sample"),
    ):
        with pytest.raises(ValueError, match=text):
            write_reference(batch, tmp_path, rig=rig)
    write_reference(other, tmp_path, rig=RIG, overwrite=True)
    sample = read_sample(sample_folder(tmp_path, "a"))
    assert torch.equal(sample.images_uint8(), to_uint8(other.images[0]))
    assert sample.record.prompts == ["0", "1", "2"]


def test_only_the_runs_own_samples_are_scored(tmp_path):
    for name in ("generated", "reference"):
        write_reference(batch_of("a", "b/c", "left over"), tmp_path / name, rig=RIG)
    settings = EvaluationSettings(overlap_size=0, num_resamples=100)
    numbers = score_folder(tmp_path, {"a", "b/c"}, ["overlap_psnr"], settings)
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["generated"]["num_samples"], results["reference"]["num_samples"]) == (2, 2)
    score_folder(tmp_path, {"a", "b/c", "left over"}, ["overlap_psnr"], settings)
    everything = json.loads((tmp_path / "results.json").read_text())
    assert everything["generated"]["num_samples"] == 3
    assert numbers["overlap_psnr_mean_of_pairs"] != everything["metrics"]["overlap_psnr_mean_of_pairs"]["value"]
