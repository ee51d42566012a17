"""Published checkpoints become model folders that run, and come back bit for bit."""

import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from torch.testing import assert_close

from mvdiff.cli.main import main
from mvdiff.geometry.cameras import RingRig
from mvdiff.interop.attention import CLASS_PATH, UpstreamAttention
from mvdiff.interop.conversion import convert_checkpoint, convert_single_view, export_to_upstream
from mvdiff.models.backbone import load_backbone
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.pipelines.depth import MVDiffusionDepthPipeline
from mvdiff.pipelines.hub import check_shareable
from mvdiff.pipelines.model_folder import load_adapter, read_model_info
from mvdiff.pipelines.outpaint import MVDiffusionOutpaintPipeline
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from tests.cli.last_lines import next_commands
from tests.geometries import camera_geometry
from tests.interop.files import attention_weights, base_weights, write_file
from tests.interop.places import WIDTHS, make_base, write_places
from tests.pipelines.depth_pipelines import given, walls

SMALL = RingRig(num_views=8, height=32, width=32)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    return write_places(tmp_path_factory.mktemp("upstream"))


def test_a_panorama_file_becomes_a_model_that_runs(places, tmp_path):
    done = convert_checkpoint(places["panorama"], "panorama", tmp_path / "model", places["panorama-base"])
    # Per block of 32 channels 16 C^2 + 14 C = 16,832 parameters, five blocks; 14 names each.
    assert (done.num_weights, done.num_parameters) == (70, 84_160)
    assert (done.base_parts, done.saved_base) == (("text_encoder", "vae", "unet"), False)
    assert done.content.entries == ("epoch", "global_step", "hyper_parameters")
    assert done.content.ignored == ("argparse.Namespace",)
    info = read_model_info(tmp_path / "model")
    assert info.views["rig"] == RingRig(num_views=8, fov_deg=90.0, height=512, width=512)
    assert info.prompt_prefix == "This is one view of a scene. "
    adapter = load_adapter(tmp_path / "model")
    assert adapter.config.attention["class_path"] == CLASS_PATH
    assert (adapter.mid_block.kernel_size, adapter.mid_block.depth) == (3, False)
    assert (adapter.config.mid_place, adapter.config.residual) == ("after_first_resnet", False)
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    settings = {"rig": SMALL, "num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    latents = pipeline("a room", **settings).images
    assert latents.shape == (1, 8, 4, 8, 8)
    assert torch.isfinite(latents).all()
    plain = pipeline("a room", caa=False, **settings).images
    assert (latents - plain).abs().max() > 0.01
    half = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    assert torch.isfinite(half("a room", **settings).images).all()
    assert half.adapter.mid_block.freq_bands.dtype == torch.float32


def test_a_base_may_come_from_the_file_alone(places, tmp_path):
    """The named base has configurations only; without save_base, or with weights for a part missing, it is refused."""
    bare, weights = tmp_path / "bare", torch.load(places["panorama"], weights_only=False)["state_dict"]
    shutil.copytree(places["panorama-base"], bare)
    for path in bare.glob("*/*.safetensors"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="weights of a AutoencoderKL must"):
        convert_checkpoint(places["panorama"], "panorama", tmp_path / "model", bare)
    done = convert_checkpoint(places["panorama"], "panorama", tmp_path / "model", bare, save_base=tmp_path / "base")
    assert (done.base_parts, done.saved_base) == (("text_encoder", "vae", "unet"), True)
    assert load_backbone(tmp_path / "base").weights_hash() == load_backbone(places["panorama-base"]).weights_hash()
    part = {name: value for name, value in weights.items() if not name.startswith("vae.")}
    without = write_file(tmp_path / "part.ckpt", part)
    with pytest.raises(FileNotFoundError, match="weights of a AutoencoderKL must"):
        convert_checkpoint(without, "panorama", tmp_path / "other", bare, save_base=tmp_path / "other-base")


def test_a_depth_file_becomes_a_model_that_runs_with_and_without_given_frames(places, tmp_path):
    done = convert_checkpoint(places["depth"], "depth", tmp_path / "model", places["depth-base"], height=24, width=32)
    # Five blocks with a residual block each: 16 C^2 + 14 C + 18 C^2 + 4 C = 35,392. Conditions: conv_in 45 C + C; four
    # blocks of 2 C + 9 C^2 + C + 2 C + C^2 + C = 10,432. 70 + 5 * 6 + 2 + 4 * 8 names.
    assert (done.num_weights, done.num_parameters) == (134, 5 * 35_392 + 1_472 + 4 * 10_432)
    info = read_model_info(tmp_path / "model")
    assert (info.views, info.prompt_prefix) == ({"height": 24, "width": 32}, "")
    pipeline = MVDiffusionDepthPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.adapter.config.mid_place == "after_mid_block"
    frames = walls(4, 2, step=0.2)
    settings = {"num_inference_steps": 2, "seed": 0, "output_type": "latent"}
    key_frames = pipeline(["a wall", "a wall"], **frames, **settings).images
    between = pipeline(["a wall", "a wall"], **frames, **given(2, 4, [0, 1]), **settings).images
    assert torch.isfinite(key_frames[0]).all()
    assert (key_frames - between)[0].abs().max() > 0.01


def test_an_outpainting_file_becomes_a_model_that_continues_a_view(places, tmp_path):
    arguments = places["outpaint"], "outpaint", tmp_path / "model", places["outpaint-base"]
    done = convert_checkpoint(*arguments, height=32, width=32)
    assert (done.info.task.name, done.num_weights) == ("outpaint", 70)
    assert done.info.prompt_prefix == "This is one view of a scene. "
    pipeline = MVDiffusionOutpaintPipeline.from_pretrained(tmp_path / "model")
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.rig == SMALL
    known = torch.zeros(1, 8, 1, 32, 32)
    known[:, 0] = 1  # view 0 is given as a whole, as upstream gives it
    settings = {"num_inference_steps": 2, "seed": 0, "output_type": "latent", "known": known}
    found = [pipeline("a room", images=torch.full((1, 8, 3, 32, 32), grey), **settings).images for grey in (0.0, 0.5)]
    changed = (found[0] - found[1]).abs().flatten(2).amax(-1)[0]
    assert torch.isfinite(found[0]).all()
    assert (changed > 1e-5).all()  # all views hear of view 0 through the attention


def test_key_frames_take_nothing_of_the_condition_path(places, tmp_path):
    """docs/checkpoints.md: leaving the path out is not the same as zeros with mask 0, once biases are trained."""
    convert_checkpoint(places["depth"], "depth", tmp_path / "model", places["depth-base"])
    unet = MultiViewUNet(load_backbone(places["depth-base"]).unet, load_adapter(tmp_path / "model")).eval()
    sample, text = torch.randn(1, 2, 5, 6, 8), torch.randn(1, 2, 7, 32)
    zeros = torch.zeros(1, 2, 5, 6, 8)
    with torch.no_grad():
        left_out = unet(sample, 10, text, None)
        switched_off = unet(sample, 10, text, None, condition=zeros, condition_active=torch.tensor([False]))
        masked = unet(sample, 10, text, None, condition=zeros)
    assert torch.equal(left_out, switched_off)
    assert (left_out - masked).abs().max() > 0.01


def test_one_view_is_the_plain_base(places, tmp_path):
    convert_checkpoint(places["panorama"], "panorama", tmp_path / "model", places["panorama-base"])
    backbone = load_backbone(places["panorama-base"])
    sample, text = torch.randn(1, 1, 4, 8, 8), torch.randn(1, 1, 7, 32)
    rig = RingRig(num_views=1, height=32, width=32)
    with torch.no_grad():
        expected = backbone.unet(sample[0], 10, text[0]).sample
        pipeline = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "model")
        unet = MultiViewUNet(backbone.unet, pipeline.adapter).eval()
        geometry = camera_geometry(*rig.cameras(), 8, 8, 4, 2, kind=UpstreamAttention)
        assert torch.equal(unet(sample, 10, text, geometry)[0], expected)


@pytest.mark.parametrize("task", ["panorama", "depth"])
def test_there_and_back_changes_no_bit(places, tmp_path, task):
    model, again, back = tmp_path / "model", tmp_path / "again", tmp_path / "back.ckpt"
    convert_checkpoint(places[task], task, model, places[f"{task}-base"])
    export_to_upstream(model, back)
    convert_checkpoint(back, task, again, places[f"{task}-base"])
    first, second = (load_file(folder / "adapter" / "diffusion_pytorch_model.safetensors") for folder in (model, again))
    assert set(first) == set(second)
    assert all(torch.equal(first[name], second[name]) for name in first)
    published = torch.load(places[task], weights_only=False)["state_dict"]
    exported = torch.load(back, weights_only=True)["state_dict"]
    assert set(exported) == set(attention_weights(WIDTHS, depth=task == "depth"))
    assert all(torch.equal(exported[name], published[name]) for name in exported)
    assert any(name.endswith("freq_bands") for name in exported)
    whole = export_to_upstream(model, tmp_path / "whole.ckpt", with_base=True)
    assert set(published) == set(whole)
    assert all(torch.equal(whole[name], published[name].to(whole[name].dtype)) for name in whole)
    halves = {name for name in whole if whole[name].dtype == torch.float16}
    text = {name for name in whole if name.startswith("text_encoder.") and not name.endswith("position_ids")}
    assert halves == (set() if task == "depth" else text)
    with pytest.raises(FileExistsError, match="out must be a new file"):
        export_to_upstream(model, back)


def test_a_model_opens_from_any_folder(places, tmp_path, monkeypatch):
    """A base that is named by a relative path, which looks like a hub id wherever it does not exist."""
    for name in ("work/models", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(places["depth-base"], "models/given")
    convert_checkpoint(places["depth"], "depth", "models/one", "models/given")
    convert_checkpoint(places["depth"], "depth", "models/two", "models/given", save_base="models/saved")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for model, base in (("one", "given"), ("two", "saved")):
        folder = tmp_path / "work" / "models" / model
        info = read_model_info(folder)
        assert info.base.id == str(tmp_path / "work" / "models" / base)
        card = ModelCard.load(folder / "README.md")
        assert card.data.base_model is None
        assert f"| base | ../{base} |" in card.text
        MVDiffusionDepthPipeline.from_pretrained(f"../work/models/{model}")
        with pytest.raises(ValueError, match="base must be a hub id or a packaged name"):
            check_shareable(info)


@pytest.mark.parametrize(
    ("task", "data"), [("panorama", "Matterport3D"), ("outpaint", "Matterport3D"), ("depth", "ScanNet")]
)
def test_the_card_says_where_the_weights_come_from(places, tmp_path, task, data):
    convert_checkpoint(places[task], task, tmp_path / "model", places[f"{task}-base"])
    text = (tmp_path / "model" / "README.md").read_text()
    origin = f"converted from {task}.ckpt, a checkpoint file of the layout of the paper's authors"
    for part in (
        f", {origin}. This folder contains",
        f"| data (by the paper) | {data} |",
        f"| origin | {origin} |",
        f"According to the paper, the data are {data}. The terms of {data} itself allow non-commercial use only.",
    ):
        assert part in text
    for absent in ("trained with mvdiff", "data module"):
        assert absent not in text


def test_a_file_in_half_precision_is_compared_in_it(places, tmp_path):
    weights = base_weights(load_backbone(places["panorama-base"])) | attention_weights(WIDTHS)
    bands = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0])  # a quarter of 32 channels
    weights |= {name: bands for name in weights if name.endswith("freq_bands")}
    weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    path = write_file(tmp_path / "half.ckpt", weights)
    convert_checkpoint(path, "panorama", tmp_path / "model", places["panorama-base"])
    adapter = load_adapter(tmp_path / "model")
    name = "mv_base_model.cp_blocks_mid.transformer.attn1.to_q.weight"
    assert_close(adapter.mid_block.to_q.weight.detach(), weights[name].float(), atol=0, rtol=0)
    assert torch.equal(adapter.mid_block.freq_bands, bands)


def test_a_single_view_file_becomes_a_base(places, tmp_path):
    other = load_backbone(make_base(tmp_path / "other", 5, seed=1))
    stage_1 = {f"mv_base_model.unet.{name}": value for name, value in other.unet.state_dict().items()}
    path = write_file(tmp_path / "depth_single_view.ckpt", stage_1)
    done = convert_single_view(path, tmp_path / "base", places["depth-base"])
    assert done.base_parts == ("unet",)
    found = load_backbone(tmp_path / "base")
    expected, named = other.weights_hashes(), load_backbone(places["depth-base"]).weights_hashes()
    assert found.weights_hashes() == {"unet": expected["unet"], **{k: named[k] for k in ("text_encoder", "vae")}}
    del stage_1["mv_base_model.unet.conv_out.bias"]
    path = write_file(tmp_path / "broken.ckpt", stage_1)
    with pytest.raises(
        ValueError,
        match=r"weights of the checkpoint .* .* got 1 missing: mv_base_model.unet.conv_out.bias; in .*broken.ckpt",
    ):
        convert_single_view(path, tmp_path / "no", places["depth-base"])


def test_the_command_line(places, tmp_path, capsys):
    model = tmp_path / "model"
    base = str(places["panorama-base"])
    command = [
        "convert",
        "upstream",
        str(places["panorama"]),
        "--task",
        "panorama",
        "--base",
        base,
        "--out",
        str(model),
    ]
    assert main([*command, "--height", "32", "--width", "32"]) == 0
    shown = capsys.readouterr().out
    assert next_commands(shown) == ["generate panorama"]
    assert f"{model}: a panorama model of 8 views on the base {base}, 70 weights, 84,160 parameters" in shown
    assert "the file's base: text_encoder, vae, unet equal to those of the base" in shown
    assert "left out: epoch, global_step, hyper_parameters" in shown
    assert "1 foreign names, none of them loaded: argparse.Namespace" in shown
    back = tmp_path / "back.ckpt"
    assert main(["convert", "to-upstream", str(model), "--out", str(back)]) == 0
    assert f"{back}: 70 weights under the names of the 2023 release" in capsys.readouterr().out
    assert main(["convert", "upstream", str(back), "--task", "depth", "--out", str(tmp_path / "x")]) == 1
    assert "looks like panorama or outpainting" in capsys.readouterr().err
    assert (
        main(
            [
                "generate",
                "panorama",
                "--model",
                str(model),
                "--prompt",
                "a",
                "--out",
                str(tmp_path / "o"),
                "--num_inference_steps",
                "2",
            ]
        )
        == 0
    )
