"""generate_samples: what it writes, what a rerun skips, and what it refuses."""

import pytest
import torch

from mvdiff.geometry.cameras import Rig
from mvdiff.pipelines.prompt_files import PromptEntry
from mvdiff.pipelines.sample_folders import GenerationCounts
from mvdiff.samples import find_samples, read_sample
from tests.pipelines.conftest import RING, UNEVEN, write_entries

ENTRIES = [
    PromptEntry("a", "a ball"),
    PromptEntry("b", ("red", "blue", "a lamp", "a table")),
    PromptEntry("c", "a chair"),
]
STEPS = {"num_inference_steps": 1, "seed": 4}


def stamps(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}


def test_writes_complete_samples(pipeline, tmp_path):
    counts = write_entries(pipeline, ENTRIES, tmp_path, batch_size=2, negative_prompt="wall", **STEPS)
    assert counts == GenerationCounts(written=3, skipped=0)
    folders = find_samples(tmp_path)
    assert [folder.name for folder in folders] == ["a", "b", "c"]
    sample = read_sample(folders[1])
    record = sample.record
    assert (record.sample_id, record.seed, record.prompts) == ("b", 4, ["red", "blue", "a lamp", "a table"])
    assert Rig.from_dict(record.rig) == RING
    assert record.settings["num_inference_steps"] == 1
    assert record.settings["guidance_scale"] == 9.0
    assert record.settings["negative_prompt"] == "wall"
    assert record.settings["prompt_prefix"] == "this is one view of a scene "
    assert record.settings["scheduler"] == "DDIMScheduler"
    assert record.settings["base_weights_hash"] == pipeline.base.weights_hash
    assert set(record.versions) == {"mvdiff", "torch", "diffusers", "transformers"}
    direct = pipeline(
        [["red", "blue", "a lamp", "a table"]], sample_ids=["b"], negative_prompt="wall", output_type="uint8", **STEPS
    )
    assert sample.images_uint8().shape == (4, 3, 32, 32)
    assert (sample.images_uint8().int() - direct.images[0].movedim(-1, 1).int()).abs().max() <= 1
    assert sample.panorama_uint8().shape == direct.panoramas[0].movedim(-1, 0).shape


def test_a_rerun_writes_what_is_missing_and_nothing_else(pipeline, tmp_path):
    write_entries(pipeline, ENTRIES, tmp_path, **STEPS)
    before = stamps(tmp_path)
    (tmp_path / "b" / "sample.json").unlink()  # as if the run had been killed while it wrote b
    counts = write_entries(pipeline, ENTRIES, tmp_path, batch_size=3, **STEPS)
    assert counts == GenerationCounts(written=1, skipped=2)
    changed = {path.parent.name for path, stamp in stamps(tmp_path).items() if before[path] != stamp}
    assert changed == {"b"}
    assert write_entries(pipeline, ENTRIES, tmp_path, **STEPS) == GenerationCounts(written=0, skipped=3)
    assert write_entries(pipeline, ENTRIES, tmp_path, overwrite=True, **STEPS).written == 3
    assert all(before[path] != stamp for path, stamp in stamps(tmp_path).items())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 5}, r"seed of a complete sample must equal that of this run, 5; got 4, in .*a"),
        ({"num_inference_steps": 2}, r"settings.num_inference_steps .* 2; got 1"),
        ({"rig": UNEVEN}, "prompts must be one text for all views"),
        ({"settings": {"note": "x"}}, r"settings.note .*'x'; got None.*--overwrite"),
    ],
)
def test_other_samples_of_the_same_name_are_not_taken_for_done(pipeline, tmp_path, changed, message):
    write_entries(pipeline, ENTRIES, tmp_path, **STEPS)
    before = stamps(tmp_path)
    with pytest.raises(ValueError, match=message):
        write_entries(pipeline, ENTRIES, tmp_path, **STEPS | changed)
    assert stamps(tmp_path) == before
    other = [PromptEntry("a", "a lamp")]
    with pytest.raises(ValueError, match=r"a was made with another prompt \('a ball'\)"):
        write_entries(pipeline, other, tmp_path, **STEPS)


def test_defaults_written_out_are_the_same_sample(pipeline, tmp_path):
    write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS)
    defaults = {"guidance_scale": 9.0, "negative_prompt": None, "eta": 0.0, "caa": True, "attention_enabled": True}
    assert defaults.items() <= read_sample(tmp_path / "a").record.settings.items()
    assert write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS, **defaults).skipped == 1


def test_a_retrained_adapter_is_another_model(pipeline, tmp_path):
    write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS)
    parameter = next(pipeline.adapter.parameters())
    before = parameter.detach().clone()
    try:
        with torch.no_grad():
            parameter.add_(0.1)
        with pytest.raises(ValueError, match=r"settings.adapter_weights_hash of a complete sample"):
            write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS)
    finally:
        with torch.no_grad():
            parameter.copy_(before)


def test_another_precision_is_not_taken_for_done(pipeline, tmp_path):
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as `mvdiff predict` does with bf16-mixed
        write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS)
        assert write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS).skipped == 1
    assert read_sample(tmp_path / "a").record.settings["dtype"] == "float32 under bfloat16 autocast"
    message = r"settings.dtype of a complete sample must .* 'float32'; got 'float32 under bfloat16 autocast'"
    with pytest.raises(ValueError, match=message):
        write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(pipeline, tmp_path, monkeypatch):
    write_entries(pipeline, ENTRIES[:1], tmp_path, **STEPS)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match=r"sample folder .*b must be writable; got No space left on device"):
        write_entries(pipeline, ENTRIES, tmp_path, **STEPS)
    monkeypatch.undo()
    assert [folder.name for folder in find_samples(tmp_path)] == ["a"]
    assert write_entries(pipeline, ENTRIES, tmp_path, **STEPS) == GenerationCounts(written=2, skipped=1)


def test_a_batch_size_below_one(pipeline, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        write_entries(pipeline, ENTRIES, tmp_path, batch_size=0)
