"""Captions of every layout by tiny real models: which picture gets which caption, and that a run can be continued."""

import json

import pytest
import torch
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.data.equirectangular import read_prompts
from mvdiff.data.prepare.caption import caption_folder
from mvdiff.data.prepare.captioner import Captioner
from mvdiff.data.scannet import ScanNetScene
from mvdiff.files.images import read_image_uint8
from mvdiff.geometry.cameras import RingRig
from tests.captioners import tiny_blip, tiny_blip2
from tests.data.folders import truncate, write_equirectangular, write_matterport3d
from tests.data.scenes import write_scannet, write_scene

RIG = RingRig(num_views=8, fov_deg=90, height=24, width=24)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("captioners")
    return {make.__name__: tiny_blip(root / "blip") if make is tiny_blip else make(root / "blip2") for make in MAKERS}


MAKERS = (tiny_blip, tiny_blip2)


@pytest.fixture(scope="module")
def captioner(folders):
    return Captioner(str(folders["tiny_blip2"]), device="cpu", max_new_tokens=12)


def pictures(count):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, 256, (3, 20 + i, 30), dtype=torch.uint8, generator=generator) for i in range(count)]


@pytest.mark.parametrize("name", ["tiny_blip", "tiny_blip2"])
def test_matches_the_model_called_by_hand(folders, name):
    import transformers

    model_class, processor_class = {
        "tiny_blip": (transformers.BlipForConditionalGeneration, transformers.BlipProcessor),
        "tiny_blip2": (transformers.Blip2ForConditionalGeneration, transformers.Blip2Processor),
    }[name]
    model = model_class.from_pretrained(str(folders[name])).eval()
    processor = processor_class.from_pretrained(str(folders[name]))
    images = pictures(4)
    expected = []
    for image in images:
        inputs = processor(images=Image.fromarray(image.permute(1, 2, 0).numpy()), return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=12, do_sample=False)
        expected.append(processor.decode(tokens[0], skip_special_tokens=True).strip())
    captions = Captioner(str(folders[name]), device="cpu", max_new_tokens=12)(images)
    assert captions == expected
    assert len(set(captions)) > 1
    assert all(captions)


@pytest.mark.parametrize("name", ["tiny_blip", "tiny_blip2"])
def test_a_prompt_is_continued_and_not_repeated(folders, name):
    without = Captioner(str(folders[name]), device="cpu", max_new_tokens=6)(pictures(3))
    given = Captioner(str(folders[name]), device="cpu", max_new_tokens=6, prompt="a photo of the")(pictures(3))
    assert given != without
    assert not any("photo of the" in caption for caption in given)
    assert all(len(caption.split()) <= 6 for caption in given)


def test_half_precision(folders):
    captioner = Captioner(str(folders["tiny_blip2"]), device="cpu", dtype="bfloat16")
    assert next(captioner.model.parameters()).dtype == torch.bfloat16
    assert len(captioner(pictures(2))) == 2


def test_a_scene_without_usable_frames_is_said(tmp_path, captioner):
    root = write_scannet(tmp_path, num_train=1, num_test=1, num_frames=3)
    for path in (root / "train" / "scene0" / "pose").iterdir():
        path.write_text("-inf " * 16)
    report = caption_folder(root, captioner, overwrite=True)
    assert report.written == 3  # of the other scene
    scene = root / "train" / "scene0"
    assert report.failed == [f"{scene} must have usable frames; got none (2 x pose is not finite)."]


def test_scenes_at_their_key_frames(tmp_path, captioner):
    root = write_scannet(tmp_path, num_train=1, num_test=1, num_frames=6)
    for text in root.rglob("prompt/*.txt"):
        text.unlink()
    generator = torch.Generator().manual_seed(1)
    for path in sorted(root.rglob("color/*.png")):
        pixels = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).resize((40, 30)).save(path)
    seen = []
    report = caption_folder(root, captioner, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert (report.written, report.kept, report.failed) == (7, 0, [])  # 3 of 6 frames, 4 of 8
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
    scene = ScanNetScene(root / "test" / "scene1")
    assert sorted(int(path.stem) for path in (scene.path / "prompt").iterdir()) == scene.key_frames == [0, 2, 4, 6]
    for frame in scene.key_frames:
        assert scene.prompt(frame) == captioner([read_image_uint8(scene.file("color", frame))])[0]
    assert len({scene.prompt(frame) for frame in scene.key_frames}) > 2
    assert caption_folder(scene.path, captioner, every=3).written == 1  # frames 0, 3, 6
    assert (scene.path / "prompt" / "3.txt").is_file()


def test_captions_that_are_there_are_kept(tmp_path, captioner):
    scene = write_scene(tmp_path / "room", num_frames=6)
    (scene / "prompt" / "0.txt").unlink()
    (scene / "prompt" / "2.txt").write_text("\n")
    report = caption_folder(scene, captioner)
    assert (report.written, report.kept) == (2, 1)
    assert ScanNetScene(scene).prompt(4) == "frame 4"
    assert caption_folder(scene, captioner, overwrite=True).written == 3
    assert ScanNetScene(scene).prompt(4) != "frame 4"
    assert ScanNetScene(scene).prompt(3) == "frame 3"


def test_panoramas_of_faces(tmp_path, captioner):
    root = write_matterport3d(tmp_path / "mp3d_skybox", num_train=2, num_test=1)
    views = Matterport3DDataModule(root, RIG, num_val=0).eval_dataset("train")[1]["images"]
    captions = [root / "scene1" / "blip3" / f"pano1_{degree}.txt" for degree in range(0, 360, 45)]
    captions[1].unlink()
    captions[4].write_text("")
    report = caption_folder(tmp_path, captioner, view_size=24)
    assert (report.written, report.kept, report.failed) == (2, 22, [])
    uint8 = ((views + 1) * 127.5).round().to(torch.uint8)
    for degree in (1, 4):
        assert captions[degree].read_text() == captioner([uint8[degree]])[0] + "\n"
    assert captions[0].read_text().startswith("pano1 towards 0")
    for path in root.rglob("*.npy"):
        path.unlink()
    assert caption_folder(root, captioner, view_size=24).kept == 24  # found without a list


def test_equirectangular_panoramas(tmp_path, captioner):
    root = write_equirectangular(tmp_path)
    (root / "place0.json").unlink()
    (root / "place1.json").write_text('{"prompt": " "}')
    (root / "place2.json").write_text("{not json")
    report = caption_folder(root, captioner, view_size=24)
    assert (report.written, report.kept) == (16, 6)  # place4 and place6 have two prompts, place3 and place5 one
    [failure] = report.failed
    assert "place2.json must be JSON" in failure
    prompts = read_prompts(root / "place0.json")
    assert sorted(prompts) == list(range(0, 360, 45))
    views = EquirectangularDataModule(root, RIG, num_val=0).eval_dataset("train")
    json_of_place2 = {"prompt": "x"}
    (root / "place2.json").write_text(json.dumps(json_of_place2))
    uint8 = ((views[0]["images"] + 1) * 127.5).round().to(torch.uint8)
    assert list(prompts.values()) == [captioner([view])[0] for view in uint8]


def test_what_is_broken_does_not_stop_the_rest(tmp_path, folders, capsys):
    root = write_scannet(tmp_path, num_train=2, num_test=1, num_frames=4)
    for text in root.rglob("prompt/*.txt"):
        text.unlink()
    truncate(root / "train" / "scene0" / "color" / "2.png")
    (root / "train" / "scene1" / "key_frame_0.6.txt").unlink()
    command = ["data", "caption", str(root), "--model", str(folders["tiny_blip"]), "--device", "cpu"]
    assert main([*command, "--max_new_tokens", "5", "--batch_size", "3"]) == 1
    out = capsys.readouterr().out
    assert "2.png must be a whole image file" in out
    assert "key_frame_0.6.txt must list the scene's key frames" in out
    assert "--every N" in out
    assert "5 captions written, 2 failed" in out
    assert main([*command, "--every", "1"]) == 1
    assert "12 captions written, 5 kept, 1 failed" in capsys.readouterr().out


def test_a_model_that_says_nothing(tmp_path, folders):
    scene = write_scene(tmp_path / "room", num_frames=2)
    (scene / "prompt" / "0.txt").unlink()
    silent = Captioner(str(folders["tiny_blip"]), device="cpu")
    with torch.no_grad():  # the first word is always the end
        silent.model.text_decoder.cls.predictions.bias[silent.processor.tokenizer.eos_token_id] = 1e4
    report = caption_folder(scene, silent)
    assert report.written == 0
    assert "0.txt needs 1 captions; the model returned 1 empty ones" in report.failed[0]
    assert not (scene / "prompt" / "0.txt").exists()


def test_models_that_cannot_be_had(tmp_path, folders, capsys):
    assert main(["data", "caption", str(tmp_path)]) == 1  # BLIP-2 of the hub, which tests cannot reach
    error = capsys.readouterr().err
    assert "--model must be the folder or hub id" in error
    assert "hf download Salesforce/blip2-opt-2.7b" in error
    assert error.count("\n") == 1
    with pytest.raises(FileNotFoundError, match=r"got '.*nowhere'"):
        Captioner(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="--model must be an image captioning model"):
        Captioner(str(tmp_path))
    with pytest.raises(ValueError, match="dtype must be one of auto, float32, float16, bfloat16; got 'int8'"):
        Captioner(str(folders["tiny_blip"]), dtype="int8")
    with pytest.raises(ValueError, match="max_new_tokens must be at least 1; got 0"):
        Captioner(str(folders["tiny_blip"]), max_new_tokens=0)


def test_weights_that_are_missing(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tiny_blip(tmp_path / "blip")
    weights = load_file(folder / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "vision_model.encoder.layers.1" not in name}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"must have all its weights; got .*, which lacks \d+, such as vision_model"):
        Captioner(str(folder))


@pytest.mark.parametrize("name", ["every", "batch_size", "view_size"])
def test_settings_out_of_range(tmp_path, captioner, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        caption_folder(write_scene(tmp_path / "room", num_frames=2), captioner, **{name: 0})
