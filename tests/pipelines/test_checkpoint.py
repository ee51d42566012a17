"""export_checkpoint on files like those that `mvdiff fit` writes."""

import pickle

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.cli.train import check_checkpoint
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.pipelines.checkpoint import CHECKPOINT_KEY, export_checkpoint
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.model_folder import load_adapter, load_scheduler, read_model_info
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from tests.pipelines.conftest import trained_like
from tests.pipelines.depth_pipelines import make_depth_pipeline


@pytest.fixture
def checkpoint(pipeline):
    """The entries of a checkpoint with EMA: `state_dict` is the average."""
    adapter, current = pipeline.adapter, trained_like(MultiViewAdapter.from_unet(pipeline.unet), seed=1)
    config = {key: value for key, value in adapter.config.items() if not key.startswith("_")}
    scheduler = pipeline.scheduler
    return {
        "epoch": 3,
        "state_dict": {f"adapter.{name}": value for name, value in adapter.state_dict().items()},
        "current_model_state": {f"adapter.{name}": value for name, value in current.state_dict().items()},
        CHECKPOINT_KEY: {
            "info": pipeline.model_info.to_dict(),
            "adapter": config,
            "scheduler": [type(scheduler).__name__, dict(scheduler.config)],
        },
    }


def save(values, path):
    torch.save(values, path)
    return path


def test_gives_the_pipeline_that_was_trained(pipeline, checkpoint, tmp_path):
    info = export_checkpoint(save(checkpoint, tmp_path / "last.ckpt"), tmp_path / "model")
    assert info.base == pipeline.base
    loaded = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model")
    loaded.set_progress_bar_config(disable=True)
    settings = {"seed": 2, "num_inference_steps": 1, "output_type": "pt"}
    assert torch.equal(loaded("a ball", **settings).images, pipeline("a ball", **settings).images)
    assert load_scheduler(tmp_path / "model").config.steps_offset == 1


OLD_SETTINGS = {"kernel_size": 3, "head_dim": 32, "variant": "paper", "wavelengths": [0.5, 16.0], "neighbours": None}
"""Of an adapter's config at commit 874fe59, which kept the attention's settings flat."""


@pytest.mark.parametrize("task", ["panorama", "depth"])
def test_a_checkpoint_of_the_first_format_exports(pipeline, tmp_path, task):
    """As commit 874fe59 wrote them, hyperparameters and training record included."""
    pipeline = make_depth_pipeline(tmp_path / "base") if task == "depth" else pipeline
    names = ("down_channels", "mid_channels", "up_channels", "latent_channels", "mid_place", "residual")
    config = {name: pipeline.adapter.config[name] for name in (*names, "image_condition")}
    settings = {"optimizer steps": 3, "prompt_prefix": pipeline.prompt_prefix, "variant": "paper", "kernel_size": 3}
    views = {"height": 24, "width": 32} if task == "depth" else {"rig": pipeline.views["rig"].to_dict()}
    values = {
        "epoch": 2,
        "global_step": 3,
        "pytorch-lightning_version": "2.6.0",
        "hyper_parameters": {"_class_path": "mvdiff.training.depth.DepthMultiViewModule", "kernel_size": 3},
        "state_dict": {f"adapter.{name}": value for name, value in pipeline.adapter.state_dict().items()},
        CHECKPOINT_KEY: {
            "info": {
                "schema": 1,
                "task": task,
                **views,
                "prompt_prefix": pipeline.prompt_prefix,
                "base": {"id": pipeline.base.id, "revision": None, "weights_hash": None, "vae": None},
                "training": {"data": "D", "settings": settings, "scores": {}, "measured": "", "versions": {}},
            },
            "adapter": config | OLD_SETTINGS | {"min_overlap": 0.3 if task == "depth" else 0.01},
            "scheduler": [type(pipeline.scheduler).__name__, dict(pipeline.scheduler.config)],
        },
    }
    info = export_checkpoint(save(values, tmp_path / "old.ckpt"), tmp_path / "model")
    assert (info.task.name, info.prompt_prefix) == (task, pipeline.prompt_prefix)
    assert info.training.settings == settings
    loaded = load_adapter(tmp_path / "model")
    assert loaded.config.attention == pipeline.adapter.config.attention
    assert all(torch.equal(value, pipeline.adapter.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_depth_checkpoint_gives_a_depth_model(tmp_path, capsys):
    pipeline = make_depth_pipeline(tmp_path / "base")
    adapter, scheduler = pipeline.adapter, pipeline.scheduler
    described = {
        "info": pipeline.model_info.to_dict(),
        "adapter": {key: value for key, value in adapter.config.items() if not key.startswith("_")},
        "scheduler": [type(scheduler).__name__, dict(scheduler.config)],
    }
    state = {f"adapter.{name}": value for name, value in adapter.state_dict().items()}
    path = save({"state_dict": state, CHECKPOINT_KEY: described}, tmp_path / "last.ckpt")
    assert main(["export", str(path), "--out", str(tmp_path / "model")]) == 0
    assert "a depth model of frames of 32 x 24 pixels on the base" in capsys.readouterr().out
    assert read_model_info(tmp_path / "model") == pipeline.model_info
    loaded = MVDiffusionDepthPipeline.from_pretrained(tmp_path / "model")
    assert loaded.takes_images
    assert all(torch.equal(value, state[f"adapter.{name}"]) for name, value in loaded.adapter.state_dict().items())


def test_weights_with_and_without_ema(checkpoint, tmp_path):
    path = save(checkpoint, tmp_path / "last.ckpt")
    for use_ema, entry in ((True, "state_dict"), (False, "current_model_state")):
        export_checkpoint(path, tmp_path / "model", use_ema=use_ema, overwrite=not use_ema)
        state = load_adapter(tmp_path / "model").state_dict()
        assert all(torch.equal(value, checkpoint[entry][f"adapter.{name}"]) for name, value in state.items())
    del checkpoint["current_model_state"]
    export_checkpoint(save(checkpoint, path), tmp_path / "plain", use_ema=False)
    state = load_adapter(tmp_path / "plain").state_dict()
    assert all(torch.equal(value, checkpoint["state_dict"][f"adapter.{name}"]) for name, value in state.items())


def test_an_earlier_model_is_replaced_only_where_that_is_asked_for(checkpoint, tmp_path):
    path, model = save(checkpoint, tmp_path / "last.ckpt"), tmp_path / "model"
    export_checkpoint(path, model)
    (model / "mine.txt").write_text("")
    with pytest.raises(
        FileExistsError, match=r"out must be a new or empty folder; got .*model, which .*Pass --overwrite"
    ):
        export_checkpoint(path, model)
    assert (model / "mine.txt").exists()
    assert main(["export", str(path), "--out", str(model), "--overwrite"]) == 0
    assert (model / "mine.txt").exists()


def test_checkpoints_of_other_models(checkpoint, tmp_path):
    other = save({"state_dict": {"vae.encoder.weight": torch.zeros(1)}}, tmp_path / "vae.ckpt")
    with pytest.raises(ValueError, match=r"got a checkpoint of another model, with vae, in .*vae.ckpt"):
        export_checkpoint(other, tmp_path / "model")
    checkpoint["state_dict"].popitem()
    with pytest.raises(ValueError, match=r"got a checkpoint of another model: [^.]*\s+Missing key"):
        export_checkpoint(save(checkpoint, tmp_path / "cut.ckpt"), tmp_path / "model")
    with pytest.raises(ValueError, match="must be a Lightning checkpoint with a state_dict; got Tensor"):
        export_checkpoint(save(torch.zeros(1), tmp_path / "tensor.pt"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_unreadable_files(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"checkpoint must be an existing file; got .*none.ckpt"):
        export_checkpoint(tmp_path / "none.ckpt", tmp_path / "model")
    path = save(checkpoint, tmp_path / "last.ckpt")
    cut = "checkpoint must be a whole file; got one whose end is missing"
    other = "checkpoint must be a zip archive"
    for content, text in ((path.read_bytes()[:5000], cut), (b"", other), (b"not a checkpoint", other)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{text}.*last\.ckpt"):
            export_checkpoint(path, tmp_path / "model")


class Harmful:
    """Unpickling this would run code."""

    ran = False

    def __reduce__(self):
        return (setattr, (Harmful, "ran", True))


def test_code_in_a_checkpoint_does_not_run(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": Harmful()}, path)
    with pytest.raises(ValueError, match="checkpoint must hold only tensors and plain values; got a pickled"):
        export_checkpoint(path, tmp_path / "model")
    path.write_bytes(pickle.dumps({"state_dict": Harmful()}))
    with pytest.raises(ValueError, match="checkpoint must be a zip archive"):
        export_checkpoint(path, tmp_path / "model")
    assert not Harmful.ran


def test_a_changed_byte_is_found_before_export_and_resume(checkpoint, tmp_path):
    path = save(checkpoint, tmp_path / "last.ckpt")
    value = checkpoint["state_dict"]["adapter.mid_block.to_q.weight"].numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(value) + 3] ^= 1
    path.write_bytes(bytes(data))
    for use in (lambda: export_checkpoint(path, tmp_path / "model"), lambda: check_checkpoint(str(path), resume=True)):
        with pytest.raises(ValueError, match=r"another CRC-32, in .*last\.ckpt"):
            use()
    assert not (tmp_path / "model").exists()
