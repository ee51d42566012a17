"""`mvdiff generate outpaint`, in process, on a tiny model folder."""

import json

import pytest
import torch
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.samples import read_sample
from tests.cli.last_lines import next_commands
from tests.files.pictures import exif
from tests.pipelines.conftest import make_pipeline
from tests.pipelines.test_outpaint import make_outpaint

PROMPT = ["--prompt", "a red room", "--num_inference_steps", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outpaint")
    make_outpaint(folder).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((30, 20), 80).convert("CMYK").save(tmp_path / "picture.jpg")
    return tmp_path / "picture.jpg"


def generate(model, out, *options):
    return main(["generate", "outpaint", "--model", str(model), "--out", str(out), *map(str, options)])


def test_one_picture(model, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert generate(model, out, "--image", picture, "--fov", 60, "--yaw", 30, *PROMPT) == 0
    output = capsys.readouterr().out
    assert "(fov 60, yaw 30, pitch 0) covers " in output
    assert "1 panorama written" in output
    assert next_commands(output) == ["report", "video"]
    sample = read_sample(out / "0000")
    [noted] = sample.record.settings["given"]["pictures"]
    assert noted == {
        "name": picture.name, "width": 30, "height": 20, "fov_deg": 60.0, "yaw_deg": 30.0, "pitch_deg": 0.0,
    }  # fmt: skip
    pixels, known = sample.given()
    assert 0.1 < known[0].mean() < 0.9
    assert torch.equal(sample.images_uint8() * (known > 0), pixels * (known > 0))  # pasted back
    assert sample.panorama_uint8() is not None
    assert generate(model, out, "--image", picture, "--fov", 60, "--yaw", 30, *PROMPT) == 0
    assert "1 complete panorama skipped" in capsys.readouterr().out
    assert generate(model, out, "--image", picture, "--fov", 60, "--yaw", 31, *PROMPT) == 1
    assert "settings.given.pictures of a complete sample must equal that of this run" in capsys.readouterr().err


def test_where_the_field_of_view_comes_from_is_said_and_noted(model, tmp_path, capsys):
    phone, plain = tmp_path / "phone.jpg", tmp_path / "plain.jpg"
    Image.effect_noise((64, 48), 80).save(phone, exif=exif(6, 26))
    Image.effect_noise((30, 20), 80).save(plain)
    options = ["--image", phone, "--image", plain, "--yaw", 0, "--yaw", 180]
    assert generate(model, tmp_path / "out", *options, *PROMPT) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "phone.jpg (fov 54.88 across its width, from its EXIF focal length of 26 mm (35 mm film), yaw 0," in output
    assert "plain.jpg (fov 90 across its width, the default, yaw 180," in output
    noted = read_sample(tmp_path / "out" / "0000").record.settings["given"]["pictures"]
    assert [picture.get("fov_from") for picture in noted] == ["EXIF focal length of 26 mm (35 mm film)", None]
    assert noted[0]["fov_deg"] == pytest.approx(54.88)
    assert (noted[0]["width"], noted[0]["height"]) == (48, 64)


def test_a_panorama_is_no_photo(model, tmp_path, capsys):
    panorama = tmp_path / "panorama.jpg"
    Image.effect_noise((64, 32), 80).save(panorama)
    assert generate(model, tmp_path / "out", "--image", panorama, *PROMPT) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "image must be a photo, not a panorama; got" in error
    assert "or give fov_deg (--fov) if it is a photo" in error
    assert generate(model, tmp_path / "out", "--image", panorama, "--fov", 80, *PROMPT) == 0
    treated = "its aspect ratio is 2:1, like a panorama's, but it is treated as a photo"
    assert treated in " ".join(capsys.readouterr().out.split())
    assert generate(model, tmp_path / "more", "--image", panorama, "--fov", 80, "--max_pixels", 2047, *PROMPT) == 1
    assert "must have at most 2047 pixels; it is 64x32" in " ".join(capsys.readouterr().err.split())


def test_several_pictures_controls_and_scores(model, picture, tmp_path, capsys):
    other = tmp_path / "grey.png"
    Image.new("L", (8, 8), 200).save(other)
    options = ["--image", picture, "--image", other, "--fov", 50, "--yaw", 0, "--yaw", 180, "--pitch", 10]
    assert generate(model, tmp_path / "out", *options, "--no_paste_back", "--no_caa", *PROMPT) == 0
    record = read_sample(tmp_path / "out" / "0000").record
    assert [(p["fov_deg"], p["yaw_deg"], p["pitch_deg"]) for p in record.settings["given"]["pictures"]] == [
        (50.0, 0.0, 10.0), (50.0, 180.0, 10.0),
    ]  # fmt: skip
    assert (record.settings["paste_back"], record.settings["caa"]) == (False, False)
    results = tmp_path / "results.json"
    assert main(["evaluate", "--generated", str(tmp_path / "out"), "--metrics", "given", "--out", str(results)]) == 0
    assert "known_psnr" in capsys.readouterr().out
    assert json.loads(results.read_text())["metrics"]["known_psnr"]["value"] > 0


def test_a_prompt_for_each_view(model, picture, tmp_path):
    texts = ["red", "blue", "a lamp", "a ball"]
    prompts = [part for text in texts for part in ("--prompt", text)]
    assert generate(model, tmp_path / "out", "--image", picture, *PROMPT[2:], *prompts) == 0
    assert read_sample(tmp_path / "out" / "0000").record.prompts == texts


def test_bad_input_is_one_clear_line(model, picture, tmp_path, capsys):
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    panorama = make_pipeline(tmp_path / "base")
    panorama.save_pretrained(tmp_path / "panorama")
    seven = tmp_path / "seven.json"
    seven.write_text(json.dumps([["a ball"] * 7]))
    for where, options, message in (
        (model, ["--image", text, *PROMPT], "image must be a complete picture file; "),
        (model, ["--image", tmp_path / "none.png", *PROMPT], "image must be a file; got"),
        (model, ["--image", picture, "--fov", "270", *PROMPT], "fov_deg must lie between 0 and 180 degrees; got 270"),
        (
            model,
            ["--image", picture, "--fov", 20, "--pitch", 90, *PROMPT],
            "image must be visible in a view of the rig",
        ),
        (model, ["--image", picture, "--yaw", 1, "--yaw", 2, *PROMPT], "--yaw must be given once for all pictures or"),
        (model, ["--image", picture, "--prompts", seven], "one text per view (4); got"),
        (model, ["--image", picture, *3 * ["--prompt", "a ball"]], "one text per view (4); got"),
        (model, ["--image", picture, "--prompt", " "], "--prompt must describe the scene"),
        (tmp_path / "panorama", ["--image", picture, *PROMPT], "must be an outpaint model; got a panorama model"),
    ):
        assert generate(where, tmp_path / "out", *options) == 1
        error = capsys.readouterr().err
        assert message in error.replace("\n", " "), error
        assert "Traceback" not in error
    assert not list((tmp_path / "out").glob("*/sample.json"))


@pytest.mark.parametrize("packaged", [True, False])
def test_a_revision_of_a_model_that_is_not_on_the_hub_is_refused(model, picture, tmp_path, capsys, packaged):
    name = "mvdiff://toy-outpaint" if packaged else model
    assert generate(name, tmp_path / "out", "--image", picture, "--revision", "nope", *PROMPT) == 2
    error = capsys.readouterr().err
    assert "--revision must be left out: it is that of a --model on the hub; got 'nope'." in error
    assert error.count("\n") == 1
