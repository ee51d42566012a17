"""What the conversion of published checkpoints refuses, and what it leaves on disk then."""

import shutil

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.interop.conversion import convert_checkpoint, convert_single_view, export_to_upstream
from mvdiff.models.backbone import load_backbone
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from tests.faults import full_disk
from tests.interop.files import attention_weights, base_weights, write_file
from tests.interop.places import WIDTHS, make_base, write_places


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return write_places(tmp_path_factory.mktemp("upstream"))


def test_what_cannot_be_written_leaves_nothing(places, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    convert_checkpoint(places["panorama"], "panorama", tmp_path / "model", places["panorama-base"])
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(OSError, match=r"out must be writable; got .*No space left on device"):
        export_to_upstream(tmp_path / "model", tmp_path / "back.ckpt")
    monkeypatch.setattr("mvdiff.models.backbone.Backbone.save_pretrained", full)
    arguments = places["depth"], "depth", tmp_path / "depth", places["depth-base"]
    with pytest.raises(OSError, match=r"the base's folder .* must be writable; got .*No space left on device"):
        convert_checkpoint(*arguments, save_base=tmp_path / "base")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    monkeypatch.undo()
    monkeypatch.setattr("mvdiff.models.adapter.MultiViewAdapter.save_pretrained", full)
    with pytest.raises(OSError, match=r"model folder .* must be writable; got .*No space left on device"):
        convert_checkpoint(*arguments, save_base=tmp_path / "base")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_overwrite_keeps_the_old_checkpoint_and_files_beside_it(places, tmp_path, monkeypatch):
    convert_checkpoint(places["panorama"], "panorama", tmp_path / "model", places["panorama-base"])
    for name in ("back.ckpt", "back.ckpt.tmp"):
        (tmp_path / name).write_text("mine")
    with monkeypatch.context() as patch:
        full_disk(patch, call=1)
        with pytest.raises(OSError, match=r"out must be writable; got .*No space left on device"):
            export_to_upstream(tmp_path / "model", tmp_path / "back.ckpt", overwrite=True)
    assert (tmp_path / "back.ckpt").read_text() == (tmp_path / "back.ckpt.tmp").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back.ckpt", "back.ckpt.tmp", "model"]
    export_to_upstream(tmp_path / "model", tmp_path / "back.ckpt", overwrite=True)
    assert (tmp_path / "back.ckpt.tmp").read_text() == "mine"
    assert (tmp_path / "back.ckpt").stat().st_size > 1000


def test_a_folder_with_other_files_is_refused_before_the_checkpoint_is_read(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("mine")
    nowhere = tmp_path / "nowhere.ckpt"
    with pytest.raises(FileExistsError, match="must be new, empty or an earlier model folder"):
        convert_checkpoint(nowhere, "panorama", tmp_path / "thesis", "base", overwrite=True)
    with pytest.raises(FileExistsError, match="the base's folder must be new or empty"):
        convert_checkpoint(nowhere, "depth", tmp_path / "new", "base", save_base=tmp_path / "thesis")
    with pytest.raises(FileExistsError, match="the base's folder must be new or empty"):
        convert_single_view(nowhere, tmp_path / "thesis", "base")


@pytest.mark.parametrize(("out", "save_base"), [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("c/../a", "./a")])
def test_model_and_base_in_one_folder_are_refused(places, tmp_path, monkeypatch, out, save_base):
    monkeypatch.chdir(tmp_path)
    arguments = places["depth"], "depth", out, places["depth-base"]
    with pytest.raises(ValueError, match=f"save_base and out must not contain each other; got {save_base} and"):
        convert_checkpoint(*arguments, save_base=save_base)
    assert not list(tmp_path.iterdir())


def test_a_model_does_not_replace_the_folder_that_its_base_lies_in(places, tmp_path):
    convert_checkpoint(places["depth"], "depth", tmp_path / "model", places["depth-base"])
    base = shutil.copytree(places["depth-base"], tmp_path / "model" / "base")
    with pytest.raises(ValueError, match="base and out must not contain each other"):
        convert_checkpoint(places["depth"], "depth", tmp_path / "model", base)
    assert (base / "unet").is_dir()


@pytest.mark.parametrize(
    ("task", "size", "text"),
    [
        (
            "depth",
            {"height": 0},
            "height must be a positive multiple of 8 pixels, .*; got 0. The 2023 release's height is 192",
        ),
        (
            "depth",
            {"width": -8},
            "width must be a positive multiple of 8 pixels, .*; got -8. The 2023 release's width is 256",
        ),
        (
            "depth",
            {"height": 24, "width": 24},
            "must give an even number of cells of 8 pixels .*; got 24x24. .*192x256",
        ),
        (
            "panorama",
            {"height": 100},
            "height must be a positive multiple of 8 pixels, .*; got 100. The 2023 release's height is 512",
        ),
        ("outpaint", {"width": 0}, "width must be a positive multiple of 8 pixels, .*; got 0"),
    ],
)
def test_sides_that_the_model_cannot_take_are_refused(places, tmp_path, task, size, text):
    """Two levels on an autoencoder of 4 pixels a cell: the largest cell has 8."""
    with pytest.raises(ValueError, match=text):
        convert_checkpoint(places[task], task, tmp_path / "model", places[f"{task}-base"], **size)
    assert not (tmp_path / "model").exists()
    fitting = {"height": 24, "width": 24 if task == "panorama" else 32}
    done = convert_checkpoint(places[task], task, tmp_path / "model", places[f"{task}-base"], **fitting)
    rig = done.info.views.get("rig")
    assert (done.info.views if rig is None else {"height": rig.height, "width": rig.width}) == fitting


def test_what_is_wrong_with_base_and_attention_is_said_at_once(places, tmp_path):
    state = torch.load(places["panorama"], weights_only=False)["state_dict"]
    gone = ["mv_base_model.cp_blocks_mid.transformer.norm1.bias", "vae.encoder.conv_in.weight"]
    more = ["mv_base_model.zzz", "text_encoder.text_model.more"]
    state = {name: value for name, value in state.items() if name not in gone} | {n: torch.zeros(2) for n in more}
    path = write_file(tmp_path / "bad.ckpt", state)
    with pytest.raises(ValueError, match=f"got 2 missing: {', '.join(gone)}; 2 unexpected: {', '.join(more)}; in"):
        convert_checkpoint(path, "panorama", tmp_path / "model", places["panorama-base"])
    assert not (tmp_path / "model").exists()


def test_a_file_without_a_base_cannot_give_one(places, tmp_path):
    path = write_file(tmp_path / "attention.ckpt", attention_weights(WIDTHS, depth=True))
    with pytest.raises(ValueError, match=r"must have a base under mv_base_model.unet. .*--save_base"):
        convert_checkpoint(path, "depth", tmp_path / "m", places["depth-base"], save_base=tmp_path / "base")
    assert [one.name for one in tmp_path.iterdir()] == ["attention.ckpt"]


def test_a_finetuned_base_in_the_file_is_refused_or_saved(places, tmp_path):
    other = make_base(tmp_path / "other", 5, seed=1)
    arguments = (places["depth"], "depth", tmp_path / "model", other)
    with pytest.raises(ValueError, match=r"base must be the one .* whose unet .* \d+ of \d+ weights.*--save_base DIR"):
        convert_checkpoint(*arguments)
    assert not (tmp_path / "model").exists()
    done = convert_checkpoint(*arguments, save_base=tmp_path / "saved")
    assert done.saved_base
    assert done.info.base.id == str(tmp_path / "saved")
    for saved, expected in zip(
        load_backbone(tmp_path / "saved").unet.parameters(),
        load_backbone(places["depth-base"]).unet.parameters(),
        strict=True,
    ):
        assert torch.equal(saved, expected)
    MVDiffusionDepthPipeline.from_pretrained(tmp_path / "model")  # checks the base's hash
    with pytest.raises(FileExistsError, match="the base's folder must be new or empty"):
        convert_checkpoint(*arguments, save_base=tmp_path / "saved", overwrite=True)


def test_a_single_view_file_is_held_to_its_names(places, tmp_path):
    whole = base_weights(load_backbone(places["depth-base"]))
    unet = {name: value for name, value in whole.items() if name.startswith("mv_base_model.unet.")}
    more = unet | {"other.x": torch.ones(2), "mv_base_model.strange.weight": torch.ones(3)}
    path = write_file(tmp_path / "more.ckpt", more)
    with pytest.raises(ValueError, match=r"got 2 unexpected: mv_base_model.strange.weight, other.x; in .*more.ckpt"):
        convert_single_view(path, tmp_path / "no", places["depth-base"])
    bare = {name.removeprefix("mv_base_model."): value for name, value in whole.items() if "text_encoder" not in name}
    path = write_file(tmp_path / "bare.ckpt", bare)
    with pytest.raises(ValueError, match=f"got {len(unet)} missing: mv_base_model.unet.*; {len(unet)} unexp") as error:
        convert_single_view(path, tmp_path / "no", places["depth-base"])
    assert all(f" {name}" in str(error.value) for name in unet)
    assert "save_base" not in str(error.value)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("file", "task", "base", "text"),
    [
        (
            "depth",
            "panorama",
            "panorama",
            "for the task panorama; got a file that looks like depth, with weight names that begin",
        ),
        ("panorama", "depth", "depth", "for the task depth; got a file that looks like panorama or outpainting"),
        (
            "outpaint",
            "panorama",
            "panorama",
            "must have 0 input channels .* got 5, as for outpaint, in checkpoint",
        ),
        (
            "panorama",
            "panorama",
            "depth",
            "must have 0 input channels besides the latents; got 1, as for depth, in base",
        ),
    ],
)
def test_a_file_for_another_task_says_what_it_looks_like(places, tmp_path, file, task, base, text):
    with pytest.raises(ValueError, match=text):
        convert_checkpoint(places[file], task, tmp_path / "model", places[f"{base}-base"])
    assert not (tmp_path / "model").exists()


def test_no_file_of_upstreams_is_said_to_be_one(places, tmp_path):
    path = write_file(tmp_path / "other.ckpt", {"model.diffusion_model.x": torch.zeros(1)})
    with pytest.raises(
        ValueError, match="like none of the models of the 2023 release, with weight names that begin with model, in"
    ):
        convert_checkpoint(path, "panorama", tmp_path / "model", places["panorama-base"])
    with pytest.raises(ValueError, match="for the task depth-single-view; got a file that looks like panorama"):
        convert_single_view(places["panorama"], tmp_path / "base", places["depth-base"])
    with pytest.raises(ValueError, match="task must be one of panorama, outpaint, depth; got 'sphere'"):
        convert_checkpoint(path, "sphere", tmp_path / "model")


def test_what_exists_is_replaced_only_where_that_is_asked_for(places, tmp_path, capsys):
    model, back = tmp_path / "model", tmp_path / "back.ckpt"
    convert = ["convert", "upstream", str(places["outpaint"]), "--task", "outpaint", "--out", str(model)]
    convert += ["--base", str(places["outpaint-base"])]
    export = ["convert", "to-upstream", str(model), "--out", str(back)]
    assert main(convert) == 0
    assert f"{model}: an outpaint model of 8 views on the base" in capsys.readouterr().out
    assert main(export) == 0
    (model / "mine.txt").write_text("")
    back.write_text("mine")
    for command, text in (
        (
            convert,
            f"out must be a new or empty folder; got {model}, which has a model. Pass --overwrite",
        ),
        (
            export,
            f"out must be a new file; got {back}, which exists. Pass --overwrite to replace it, or choose another",
        ),
    ):
        assert main(command) == 1
        assert text in capsys.readouterr().err
    assert (model / "mine.txt").exists()
    assert back.read_text() == "mine"
    for command in (convert, export):
        assert main([*command, "--overwrite"]) == 0
    assert (model / "mine.txt").exists()
    assert len(torch.load(back, weights_only=True)["state_dict"]) == 70
    with pytest.raises(
        FileExistsError, match=r"out must be a new file; got .*, which is a folder\. Choose another --out"
    ):
        export_to_upstream(model, tmp_path, overwrite=True)


def test_a_base_is_never_replaced(places, capsys):
    base = places["depth-base"]
    command = ["convert", "upstream", "x.ckpt", "--task", "depth-single-view", "--out", str(base), "--overwrite"]
    assert main(command) == 1
    assert "--overwrite must be left out with --task depth-single-view, which writes a base" in capsys.readouterr().err
