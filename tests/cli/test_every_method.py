"""Every method through every command that takes it, on tiny models: `generate`, and `test` and `predict` of a run."""

import json

import pytest

from mvdiff.cli.main import main
from mvdiff.cli.train import run_trainer
from mvdiff.data.toyworld.write import write_walk
from mvdiff.methods import method_names
from mvdiff.samples import find_samples, read_sample
from tests.method_parts import depth_parts, panorama_parts
from tests.models.test_depth_geometry import HEIGHT, WIDTH
from tests.training.tiny_run import tiny_config, write_config

PANORAMA = {
    "mvdiffusion": {},
    "independent": {},
    "multidiffusion": {},
    "inpainting": {"base": "inpainting"},
    "sd-pano": {"base": "base"},
}
"""Parts that a method needs beside the model, by option."""
FRAMES = {
    "mvdiffusion": {},
    "independent": {},
    "repaint": {},
    "controlnet-inpainting": {"base": "inpainting", "controlnet": "controlnet"},
}
SAMPLING = ["--num_inference_steps", "1", "--guidance_scale", "1", "--device", "cpu"]


def test_no_method_is_left_out():
    assert set(PANORAMA) == set(method_names("panorama"))
    assert set(FRAMES) == set(method_names("depth"))


@pytest.fixture(scope="module")
def panoramas(tmp_path_factory):
    """Parts, and a run's YAML."""
    folder = tmp_path_factory.mktemp("panoramas")
    parts = panorama_parts(folder)
    output = {"metrics": ["overlap_psnr", "sharpness"], "evaluation": {"overlap_size": 0, "num_resamples": 100}}
    config = tiny_config(folder / "tiny", sampling={"num_inference_steps": 1, "guidance_scale": 1.0}, output=output)
    return parts, write_config(folder / "run.yaml", config)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Parts, a run's YAML, and a scene of its test split."""
    folder = tmp_path_factory.mktemp("frames")
    parts, root = depth_parts(folder), folder / "scannet"
    scene = root / "test" / write_walk(root / "test", 1, 2, 32, 12, arc_deg=75)
    config = tiny_config(
        folder / "tiny",
        task="depth",
        base=str(folder / "depth" / "base"),
        sampling={"num_inference_steps": 1, "guidance_scale": 1.0},
    )
    settings = {
        "root": str(root),
        "height": HEIGHT,
        "width": WIDTH,
        "num_views": 3,
        "min_frames": 2,
        "mode": "keyframes",
    }
    config["data"] = {"class_path": "mvdiff.data.scannet_datamodule.ScanNetDataModule", "init_args": settings}
    return parts, write_config(folder / "run.yaml", config), scene


def options(parts, needed) -> list[str]:
    return [word for option, part in needed.items() for word in (f"--{option}", str(parts[part]))]


def in_a_run(command, run, out, method, parts, needed) -> list:
    """Run `test` or `predict` with a method; return the samples that it made."""
    chosen = {"method": method, "dir": out} | {option: parts[part] for option, part in needed.items()}
    words = [f"--model.init_args.output.{name}={value}" for name, value in chosen.items()]
    run_trainer([command, "--config", str(run), *words, f"--trainer.default_root_dir={out.parent / 'run'}"])
    return [read_sample(folder) for folder in find_samples(out / "generated" if command == "test" else out)]


def check(sample, method, shape) -> None:
    images = sample.images_uint8()
    assert sample.record.settings["method"] == method
    assert sample.record.settings["num_inference_steps"] == 1
    assert images.shape == shape
    assert (images.float().flatten(1).std(1) > 1).all()  # no view is flat


@pytest.mark.parametrize("method", PANORAMA)
def test_panoramas_from_a_prompt(panoramas, tmp_path, method):
    parts, _ = panoramas
    words = ["--method", method, "--model", str(parts["model"]), *options(parts, PANORAMA[method])]
    said = ["--prompt", "a red room", "--out", str(tmp_path / "out"), *SAMPLING]
    assert main(["generate", "panorama", *words, *said]) == 0
    check(read_sample(tmp_path / "out" / "0000"), method, (4, 3, 32, 32))


@pytest.mark.parametrize("method", PANORAMA)
def test_panoramas_are_scored_by_a_run(panoramas, tmp_path, method):
    parts, run = panoramas
    samples = in_a_run("test", run, tmp_path / "out", method, parts, PANORAMA[method])
    assert len(samples) == 2
    for sample in samples:
        check(sample, method, (3, 3, 16, 16))
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert metrics["overlap_psnr_mean_of_pairs"]["num_samples"] == 2
    assert metrics["sharpness_gradient_energy"]["value"] > 0


@pytest.mark.parametrize("method", FRAMES)
def test_frames_of_a_scene(frames, tmp_path, method):
    parts, _, scene = frames
    own = options(parts, FRAMES[method])
    words = [*own, "--height", HEIGHT, "--width", WIDTH] if own else ["--model", parts["model"]]
    words += ["--num_views", 3, "--max_frames", 3, "--scene", scene, "--out", tmp_path / "out", *SAMPLING]
    assert main(["generate", "depth", "--method", method, *map(str, words)]) == 0
    check(read_sample(tmp_path / "out" / scene.name), method, (3, 3, HEIGHT, WIDTH))


@pytest.mark.parametrize("method", FRAMES)
def test_frames_are_predicted_by_a_run(frames, tmp_path, method):
    parts, run, _ = frames
    samples = in_a_run("predict", run, tmp_path / "out", method, parts, FRAMES[method])
    assert samples
    for sample in samples:
        check(sample, method, (3, 3, HEIGHT, WIDTH))
        assert sample.depths().shape == (3, HEIGHT, WIDTH)
