"""Model folders: what comes back is what was saved, and anything else is one clear error."""

import json
import os
import shutil

import pytest
import torch
from diffusers import EulerDiscreteScheduler

from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.pipelines.base_reference import location
from mvdiff.pipelines.model_folder import (
    BaseReference,
    ModelInfo,
    check_new_model_folder,
    load_adapter,
    load_scheduler,
    read_model_info,
    write_model_folder,
)
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.tasks.opening import task_from
from tests.faults import every_fault
from tests.pipelines.conftest import RING, make_pipeline
from tests.tiny import tiny_base

load = MVDiffusionPanoramaPipeline.from_pretrained


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_round_trip_is_bit_equal(pipeline, model_folder):
    loaded = quiet(load(model_folder))
    assert loaded.rig == RING
    assert loaded.prompt_prefix == pipeline.prompt_prefix
    assert loaded.base == pipeline.base
    assert dict(loaded.scheduler.config) == dict(pipeline.scheduler.config)
    assert all(not parameter.requires_grad for parameter in loaded.unet.parameters())
    settings = {"seed": 2, "num_inference_steps": 2, "output_type": "pt"}
    assert torch.equal(loaded("a ball", **settings).images, pipeline("a ball", **settings).images)


def test_holds_everything_but_the_base(model_folder):
    files = sorted(str(path.relative_to(model_folder)) for path in model_folder.rglob("*") if path.is_file())
    assert files == [
        "README.md",
        "adapter/config.json",
        "adapter/diffusion_pytorch_model.safetensors",
        "model_index.json",
        "mvdiff.json",
        "scheduler/scheduler_config.json",
    ]
    assert json.loads((model_folder / "model_index.json").read_text())["_class_name"] == "MVDiffusionPanoramaPipeline"
    assert not list(model_folder.parent.glob("*.tmp"))


def test_nothing_tells_where_the_adapter_was_loaded_from(model_folder, tmp_path):
    loaded = load(model_folder)
    assert str(model_folder) in loaded.adapter.config["_name_or_path"]  # diffusers notes it
    loaded.save_pretrained(tmp_path / "again")
    files = [path for path in (tmp_path / "again").rglob("*") if path.is_file()]
    assert len(files) == 6
    assert not [path for path in files if str(model_folder).encode() in path.read_bytes()]
    own, before = (
        {name: value for name, value in load(folder).adapter.config.items() if name != "_name_or_path"}
        for folder in (tmp_path / "again", model_folder)
    )
    assert own == before


def test_any_scheduler_comes_back_as_its_class(model_folder, tmp_path):
    adapter = MultiViewAdapter([32], 32, [32])
    info = read_model_info(model_folder)
    write_model_folder(tmp_path / "m", adapter, EulerDiscreteScheduler(beta_end=0.013), info)
    scheduler = load_scheduler(tmp_path / "m")
    assert type(scheduler) is EulerDiscreteScheduler
    assert scheduler.config.beta_end == 0.013


def test_saving_again_replaces_the_files_of_the_model(model_folder, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    stale, notes = (folder / "adapter" / name for name in ("diffusion_pytorch_model.bin", "notes.txt"))
    stale.write_text("")
    notes.write_text("mine")
    info = ModelInfo(
        task_from("panorama"), {"rig": RingRig(height=16, width=24)}, "", BaseReference("owner/name", "main")
    )
    write_model_folder(folder, MultiViewAdapter([32], 32, [32]), EulerDiscreteScheduler(), info)
    assert read_model_info(folder) == info
    assert not stale.exists()
    assert notes.read_text() == "mine"
    assert load_scheduler(folder).config.num_train_timesteps == EulerDiscreteScheduler().config.num_train_timesteps


def test_other_folders_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    info = ModelInfo(task_from("panorama"), {"rig": RING}, "", BaseReference("owner/name"))
    with pytest.raises(FileExistsError, match="must be new, empty or an earlier model folder"):
        write_model_folder(tmp_path, MultiViewAdapter([32], 32, [32]), EulerDiscreteScheduler(), info)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failed_write_keeps_the_earlier_model(model_folder, tmp_path, monkeypatch):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    adapter = MultiViewAdapter([32], 32, [32])
    monkeypatch.setattr(adapter, "save_pretrained", full_disk)
    with pytest.raises(OSError, match=r"model folder .* must be writable; got .*No space left.*Free up space"):
        write_model_folder(folder, adapter, EulerDiscreteScheduler(), read_model_info(model_folder))
    assert read_model_info(folder) == read_model_info(model_folder)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(folder, seed=5):
    torch.manual_seed(seed)
    return write_model_folder(
        folder, MultiViewAdapter([32], 32, [32]), EulerDiscreteScheduler(), read_model_info(folder)
    )


def test_whichever_write_fails_the_earlier_model_is_kept(model_folder, tmp_path, monkeypatch):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    before = content(folder)
    faults = 0
    for error in every_fault(monkeypatch, lambda: rewrite(folder)):
        assert "must be writable; got" in str(error)
        assert content(folder) == before
        faults += 1
    assert faults > 10
    assert load_adapter(folder).config.attention == load_adapter(model_folder).config.attention


def test_what_is_not_of_the_model_stays(model_folder, tmp_path, caplog):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    mine = {".git/HEAD": b"ref", "LICENSE": b"mine", "samples/0.png": b"mine", "../m.tmp/thesis.tex": b"mine"}
    for name, data in mine.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    rewrite(folder)
    assert not caplog.messages  # the card was as it had been written
    assert "EulerDiscrete" in (folder / "model_index.json").read_text()
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_bytes(card.replace("\n", "\r\n").encode())  # as git may check it out
    rewrite(folder)
    assert (folder / "README.md").read_bytes() == card.encode()
    (folder / "README.md").write_text(card + "My words.")
    for _ in range(2):
        caplog.clear()
        rewrite(folder)
        assert (folder / "README.md").read_text() == card + "My words."
        (message,) = caplog.messages
        assert message.startswith(f"{folder}: kept README.md, which was edited; delete it")
    assert {name: (folder / name).read_bytes() for name in mine} == mine


@pytest.mark.parametrize("edited", [False, True])
def test_a_card_of_an_earlier_version_is_kept_where_it_was_edited(model_folder, tmp_path, caplog, edited):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    values = json.loads((folder / "mvdiff.json").read_text())
    del values["card_hash"]
    (folder / "mvdiff.json").write_text(json.dumps(values))
    if edited:
        (folder / "README.md").write_text((folder / "README.md").read_text() + "My words.")
    new = ModelInfo(task_from("panorama"), {"rig": RING}, "", BaseReference("owner/another"))
    write_model_folder(folder, MultiViewAdapter([32], 32, [32]), EulerDiscreteScheduler(), new)
    card = (folder / "README.md").read_text()
    assert ("My words." in card, "owner/another" in card, "kept README.md" in caplog.text) == (
        edited,
        not edited,
        edited,
    )


def test_a_model_is_written_to_a_new_repository(model_folder, tmp_path, caplog):
    mine = {".git/HEAD": b"ref", ".gitattributes": b"lfs", "LICENSE": b"mine", "README.md": b"my model"}
    for name, data in mine.items():
        (tmp_path / "m" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / name).write_bytes(data)
    check_new_model_folder(tmp_path / "m", overwrite=False)
    info = read_model_info(model_folder)
    write_model_folder(tmp_path / "m", MultiViewAdapter([32], 32, [32]), EulerDiscreteScheduler(), info)
    assert read_model_info(tmp_path / "m") == info
    assert {name: (tmp_path / "m" / name).read_bytes() for name in mine} == mine
    assert "kept README.md" in caplog.text


@pytest.mark.parametrize("name", ["README.md", "mvdiff.json", "adapter/config.json", "scheduler/scheduler_config.json"])
def test_a_link_in_a_model_folder_is_refused_before_the_work(model_folder, tmp_path, name):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    (folder / name).rename(tmp_path / "target")
    (folder / name).symlink_to(tmp_path / "target")
    before = content(tmp_path)
    with pytest.raises(OSError, match=r"is a link to .*; give the file itself\.$"):
        rewrite(folder)
    assert content(tmp_path) == before


def test_links_and_devices_are_refused_before_the_work(model_folder, tmp_path):
    (tmp_path / "link").symlink_to(model_folder)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("mine")
    for name, text in (
        ("link", "is a link to"),
        ("pipe", "must be a folder"),
        ("file", "must be a folder; it is a fil"),
    ):
        with pytest.raises(OSError, match=text):
            check_new_model_folder(tmp_path / name, overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match="must be new, empty or an earlier model folder"):
        check_new_model_folder(tmp_path / "thesis", overwrite=True)
    (tmp_path / "empty" / ".new.1-2.partial").mkdir(parents=True)  # of a killed run
    check_new_model_folder(tmp_path / "empty", overwrite=False)


def test_another_base_is_refused_by_its_weights(pipeline, model_folder, tmp_path):
    other = tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"base must be the one that the model was trained on, .*; got .*other"):
        load(model_folder, base=other)
    assert load(model_folder, base=other, check_base=False).base.id == str(other)
    shutil.rmtree(other)
    shutil.copytree(pipeline.base.id, other)
    assert load(model_folder, base=other).base.weights_hash == pipeline.base.weights_hash


def test_a_missing_base_says_which_one_is_needed(model_folder, tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    values = json.loads((folder / "mvdiff.json").read_text())
    values["base"] |= {"id": "nobody/no-such-base", "revision": "v1"}
    (folder / "mvdiff.json").write_text(json.dumps(values))
    with pytest.raises(FileNotFoundError, match=r"needs the base nobody/no-such-base \(revision v1\).*hf download"):
        load(folder)


def test_a_relative_base_or_vae_is_found_from_the_model_folder(tmp_path, monkeypatch):
    make_pipeline(tmp_path / "base").save_pretrained(tmp_path / "models" / "m")
    vae = tiny_base(tmp_path / "other", seed=1) / "vae"
    pipeline = load(tmp_path / "models" / "m", vae=vae, check_base=False)
    pipeline.save_pretrained(tmp_path / "models" / "with_vae")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for name, expected in (("m", None), ("with_vae", str(vae))):
        path = tmp_path / "models" / name / "mvdiff.json"
        recorded = json.loads(path.read_text())["base"]
        assert (recorded["id"], recorded["vae"]) == ("../../base", None if expected is None else "../../other/vae")
        assert load(path.parent).base.vae == expected
    assert location(tmp_path, "owner/name") == "owner/name"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, r"schema must be 1; got 2, in .*mvdiff.json"),
        ({"task": "mesh"}, r"task must be one of panorama, outpaint, depth.*got 'mesh'"),
        ({"task": "depth"}, r"model description must have height, width, prompt_prefix and base"),
        ({"rig": {"views": [[0, 0, 90]]}}, r"rig must have the keys views, height, width"),
        ({"base": {"name": "x"}}, r"model description must have rig, prompt_prefix and base"),
        ({"training": {"when": "today"}}, r"model description must have rig, prompt_prefix and base; got .*when"),
    ],
)
def test_broken_descriptions(model_folder, tmp_path, change, message):
    values = json.loads((model_folder / "mvdiff.json").read_text()) | change
    (tmp_path / "mvdiff.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        read_model_info(tmp_path)


def test_an_adapter_of_another_kind_of_task(model_folder, tmp_path):
    """A depth adapter in a panorama's folder of an earlier version, which recorded no hash."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    info = json.loads((folder / "mvdiff.json").read_text())
    del info["adapter_weights_hash"]
    (folder / "mvdiff.json").write_text(json.dumps(info))
    depth = {"residual": True, "image_condition": True, "mid_place": "after_mid_block"}
    MultiViewAdapter([32, 64], 64, [64, 32], **depth).save_pretrained(str(folder / "adapter"))
    with pytest.raises(ValueError, match="no image-condition blocks for the task panorama"):
        load(folder)
    released = {"class_path": "mvdiff.interop.attention.UpstreamAttention", "init_args": {"depth": True}}
    MultiViewAdapter([32, 64], 64, [64, 32], attention=released).save_pretrained(str(folder / "adapter"))
    with pytest.raises(ValueError, match="views that share a centre; got one for views with depth"):
        load(folder)


def test_broken_folders(pipeline, model_folder, tmp_path):
    base = r"model must be a model folder with mvdiff\.json; got .*base, which is a base without an adapter\. .*--base"
    with pytest.raises(FileNotFoundError, match=base):
        load(pipeline.base.id)
    with pytest.raises(FileNotFoundError, match=r"model must be a model folder with mvdiff.json; got .*Make one with"):
        load(tmp_path)
    (tmp_path / "mvdiff.json").write_text("{")
    with pytest.raises(ValueError, match=r"mvdiff.json must be JSON \("):
        load(tmp_path)
    cut = tmp_path / "cut"
    shutil.copytree(model_folder, cut)
    weights = cut / "adapter" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"weights must be a readable file of a MultiViewAdapter; got .*safetensors"):
        load(cut)
    for widths in ([32, 96], [32, 64]):  # another shape; the same shape, with other weights
        MultiViewAdapter(widths, widths[-1], widths[::-1]).save_pretrained(str(cut / "adapter"))
        with pytest.raises(ValueError, match=r"adapter must be the one that mvdiff\.json describes, .* in .*cut"):
            load(cut)
    shutil.rmtree(cut / "adapter")
    with pytest.raises(FileNotFoundError, match=r"cut/adapter"):
        load(cut)
    (cut / "model_index.json").write_text(json.dumps({"scheduler": ["diffusers", "NoSuchScheduler"]}))
    with pytest.raises(ValueError, match=r"scheduler must be one of .*DDIM.*; got 'NoSuchScheduler'"):
        load_scheduler(cut)
    (cut / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model_index.json must name the scheduler's class"):
        load_scheduler(cut)


def test_dtype(model_folder):
    loaded = load(model_folder, dtype=torch.bfloat16)
    assert {loaded.unet.dtype, loaded.vae.dtype, loaded.text_encoder.dtype, loaded.adapter.dtype} == {torch.bfloat16}


def test_a_file_in_the_place_of_a_model_or_base_is_no_hub_id(model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.ckpt").write_bytes(b"weights")
    text = (
        r"model must be a model folder with mvdiff\.json; got a/b\.ckpt, which is a file\. .*`mvdiff export a/b\.ckpt "
        r"--out DIR` .* `mvdiff convert upstream a/b\.ckpt --task TASK --out DIR`"
    )
    with pytest.raises(FileNotFoundError, match=text):
        load("a/b.ckpt")
    for setting in ("base", "vae"):
        text = rf"{setting} must be a folder or a hub id 'owner/name'; got 'a/b\.ckpt', which is a file"
        with pytest.raises(FileNotFoundError, match=text):
            load(model_folder, **{setting: "a/b.ckpt"})
