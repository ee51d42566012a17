"""Model folders on the hub: huggingface_hub's own client, and a server on this machine that answers as the hub does."""

from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard

from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.pipelines.model_folder import model_location, read_model_info
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from tests.pipelines.conftest import make_pipeline
from tests.pipelines.hub_server import COMMIT, TOKEN, local_hub

STEPS = {"seed": 1, "num_inference_steps": 1, "output_type": "pt"}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with local_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture
def shared(tmp_path):
    """A pipeline whose base is on the hub, as far as its model folder says."""
    pipeline = make_pipeline(tmp_path / "base")
    pipeline.base = replace(pipeline.base, id="owner/base", revision="main")
    return pipeline


def test_what_is_pushed_comes_back_by_its_hub_id(hub, shared, tmp_path):
    shared.push_to_hub("owner/caa", token=TOKEN, private=True)
    assert hub.created["owner/caa"].get("visibility") == "private"
    files = hub.repos["owner/caa"]
    assert sorted(files) == [
        "README.md",
        "adapter/config.json",
        "adapter/diffusion_pytorch_model.safetensors",
        "model_index.json",
        "mvdiff.json",
        "scheduler/scheduler_config.json",
    ]
    assert hub.cards == [files["README.md"].decode()]  # the hub looked at the card's metadata
    loaded = MVDiffusionPanoramaPipeline.from_pretrained("owner/caa", revision="v1", base=tmp_path / "base")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded("a ball", **STEPS).images, shared("a ball", **STEPS).images)
    with pytest.raises(FileNotFoundError, match=r"model must be .*'owner/caa' at revision 'v2'"):
        model_location("owner/caa", "v2")
    with pytest.raises(FileNotFoundError, match=r"needs the base owner/base \(revision main\): base must be a local"):
        MVDiffusionPanoramaPipeline.from_pretrained("owner/caa")


def test_the_base_comes_from_the_hub_by_id_and_revision(hub, shared, tmp_path):
    hub.repos["owner/base"] = {
        str(path.relative_to(tmp_path / "base")): path.read_bytes()
        for path in (tmp_path / "base").rglob("*")
        if path.is_file()
    }
    shared.save_pretrained(tmp_path / "caa", push_to_hub=True, repo_id="owner/caa", token=TOKEN)
    assert read_model_info(tmp_path / "caa").base.id == "owner/base"
    loaded = MVDiffusionPanoramaPipeline.from_pretrained("owner/caa")
    assert loaded.base == replace(shared.base, revision=COMMIT)  # the commit that was opened, not "main"
    hub.repos["owner/vae"] = {
        name: content for name, content in hub.repos["owner/base"].items() if name.startswith("vae/")
    }
    for vae in ("owner/vae", "owner/vae@v1"):
        loaded = MVDiffusionPanoramaPipeline.from_pretrained("owner/caa", base="owner/base@v1", vae=vae)
        assert (loaded.base.id, loaded.base.revision, loaded.base.vae) == ("owner/base", COMMIT, f"owner/vae@{COMMIT}")
    loaded.save_pretrained(tmp_path / "again")
    assert MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "again").base == loaded.base
    with pytest.raises(ValueError, match=r"base must be of one revision; got owner/base@v1 and the revision main"):
        load_backbone("owner/base@v1", "main")


def test_a_model_without_card_writing_rights_or_network_is_one_clear_error(hub, shared, tmp_path):
    with pytest.raises(OSError, match=r"repo_id must be a hub repository .*owner/caa.*hf auth login"):
        shared.push_to_hub("owner/caa", token="hf_wrong")
    hub.shutdown()
    hub.server_close()
    with pytest.raises(OSError, match="repo_id must be a hub repository that you can reach"):
        shared.push_to_hub("owner/caa", token=TOKEN)


def test_offline_and_wrong_names(shared, pipeline, tmp_path):
    with pytest.raises(OSError, match="OfflineModeIsEnabled"):
        shared.push_to_hub("owner/caa", token=TOKEN)
    for name in ("owner/with/too/many", "bad name!", "owner/a--b", "owner/a.git", "-a", 97 * "a"):
        text = rf"repo_id must be 'owner/name', or 'name' .*; got {name!r}\."
        with pytest.raises(ValueError, match=text):
            shared.push_to_hub(name, token=TOKEN)
    with pytest.raises(ValueError, match="repo_id must be 'owner/name'"):
        shared.save_pretrained(tmp_path / "a model", push_to_hub=True, token=TOKEN)
    assert not (tmp_path / "a model").exists()
    with pytest.raises(ValueError, match=r"base must be a hub id .*; got '/.*base'"):
        pipeline.push_to_hub("owner/caa", token=TOKEN)
    with pytest.raises(FileNotFoundError, match="hf download owner/nothing --revision v3 --local-dir FOLDER"):
        MVDiffusionPanoramaPipeline.from_pretrained("owner/nothing", revision="v3")


def test_saving_does_not_upload(shared, tmp_path):
    shared.save_pretrained(tmp_path / "caa")
    assert ModelCard.load(tmp_path / "caa" / "README.md").data.base_model == "owner/base"
    assert MultiViewPipeline.push_to_hub.__qualname__.startswith("MultiViewPipeline")  # not diffusers' own
