"""`--method` of `mvdiff generate panorama` and `dataset`, and `output.method` of a run, on tiny models."""

import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.cli.train import run_trainer
from mvdiff.data.panoramas import nearest_caption
from mvdiff.data.whole_panoramas import WholePanoramaDataModule, panorama_prompt
from mvdiff.geometry.panorama import perspective_from_equirectangular
from mvdiff.methods import method_names
from mvdiff.samples import find_samples, read_sample
from tests.training.tiny_run import tiny_config, write_config

SAMPLING = ["--num_inference_steps", "1", "--guidance_scale", "1", "--device", "cpu"]
PROMPT = ["--prompt", "a red room", *SAMPLING]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's YAML with base and data beside it."""
    folder = tmp_path_factory.mktemp("methods")
    config = tiny_config(folder, output={"method": "multidiffusion", "dir": str(folder / "predicted")})
    return write_config(folder / "run.yaml", config)


def method_of(folder):
    record = read_sample(folder).record
    return record.settings["method"], record.seed


def test_a_base_is_enough_for_panoramas(run, tmp_path, capsys):
    base = ["--base", str(run.parent / "base"), "--prompt_prefix", "one view: ", "--out", str(tmp_path)]
    assert main(["generate", "panorama", "--method", "multidiffusion", *base, *PROMPT]) == 0
    assert method_of(tmp_path / "0000") == ("multidiffusion", 0)
    record = read_sample(tmp_path / "0000").record
    assert record.prompts == ["a red room"] * 8
    assert record.settings["prompt_prefix"] == "one view: "
    assert main(["generate", "panorama", "--method", "multidiffusion", *base, *PROMPT]) == 0
    assert "1 complete panorama skipped" in capsys.readouterr().out
    assert main(["generate", "panorama", "--method", "independent", *base, *PROMPT]) == 1
    assert "settings.method of a complete sample must equal that of this run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "--model must be given: the method mvdiffusion needs a trained model"),
        (["--method", "inpainting"], 2, "--base must be given: the method inpainting needs an inpainting base"),
        (["--method", "sd-pano"], 2, "--base must be given: the method sd-pano needs a base that was finetuned on"),
        (["--method", "sd-pano", "--no_caa"], 2, "--no_caa means --method independent; got --method sd-pano too"),
        (["--model", "nowhere", "--prompt_prefix", "x"], 2, "--prompt_prefix must be left out with --model"),
        (["--method", "nope"], 2, "--method for the task panorama must be one of"),
        (["--method", "independant"], 2, "; got 'independant' (did you mean independent?)"),
        (["--method", "none.such.Method"], 2, "--method must be an importable class path; got none.such.Method (No"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path, capsys, words, status, message):
    assert main(["generate", "panorama", *words, *PROMPT, "--out", str(tmp_path / "out")]) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("method", sorted(set(method_names("panorama"))))
@pytest.mark.parametrize("option", ["controlnet", "revision"])
def test_a_part_that_the_method_does_not_use_is_refused(tmp_path, capsys, method, option):
    """No method for panoramas has a ControlNet, and a base alone or a packaged model has no revision."""
    model = ["--model", "mvdiff://toy-caa"] if method == "mvdiffusion" else ["--base", "mvdiff://toy-base"]
    words = ["--method", method, *model, f"--{option}", "nope", "--out", str(tmp_path / "out")]
    assert main(["generate", "panorama", *words, *PROMPT]) == 2
    error = capsys.readouterr().err
    reason = {
        "controlnet": f"the method {method} does not use it; got 'nope'.",
        "revision": "it is that of a --model on the hub; got 'nope'.",
    }[option]
    assert f"--{option} must be left out: {reason}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(("part", "method"), [("base", "mvdiffusion"), ("controlnet", "multidiffusion")])
def test_a_run_refuses_a_part_that_its_method_does_not_use(run, tmp_path, part, method):
    output = [f"--model.output.{part}", str(run.parent / "base"), "--model.output.method", method]
    with pytest.raises(ValueError, match=rf"model\.output\.{part} must be left out: the method {method} does not"):
        run_trainer(["predict", "--config", str(run), "--trainer.default_root_dir", str(tmp_path / "run"), *output])


def test_a_data_set_by_a_method_of_ones_own_and_by_a_run(run, tmp_path, monkeypatch):
    (tmp_path / "own_method.py").write_text(
        "from mvdiff.methods.method import Method\n\n\nclass Mirrored(Method):\n    is_sampled = False\n\n"
        "    def generate(self, batch, sampling, seed):\n        return batch.images.flip(-1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["generate", "dataset", "--method", "own_method.Mirrored", "--config", str(run), "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out"), "--reference", str(tmp_path / "real")]) == 0
    folders = find_samples(tmp_path / "out")
    assert [method_of(folder) for folder in folders] == [("Mirrored", None)] * 2
    real = read_sample(find_samples(tmp_path / "real")[0]).images_uint8()
    assert torch.equal(read_sample(folders[0]).images_uint8(), real.flip(-1))
    run_trainer(["predict", "--config", str(run), "--trainer.default_root_dir", str(tmp_path / "run")])
    predicted = find_samples(run.parent / "predicted")
    assert [method_of(folder) for folder in predicted] == [("multidiffusion", 0)] * 2


def test_the_help_names_the_methods(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "panorama", "--help"])
    words = capsys.readouterr().out.replace(",", " ").replace(";", " ").split()
    assert set(method_names("panorama")) <= set(words)


def test_whole_panoramas_are_those_of_the_views(run):
    data = WholePanoramaDataModule(
        run.parent / "data", 32, source="mvdiff.data.equirectangular.EquirectangularPanoramas", mirror=True
    )
    dataset = data.train_dataset()
    sample, captions = dataset.cut(0, 90.0), dataset.source.captions(0)  # one at 0 and one at 180 degrees
    assert sample["images"].shape == (1, 3, 32, 64)
    K, R = data.rig.cameras()
    ahead = perspective_from_equirectangular(sample["images"][0], K, R, 8, 8)
    turned = dataset.source.views(0, K, R @ torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]]), 8, 8)
    assert (ahead - turned).abs().mean() < 0.55 * (ahead.flip(-1) - turned).abs().mean()
    assert sample["prompts"] == [panorama_prompt([captions[180], captions[0]])]
    assert sample["prompts"][0].startswith(nearest_caption(captions, 180.0))
    mirrored = dataset.cut(0, -90.0, mirrored=True)
    assert torch.allclose(mirrored["images"], sample["images"].flip(-1), atol=1e-5)
    assert mirrored["prompts"] == sample["prompts"]
    assert dataset.cut(0, 60.0)["prompts"] == [panorama_prompt([captions[0], captions[180]])]
    assert dataset.cut(0, -120.0, mirrored=True)["prompts"] == [panorama_prompt([captions[180], captions[0]])]
