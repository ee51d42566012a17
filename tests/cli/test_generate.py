"""`mvdiff generate panorama` and `mvdiff export`, in process, on a tiny model folder."""

import json

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.checkpoint import CHECKPOINT_KEY
from mvdiff.pipelines.model_folder import BaseReference, load_adapter
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.samples import find_samples, read_sample
from tests.cli.last_lines import next_commands
from tests.pipelines.conftest import RING, make_pipeline
from tests.tiny import tiny_base

PROMPT = ["--prompt", "a red room", "--num_inference_steps", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    make_pipeline(folder / "base").save_pretrained(folder / "model")
    return folder / "model"


def generate(model, out, *options):
    return main(["generate", "panorama", "--model", str(model), "--out", str(out), *map(str, options)])


def test_one_prompt(model, tmp_path, capsys):
    assert generate(model, tmp_path, *PROMPT, "--seed", 3, "--num_samples", 2, "--negative_prompt", "wall") == 0
    said = capsys.readouterr().out
    assert "2 panoramas written" in said
    assert next_commands(said) == ["report", "video"]
    folders = find_samples(tmp_path)
    assert [folder.name for folder in folders] == ["0000-0", "0000-1"]
    samples = [read_sample(folder) for folder in folders]
    assert samples[0].record.prompts == ["a red room"] * 4
    assert samples[0].record.seed == 3
    assert samples[0].record.settings["negative_prompt"] == "wall"
    assert not torch.equal(samples[0].images_uint8(), samples[1].images_uint8())
    assert sorted(path.name for path in folders[0].iterdir()) == [
        *("0.png", "1.png", "2.png", "3.png", "panorama.png", "sample.json")
    ]


def test_rerun_skips_and_overwrite_redoes(model, tmp_path, capsys):
    assert generate(model, tmp_path, *PROMPT) == 0
    stamp = (tmp_path / "0000" / "0.png").stat().st_mtime_ns
    assert generate(model, tmp_path, *PROMPT) == 0
    assert "1 complete panorama skipped" in capsys.readouterr().out
    assert (tmp_path / "0000" / "0.png").stat().st_mtime_ns == stamp
    assert generate(model, tmp_path, *PROMPT, "--seed", 1) == 1
    assert "seed of a complete sample must equal that of this run, 1; got 0" in capsys.readouterr().err
    assert generate(model, tmp_path, *PROMPT, "--seed", 1, "--overwrite") == 0
    assert read_sample(tmp_path / "0000").record.seed == 1
    assert (tmp_path / "0000" / "0.png").stat().st_mtime_ns != stamp


def test_pictures_for_people_come_beside_and_for_complete_samples_too(model, tmp_path, capsys):
    assert generate(model, tmp_path, *PROMPT) == 0
    panorama = (tmp_path / "0000" / "panorama.png").read_bytes()
    before = {path.name for path in (tmp_path / "0000").iterdir()}
    assert generate(model, tmp_path, *PROMPT, "--format", "webp", "--crop", "--cube_faces") == 0
    assert "1 complete panorama skipped" in capsys.readouterr().out
    added = {path.name for path in (tmp_path / "0000").iterdir()} - before
    assert added == {"panorama.webp", "panorama_cropped.webp", "cube"}
    assert len(list((tmp_path / "0000" / "cube").glob("*.webp"))) == 6
    assert (tmp_path / "0000" / "panorama.png").read_bytes() == panorama
    assert generate(model, tmp_path, *PROMPT, "--overwrite") == 0
    assert {path.name for path in (tmp_path / "0000").iterdir()} == before
    assert find_samples(tmp_path) == [tmp_path / "0000"]


def test_prompts_file_scheduler_and_batches(model, tmp_path, capsys):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(["a ball", {"id": "mixed", "prompt": ["red", "blue", "a lamp", "a ball"]}, "a chair"]))
    options = ["--prompts", path, "--num_inference_steps", 2, "--guidance_scale", 1, "--scheduler", "EulerDiscrete"]
    assert generate(model, tmp_path / "out", *options, "--batch_size", 2, "--dtype", "bfloat16") == 0
    assert "3 panoramas written" in capsys.readouterr().out
    record = read_sample(tmp_path / "out" / "mixed").record
    assert record.prompts == ["red", "blue", "a lamp", "a ball"]
    assert record.settings["scheduler"] == "EulerDiscreteScheduler"
    assert record.settings["dtype"] == "bfloat16"


def test_the_vae_of_a_model_may_have_moved(tmp_path):
    base = make_pipeline(tmp_path / "base").base.id
    vae = tiny_base(tmp_path / "other", seed=1) / "vae"
    model = MVDiffusionPanoramaPipeline.from_backbone(
        load_backbone(base, vae=vae), base=BaseReference(base, vae=str(vae)), rig=RING
    )
    model.save_pretrained(tmp_path / "model")
    moved = vae.rename(tmp_path / "vae")
    assert generate(tmp_path / "model", tmp_path / "out", *PROMPT) == 1
    assert generate(tmp_path / "model", tmp_path / "out", *PROMPT, "--vae", moved) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*PROMPT, "--scheduler", "Nope"], "scheduler must be one of"),
        ([*PROMPT, "--num_samples", 0], "num_samples must be at least 1; got 0"),
        ([*PROMPT, "--batch_size", 0], "batch_size must be at least 1; got 0"),
        ([*PROMPT, "--num_inference_steps", 0], "num_inference_steps must be an integer of at least 1; got 0"),
        ([*PROMPT, "--base", "nowhere"], "needs the base"),
        ([*PROMPT, "--vae", "nowhere"], "vae must be a local folder or a reachable hub repository"),
        (["--prompt", " "], "--prompt must describe the scene"),
        (["--prompts", "none.txt"], "prompts must be an existing file; got none.txt"),
        ([*PROMPT, "--cpu_offload", "sequential"], "--cpu_offload needs a GPU; got sequential on a CPU"),
        ([*PROMPT, "--device", "cpu:1", "--cpu_offload", "model"], "--cpu_offload needs a GPU; got model on a CPU"),
        ([*PROMPT, "--views_per_chunk", 0], "views_per_chunk must be an integer of at least 1; got 0"),
    ],
)
def test_errors_are_one_line(model, tmp_path, capsys, options, message):
    assert generate(model, tmp_path, *options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("mvdiff generate panorama: error: ")
    assert message in error
    assert not find_samples(tmp_path)


@pytest.mark.parametrize("device", ["foo", "cuda:99", "cuda:x", "mps", "xpu", "hpu", "meta"])
def test_a_device_that_does_not_work_here_is_told_before_anything_is_loaded(tmp_path, capsys, device):
    if device in ("mps", "xpu") and torch.accelerator.is_available():
        pytest.skip(f"this machine may have {device}")
    assert generate("nowhere", tmp_path, *PROMPT, "--device", device) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        f"mvdiff generate panorama: error: --device must be one that works on this machine; got '{device}' ("
    )
    assert error.count("\n") == 1
    assert "Use --device cpu" in error


def test_memory_switches_give_the_same_panorama(model, tmp_path, capsys):
    assert generate(model, tmp_path / "plain", *PROMPT) == 0
    switches = ["--views_per_chunk", 2, "--vae_slicing"]
    assert generate(model, tmp_path / "small", *PROMPT, *switches) == 0
    assert generate(model, tmp_path / "plain", *PROMPT, *switches) == 0  # complete: the record is that of this run, too
    assert "1 complete panorama skipped" in capsys.readouterr().out
    plain, small = (read_sample(tmp_path / name / "0000").images_uint8().int() for name in ("plain", "small"))
    assert (plain - small).abs().max() <= 1
    assert generate(model, tmp_path / "plain", *PROMPT, "--vae_tiling") == 1
    assert "settings.vae_tiling of a complete sample must equal that of this run, True" in capsys.readouterr().err


def test_a_missing_model_and_a_bad_out(model, tmp_path, capsys):
    assert generate(tmp_path, tmp_path / "out", *PROMPT) == 1
    assert "model must be a model folder" in capsys.readouterr().err
    assert generate("nobody/no-such-model", tmp_path / "out", *PROMPT, "--revision", "v1") == 1
    assert "got 'nobody/no-such-model' at revision 'v1', which is not a folder" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert generate(model, tmp_path / "file" / "out", *PROMPT) == 1
    assert "--out must lie in a folder that can be written" in capsys.readouterr().err


def test_fewer_prompts_than_views(model, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text('["a ball", "a lamp"]\n')
    assert generate(model, tmp_path / "out", "--prompts", tmp_path / "p.jsonl") == 1
    assert "one text per view (4); got" in capsys.readouterr().err


def test_export(model, tmp_path, capsys):
    info = json.loads((model / "mvdiff.json").read_text())
    adapter = load_adapter(model)
    config = {key: value for key, value in adapter.config.items() if not key.startswith("_")}
    state = {f"adapter.{name}": value for name, value in adapter.state_dict().items()}
    described = {"info": info, "adapter": config, "scheduler": ["DDIMScheduler", {"prediction_type": "sample"}]}
    current = {name: value + 1 for name, value in state.items()}
    values = {"state_dict": state, "current_model_state": current, CHECKPOINT_KEY: described}
    torch.save(values, tmp_path / "last.ckpt")
    for flags, expected in (([], state), (["--no_ema", "--overwrite"], current)):
        assert main(["export", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "model"), *flags]) == 0
        said = capsys.readouterr().out
        assert "a panorama model of 4 views" in said
        assert next_commands(said) == ["generate panorama"]
        found = load_adapter(tmp_path / "model").state_dict()
        assert all(torch.equal(value, expected[f"adapter.{name}"]) for name, value in found.items())
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert main(["export", str(tmp_path / "other.ckpt"), "--out", str(tmp_path / "other")]) == 1
    assert "got a checkpoint of another model" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "last.ckpt"), "--out", str(tmp_path)]) == 1
    assert "must be new, empty or an earlier model folder" in capsys.readouterr().err
