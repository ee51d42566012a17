"""`mvdiff generate depth` on a toy walk: every mode, what is said of what is left out, one clear line for mistakes."""

import shutil

import numpy as np
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.data.toyworld.write import write_walk
from mvdiff.samples import find_samples, read_sample
from tests.cli.last_lines import next_commands
from tests.data.other_layouts import write_transforms, write_tum
from tests.models.test_depth_geometry import HEIGHT, WIDTH
from tests.pipelines.conftest import make_pipeline
from tests.pipelines.depth_pipelines import make_depth_pipeline
from tests.training.tiny_depth import tiny_depth_base

STEPS = ["--num_inference_steps", 1, "--guidance_scale", 1, "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    make_depth_pipeline(folder).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    root = tmp_path_factory.mktemp("scannet") / "test"
    scene = root / write_walk(root, seed=3, index=0, size=32, num_frames=12)
    (scene / "key_frame_0.6.txt").write_text("1\n4\n5\n9\n")
    return scene


def generate(model, scenes, out, *options):
    scenes = scenes if isinstance(scenes, list) else [scenes]
    arguments = ["--model", model, "--scene", *scenes, "--out", out, *STEPS, *options]
    return main(["generate", "depth", *map(str, arguments)])


@pytest.mark.parametrize(
    ("options", "frames", "keys"),
    [
        (["--mode", "keyframes"], [1, 4, 5, 9], [1, 4, 5, 9]),
        (["--mode", "interval", "--interval", "5"], [0, 5, 10], [0, 5, 10]),
        (["--mode", "full"], list(range(1, 10)), [1, 4, 5, 9]),
        (["--mode", "full", "--max_between", "1"], [1, 3, 4, 5, 7, 9], [1, 4, 5, 9]),
        (["--mode", "full", "--max_frames", "6"], [1, 2, 3, 4, 5], [1, 4, 5]),
    ],
)
def test_modes(model, walk, tmp_path, capsys, options, frames, keys):
    assert generate(model, walk, tmp_path, "--num_views", 3, "--seed", 3, *options) == 0
    sample = read_sample(tmp_path / "toy00000")
    assert sample.record.settings["frames"] == frames
    assert sample.record.settings["key_frames"] == keys
    assert sample.record.settings["mode"] == options[1]
    assert sample.record.seed == 3
    assert sample.images_uint8().shape == (len(frames), 3, HEIGHT, WIDTH)
    assert sample.depths().shape == (len(frames), HEIGHT, WIDTH)
    assert sample.record.translations().shape == (len(frames), 3)
    expected = f"toy00000: {len(frames)} frames" + f", {len(keys)} of them key frames" * (frames != keys) + "; written"
    said = capsys.readouterr().out
    first, last = said.splitlines()
    assert first == expected
    assert last.startswith(f"{tmp_path}: 1 scene. Next: mvdiff mesh {tmp_path / 'toy00000'} --out mesh.glb")
    assert next_commands(said) == ["mesh", "report"]


@pytest.mark.parametrize("write", [write_transforms, write_tum])
def test_other_layouts_give_the_same_frames(model, walk, tmp_path, write):
    other = write(walk, tmp_path / "other" / walk.name)
    for scene, out in ((walk, tmp_path / "a"), (other, tmp_path / "b")):
        assert generate(model, scene, out, "--reference", out / "real") == 0
    expected, found = (read_sample(tmp_path / out / walk.name) for out in ("a", "b"))
    assert found.record.prompts == expected.record.prompts
    assert (found.images_uint8().int() - expected.images_uint8().int()).abs().max() <= 1
    assert torch.equal(found.depths(), expected.depths())
    real, other_real = (read_sample(tmp_path / out / "real" / walk.name) for out in ("a", "b"))
    assert torch.equal(real.images_uint8(), other_real.images_uint8())


def test_rerun_skips_and_other_settings_are_refused(model, walk, tmp_path, capsys):
    assert generate(model, walk, tmp_path, "--reference", tmp_path / "real", "--height", 16, "--width", 24) == 0
    first = read_sample(tmp_path / "toy00000").images_uint8()
    assert first.shape == (4, 3, 16, 24)
    assert read_sample(tmp_path / "real" / "toy00000").images_uint8().shape == (4, 3, 16, 24)
    again = ["--reference", tmp_path / "real", "--height", 16, "--width", 24]
    assert generate(model, walk, tmp_path, *again) == 0
    capsys.readouterr()
    assert generate(model, walk, tmp_path, *again, "--no_caa") == 1
    assert "settings.caa of a complete sample must equal that of this run, False; got True" in capsys.readouterr().err
    assert generate(model, walk, tmp_path, *again, "--no_caa", "--prompt", "a red ball", "--overwrite") == 0
    sample = read_sample(tmp_path / "toy00000")
    assert sample.record.prompts == ["a red ball"] * 4
    assert not torch.equal(sample.images_uint8(), first)


def test_what_is_left_out_is_counted_and_said(model, walk, tmp_path, capsys):
    scene = tmp_path / "scene"
    shutil.copytree(walk, scene)
    np.savetxt(scene / "pose" / "4.txt", np.full((4, 4), -np.inf))
    (scene / "depth" / "7.png").unlink()
    (scene / "prompt" / "5.txt").unlink()
    np.save(scene / "valid_frames.npy", np.arange(12))
    assert generate(model, scene, tmp_path / "out", "--mode", "full") == 0
    assert (
        "scene: 7 frames, 3 of them key frames; 2 unusable frames left out (1 x no depth, 1 x pose is not finite); "
        "1 without caption take the nearest frame's; written"
    ) in capsys.readouterr().out
    assert read_sample(tmp_path / "out" / "scene").record.settings["frames"] == [1, 2, 3, 5, 6, 8, 9]


def test_scenes_without_captions_take_a_prompt(model, walk, tmp_path, capsys):
    scene = tmp_path / "scene"
    shutil.copytree(walk, scene)
    shutil.rmtree(scene / "prompt")
    assert generate(model, scene, tmp_path / "out") == 1
    assert "must hold a caption of at least one frame; got none. Give --prompt, one text" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for prompt in ("a kitchen", "a bath"):
        options = ["--mode", "full", "--prompt", prompt, "--reference", tmp_path / "real", "--overwrite"]
        assert generate(model, scene, tmp_path / "out", *options) == 0
        for root in ("out", "real"):
            assert read_sample(tmp_path / root / "scene").record.prompts == [prompt] * 9


def test_real_frames_keep_their_captions_whatever_the_prompt(model, walk, tmp_path):
    real = tmp_path / "real"
    assert generate(model, walk, tmp_path / "a", "--reference", real) == 0
    first = read_sample(real / "toy00000").record.prompts
    assert generate(model, walk, tmp_path / "b", "--reference", real, "--prompt", "a red room") == 0
    assert read_sample(real / "toy00000").record.prompts == first
    assert read_sample(tmp_path / "b" / "toy00000").record.prompts == ["a red room"] * len(first)


def test_several_scenes(model, walk, tmp_path, capsys):
    shutil.copytree(walk, tmp_path / "b")
    assert generate(model, [walk, tmp_path / "b"], tmp_path / "out") == 0
    assert [folder.name for folder in find_samples(tmp_path / "out")] == ["b", "toy00000"]
    assert generate(model, [walk, walk], tmp_path / "out") == 1
    assert "--scene must give folders with different names; got toy00000, toy00000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num_views", 2, "--mode", "full"], "num_views must be at least 3"),
        (["--window_overlap", 12], "window_overlap must lie between 0 and num_views - 1 = 11; got 12"),
        (["--height", 22], "height of the views must be a multiple of 4, the autoencoder's stride; got 22"),
        (["--prompt", "a ball", "--prompt", "a lamp"], "--prompt must be one text for all frames; got 2"),
        (["--max_frames", 0], "max_frames must be at least 1; got 0"),
        (["--interval", 0, "--mode", "interval"], "--interval must be at least 1; got 0"),
        (["--batch_size", 0], "batch_size must be at least 1; got 0"),
        (["--num_inference_steps", 0], "num_inference_steps must be an integer of at least 1; got 0"),
        (["--prompt", " "], "--prompt must describe the scene"),
        (["--mode", "full", "--max_between", -1], "max_between must be at least 1; got -1"),
        (["--height", 0], "--height must be at least 1; got 0"),
        (["--width", -48], "--width must be at least 1; got -48"),
    ],
)
def test_errors_are_one_line(model, walk, tmp_path, capsys, options, message):
    assert generate(model, walk, tmp_path / "out", *options) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("mvdiff generate depth: error: ")
    assert message in error
    assert not list(tmp_path.rglob("sample.json"))


def test_scenes_and_models_that_do_not_fit(model, walk, tmp_path, capsys):
    def error_of(model, scene, *options):
        assert generate(model, scene, tmp_path / "out", *options) == 1
        return capsys.readouterr().err

    scene = tmp_path / "scene"
    shutil.copytree(walk, scene)
    (scene / "key_frame_0.6.txt").unlink()
    assert f"Run `mvdiff data keyframes {scene}`" in error_of(model, scene)
    (scene / "key_frame_0.6.txt").write_text("1\n4\n")
    for frame in (1, 4):
        (scene / "pose" / f"{frame}.txt").write_text("nan " * 16)
    assert "must have frames to generate; got none that is usable (2 x pose is not finite)" in error_of(model, scene)
    assert f"{tmp_path / 'nowhere'} must be a scene with " in error_of(model, tmp_path / "nowhere")
    (scene / "key_frame_0.6.txt").write_text("0\n2\n")
    (scene / "depth" / "2.png").write_bytes((scene / "depth" / "2.png").read_bytes()[:60])
    assert "depth/2.png" in error_of(model, scene)
    make_pipeline(tmp_path / "base").save_pretrained(tmp_path / "panorama")
    error = error_of(tmp_path / "panorama", walk)
    assert "model must be a depth model; got a panorama model" in error
    assert "run `mvdiff generate panorama`" in error


def test_other_methods(walk, tmp_path, capsys):
    """A method from a base alone: RePaint, between key frames too."""
    base = str(tiny_depth_base(tmp_path / "base"))
    size = ["--height", HEIGHT, "--width", WIDTH, "--num_views", 3, "--max_frames", 6]
    options = ["--method", "repaint", "--base", base, "--scene", walk, "--out", tmp_path / "out", *STEPS, *size]
    command = ["generate", "depth", *map(str, options)]
    assert main([*command, "--mode", "full"]) == 0
    sample = read_sample(tmp_path / "out" / "toy00000")
    assert sample.record.settings["frames"] == [1, 2, 3, 4, 5]
    assert sample.record.settings["method"] == "repaint"
    assert main([*command, "--mode", "full"]) == 0
    assert "complete before, skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "status", "missing"),
    [
        (["--method", "repaint"], 2, "--base must be given"),
        (["--method", "controlnet-inpainting"], 2, "--controlnet must be given"),
        (["--method", "inpainting"], 2, "must be one of controlnet-inpainting, independent, mvdiffusion, repaint"),
        *(
            (["--method", method, "--model", "mvdiff://toy-depth", "--controlnet", "x"], 2, f"out: the method {method}")
            for method in ("independent", "mvdiffusion", "repaint")
        ),
        (["--method", "repaint", "--base", "mvdiff://toy-base", "--revision", "x"], 2, "--revision must be left out"),
        (["--model", "mvdiff://toy-depth", "--revision", "x"], 2, "--revision must be left out"),
    ],
)
def test_missing_and_unused_parts_of_methods_are_named(walk, tmp_path, capsys, options, status, missing):
    assert main(["generate", "depth", "--scene", str(walk), "--out", str(tmp_path / "out"), *options]) == status
    assert missing in capsys.readouterr().err
