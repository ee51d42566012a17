"""Prompts that the text encoder cuts, and empty ones, are named in a warning and noted in sample.json."""

import json
import logging

import pytest
import torch

from mvdiff.methods.method import write_method
from mvdiff.methods.model import ModelMethod
from mvdiff.pipelines.calls import rig_batch
from mvdiff.pipelines.prompt_files import PromptEntry
from mvdiff.pipelines.sample_folders import GenerationCounts, generate_samples
from mvdiff.pipelines.sequence_folders import generate_sequence_folder
from mvdiff.samples import read_sample
from mvdiff.settings import Sampling
from tests.pipelines.conftest import RING, make_pipeline, write_entries
from tests.pipelines.depth_pipelines import make_depth_pipeline
from tests.pipelines.test_sequence_folders import sequence  # noqa: F401  (a fixture)
from tests.training.tiny_depth import wall_batch

LETTERS = " ".join("a" * 74)  # fits alone, in 76 tokens, but not behind the prefix
LONG = " ".join("b" * 100)
STEPS = {"num_inference_steps": 1, "guidance_scale": 2.0}


@pytest.fixture
def pipeline(tmp_path):
    return make_pipeline(tmp_path / "base")  # a fresh one: each text is told once per pipeline


def notes(folder):
    return read_sample(folder).record.settings.get("text_notes")


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_cut_and_empty_prompts_of_a_panorama(pipeline, tmp_path, caplog):
    entries = [PromptEntry("a", ("a ball", LONG, "", LETTERS)), PromptEntry("b", "a chair")]
    counts = write_entries(pipeline, entries, tmp_path / "out", **STEPS)
    assert counts == GenerationCounts(2, 0)
    found, prefix = notes(tmp_path / "out" / "a"), len(pipeline.tokenizer(pipeline.prompt_prefix).input_ids) - 2
    assert found == {
        "context_length": 77,
        "num_tokens": {"1": 102 + prefix, "3": 76 + prefix},
        "empty_prompts": [2],
    }
    assert notes(tmp_path / "out" / "b") is None
    told = lines(caplog)
    assert told[0].startswith("2 of 5 prompts have more tokens than the 77 that the text encoder reads")
    assert told[1:] == ["1 of 8 prompts are empty."]


def test_the_negative_prompt_is_told_and_noted_without_the_prefix(pipeline, tmp_path, caplog):
    write_entries(pipeline, [PromptEntry("a", "a ball")], tmp_path / "out", negative_prompt=LONG, **STEPS)
    assert notes(tmp_path / "out" / "a") == {"context_length": 77, "negative_num_tokens": [102]}
    assert [line.split(" (")[0] for line in lines(caplog)] == [
        "1 of 1 negative prompt has more tokens than the 77 that the text encoder reads, and the rest is cut off: "
        f"'{LONG[:60]}...'"
    ]


def test_a_call_warns_once_of_each_text(pipeline, caplog):
    for _ in range(2):
        pipeline(LONG, output_type="latent", prompt_prefix="", **STEPS)
    assert len(lines(caplog)) == 1
    assert "(102 tokens, " in lines(caplog)[0]
    pipeline(" ".join("c" * 90), output_type="latent", **STEPS)
    assert len(lines(caplog)) == 2


def test_a_rerun_skips_samples_that_earlier_versions_wrote_without_notes(pipeline, tmp_path):
    entries = [PromptEntry("a", LONG)]
    write_entries(pipeline, entries, tmp_path / "out", **STEPS)
    path = tmp_path / "out" / "a" / "sample.json"
    record = json.loads(path.read_text())
    del record["settings"]["text_notes"]
    path.write_text(json.dumps(record))
    assert write_entries(pipeline, entries, tmp_path / "out", **STEPS) == GenerationCounts(0, 1)


def test_methods_note_the_same(pipeline, tmp_path):
    batch = rig_batch(RING, [[LONG] * 4], ["a"])
    write_method(ModelMethod("model", pipeline), [batch], tmp_path / "out", Sampling(num_inference_steps=1))
    assert set(notes(tmp_path / "out" / "a")["num_tokens"]) == {"0", "1", "2", "3"}


def test_frames_with_depth_and_their_padding(tmp_path, caplog):
    """A sample of three frames is padded to four: the empty prompt of the padding is none of the sample's."""
    pipeline, batch = make_depth_pipeline(tmp_path / "base"), wall_batch(0, 1)
    batch.prompts[0][1] = LONG
    generate_samples(pipeline, batch, tmp_path / "out", sampling=Sampling(**STEPS))
    assert set(notes(tmp_path / "out" / "wall0")["num_tokens"]) == {"1"}
    assert len(lines(caplog)) == 1


def test_a_sequence_notes_its_frames(sequence, tmp_path, caplog):  # noqa: F811
    pipeline = make_depth_pipeline(tmp_path / "base")
    generate_sequence_folder(pipeline, sequence, tmp_path / "out", prompt=LONG, sampling=Sampling(**STEPS))
    found = notes(tmp_path / "out" / sequence.name)
    assert set(found["num_tokens"]) == {str(view) for view in range(len(sequence))}
    assert len(lines(caplog)) == 1


def test_padding_is_of_no_interest(pipeline):
    assert pipeline.text_notes(["a ball"] * 4) == {}
    assert torch.is_grad_enabled()
