"""Every family through fit, resume and generate, and from a cache of text without its text encoder."""

import copy
import json
import re

import diffusers
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.geometry.cameras import Rig
from mvdiff.models.absent import AbsentPart
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.calls import rig_batch
from mvdiff.samples.pixels import read_png
from mvdiff.settings import Sampling
from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.training.multi_view import MultiViewModule
from tests import tiny_bases
from tests.forked import KILLED, TWO_RANKS, run_command
from tests.forked import run as run_forked
from tests.training.tiny_run import tiny_config, write_config

FAMILIES = tuple(tiny_bases.FAMILIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("families")


def config_of(folder, name, out, **model):
    """A run of two steps on a family's tiny base, with a checkpoint after each."""
    base = folder / name
    if not base.exists():
        tiny_bases.write(base, name)
    config = copy.deepcopy(tiny_config(folder, base=str(base), **model))
    keep = {"dirpath": str(out), "every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}"}
    save = {"class_path": "mvdiff.training.callbacks.SaveModelFolder", "init_args": {"dirpath": str(out / "model")}}
    checkpoint = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": keep}
    config["trainer"] |= {"max_steps": 2, "num_sanity_val_steps": 0, "limit_val_batches": 1, "logger": False}
    config["trainer"] |= {"callbacks": [save, checkpoint], "default_root_dir": str(out), "enable_progress_bar": False}
    return config


def predict(runs, name, flags=()):
    """Write the samples of the test split of several runs, each with its last checkpoint."""
    for run, out in runs:
        words = ["predict", "--config", f"{run}/run.yaml", "--ckpt_path", f"{run}/step=2.ckpt", *flags]
        assert main([*words, "--model.output.dir", f"{out}_{name}"]) == 0


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def whole(folder):
    """Folders of whole runs, by family: `run.yaml`, checkpoints and the model."""

    def fit(name):
        out = folder / f"{name}_whole"
        if not out.exists():
            run = write_config(folder / f"{name}.yaml", config_of(folder, name, out))
            assert main(["fit", "--config", str(run)]) == 0
            run.rename(out / "run.yaml")
        return out

    return fit


@pytest.fixture(scope="module")
def killed(folder):
    """A folder with what runs had written, by family, when they were killed after the first step."""
    out = folder / "killed"
    out.mkdir()
    for name in FAMILIES:
        run = write_config(out / f"{name}.yaml", config_of(folder, name, out / name))
        run_command(out / f"{name}.log", "fit", "--config", str(run), killed_at=1, status=KILLED)
    return out


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_killed_run_resumes_bit_for_bit(folder, whole, killed, name, tmp_path):
    resumed = write_config(tmp_path / "resumed.yaml", config_of(folder, name, tmp_path / "resumed"))
    first = killed / name / "step=1.ckpt"
    assert not (killed / name / "step=2.ckpt").exists()
    assert main(["fit", "--config", str(resumed), "--ckpt_path", str(first)]) == 0
    before, again = weights(first), weights(tmp_path / "resumed" / "step=2.ckpt")
    expected = weights(whole(name) / "step=2.ckpt")
    assert any(not torch.equal(before[key], expected[key]) for key in expected)
    for key, value in expected.items():
        assert torch.equal(value, again[key]), key


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_predict_the_bytes_of_one(folder, whole):
    runs = [(whole(name), folder / name) for name in FAMILIES]
    run_forked(folder / "log", predict, runs, "two", TWO_RANKS, ranks=2)
    predict(runs, "one")
    for name in FAMILIES:
        one, two = (
            {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
            for out in (folder / f"{name}_one", folder / f"{name}_two")
        )
        assert {"room8/2.png", "room9/2.png"} <= one.keys()
        assert one.keys() == two.keys()
        assert [path for path in one if one[path] != two[path]] == [], name


@pytest.mark.parametrize("name", FAMILIES)
def test_a_trained_model_generates(whole, name, tmp_path):
    run = whole(name) / "run.yaml"
    generate = ["generate", "dataset", "--model", str(whole(name) / "model"), "--config", str(run)]
    generate += ["--out", str(tmp_path / "out"), "--num_inference_steps", "2", "--device", "cpu"]
    assert main(generate) == 0
    assert read_png(tmp_path / "out" / "room8" / "2.png").shape == (3, 16, 16)
    record = json.loads((tmp_path / "out" / "room8" / "sample.json").read_text())
    expected = "DDIMScheduler" if name == "sdxl" else "FlowMatchEulerDiscreteScheduler"
    assert record["settings"]["scheduler"] == expected


def test_a_run_from_the_text_cache_never_loads_the_text_encoder(folder, tmp_path, capsys, monkeypatch):
    cache = str(tmp_path / "text")
    sampling = {"num_inference_steps": 2, "negative_prompt": "blurry"}
    settings = {"base_dtype": "bfloat16", "cache": {"dir": cache}, "sampling": sampling}
    run = write_config(tmp_path / "run.yaml", config_of(folder, "sana", tmp_path / "loaded", **settings))
    only = settings | {"cache": {"dir": cache, "text_only": True}}
    alone = write_config(tmp_path / "alone.yaml", config_of(folder, "sana", tmp_path / "alone", **only))
    assert main(["fit", "--config", str(alone)]) == 1
    assert "Run `mvdiff data cache-text --config" in capsys.readouterr().err
    assert main(["data", "cache-text", "--config", str(alone), "--device", "cpu"]) == 0
    assert main(["fit", "--config", str(run)]) == 0
    monkeypatch.setattr("transformers.Gemma2Model.from_pretrained", AbsentPart.refuse)
    entries = sorted((tmp_path / "text").rglob("*"))
    assert main(["doctor", "--config", str(alone)]) == 0, capsys.readouterr().out
    assert sorted((tmp_path / "text").rglob("*")) == entries
    assert main(["fit", "--config", str(alone)]) == 0
    assert main(["predict", "--config", str(alone), "--ckpt_path", str(tmp_path / "alone" / "step=2.ckpt")]) == 0
    loaded, from_cache = (weights(tmp_path / out / "step=2.ckpt") for out in ("loaded", "alone"))
    for key, value in loaded.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, from_cache[key]), key


def test_a_prompt_that_the_cache_lacks_is_named(folder, tmp_path, capsys):
    only = {"cache": {"dir": str(tmp_path / "text"), "text_only": True}}
    run = write_config(tmp_path / "run.yaml", config_of(folder, "z_image", tmp_path / "out", **only))
    assert main(["data", "cache-text", "--config", str(run), "--device", "cpu"]) == 0
    assert main(["fit", "--config", str(run), "--model.prompt_prefix", "another "]) == 1
    assert "got none of 'another " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sana", {"sampling": {"clip_skip": 1}}, "clip_skip must be left out for transformers"),
        ("sana", {"sampling": {"sigmas": [0.5, 1.0]}}, "sigmas must descend from at most 1 to above 0; got [0.5, 1.0]"),
        ("sdxl", {"sampling": {"timesteps": [900, 500]}}, "timesteps must be left out for DDIMScheduler"),
        ("sdxl", {"sampling": {"clip_skip": 9}}, "clip_skip must lie between 0 and 1; got 9"),
        ("sana", {"snr_gamma": 5.0}, "model.snr_gamma must be null for"),
    ],
    ids=["clip_skip", "sigmas", "timesteps", "clip_skip out of range", "snr_gamma"],
)
def test_settings_that_do_not_fit_the_base_are_refused_before_training(folder, name, settings, message, tmp_path):
    base = config_of(folder, name, tmp_path)["model"]["init_args"]["base"]
    with pytest.raises(ValueError, match=re.escape(message)):
        MultiViewModule(base=base, **settings).configure_model()


@pytest.mark.parametrize(
    ("name", "negative", "zeros"),
    [*((name, negative, True) for name in FAMILIES for negative in (None, "blurry")), ("sdxl", None, False)],
)
def test_one_view_samples_as_the_familys_own_pipeline_does(name, negative, zeros):
    """Prompts, guidance, timesteps and network against diffusers, end to end, with one view."""
    base = tiny_bases.make(name)
    if not zeros:
        base.force_zeros_for_empty_prompt = False
    rig, scale, steps = Rig([(0, 0, 90)], height=64, width=64), 4.0, 3
    adapter = base.new_adapter({"init_args": {"head_dim": 8}})
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    pipeline = MultiViewPipeline.from_backbone(base, adapter, task=PanoramaTask(), views={"rig": rig})
    pipeline.set_progress_bar_config(disable=True)
    sampling = Sampling(num_inference_steps=steps, guidance_scale=scale, negative_prompt=negative)
    batch = rig_batch(rig, [["a red lamp"]])
    ours = pipeline.generate(batch, sampling, latents=latents[None], decode=False).latents[0]

    kind, parts = (
        getattr(diffusers, tiny_bases.PIPELINES[name]),
        tiny_bases.parts_of(base, "unet" if name == "sdxl" else "transformer"),
    )
    stock = kind(**parts, **({} if zeros else {"force_zeros_for_empty_prompt": False}))
    stock.set_progress_bar_config(disable=True)
    own = {"num_inference_steps": steps, "latents": latents.clone(), "output_type": "latent", "height": 64, "width": 64}
    if name == "z_image":
        scheduler = copy.deepcopy(base.scheduler)
        scheduler.set_timesteps(steps)
        before_shift = scheduler.sigmas[:-1] / (3 - 2 * scheduler.sigmas[:-1])
        own |= {"sigmas": before_shift.tolist(), "guidance_scale": scale - 1}
    else:
        own["guidance_scale"] = scale
    if name == "sana":
        own["use_resolution_binning"] = False
    if negative:
        own["negative_prompt"] = negative
    theirs = stock("a red lamp", **own).images
    torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)
