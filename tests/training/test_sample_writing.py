import dataclasses
import json

import pytest
import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.eval.runner import EvaluationSettings
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import read_sample, sample_folder, to_uint8
from mvdiff.training.sample_writing import score_folder, write_reference

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
                "prompts": [f"prefix {view}" for view in range(3)],
                "sample_id": sample_id,
                "sample_index": index,
                "epoch": 0,
            }
            for index, sample_id in enumerate(sample_ids)
        ]
    )


def test_a_kept_reference_is_checked(tmp_path):
    first, other = batch_of("a"), batch_of("a", seed=1)
    write_reference(tmp_path, first, RIG, "prefix ")
    written = (tmp_path / "a" / "sample.json").stat().st_mtime_ns
    write_reference(tmp_path, first, RIG, "prefix ")
    assert (tmp_path / "a" / "sample.json").stat().st_mtime_ns == written
    reworded = dataclasses.replace(first, prompts=[["prefix x"] * 3])
    for batch, rig, text in (
        (other, RIG, "got other views, in"),
        (reworded, RIG, "got other prompts, in"),
        (first, RingRig(num_views=3, fov_deg=140.0, height=16, width=16), "got other rig, in"),
    ):
        with pytest.raises(ValueError, match=f"reference sample must be that of this run; {text} .*overwrite"):
            write_reference(tmp_path, batch, rig, "prefix ")
    write_reference(tmp_path, other, RIG, "prefix ", overwrite=True)
    sample = read_sample(sample_folder(tmp_path, "a"))
    assert torch.equal(sample.images_uint8(), to_uint8(other.images[0]))
    assert sample.record.prompts == ["0", "1", "2"]


def test_only_the_runs_own_samples_are_scored(tmp_path):
    for name in ("generated", "reference"):
        write_reference(tmp_path / name, batch_of("a", "b/c", "left over"), RIG, "")
    settings = EvaluationSettings(overlap_size=0, num_resamples=10)
    numbers = score_folder(tmp_path, {"a", "b/c"}, ["overlap_psnr"], settings)
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["generated"]["num_samples"], results["reference"]["num_samples"]) == (2, 2)
    score_folder(tmp_path, {"a", "b/c", "left over"}, ["overlap_psnr"], settings)
    everything = json.loads((tmp_path / "results.json").read_text())
    assert everything["generated"]["num_samples"] == 3
    assert numbers["overlap_psnr_mean_of_pairs"] != everything["metrics"]["overlap_psnr_mean_of_pairs"]["value"]
