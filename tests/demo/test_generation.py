"""What a visitor asks for: prompts, numbers, and the document that comes out, on the packaged toy model."""

import re
from html import unescape

import pytest
from PIL import Image

from mvdiff.demo.generation import Given, Request, generate_panorama, takes_image
from mvdiff.demo.line import RunStopped
from tests.files.pictures import exif

LABELS = ["0°", "90°", "up"]


def test_a_view_without_a_text_takes_the_prompt():
    assert Request(" a room ").prompts(LABELS) == ["a room"] * 3
    assert Request("a room", ["", " a door ", None]).prompts(LABELS) == ["a room", "a door", "a room"]
    assert Request("", ["a", "b", "c"]).prompts(LABELS) == ["a", "b", "c"]


def test_a_view_without_any_text_is_named():
    with pytest.raises(ValueError, match=r"got none for all views\."):
        Request(" ", ["", "", ""]).prompts(LABELS)
    with pytest.raises(ValueError, match=r"got none for the views 90°, up\."):
        Request(None, ["a door"]).prompts(LABELS)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("num_inference_steps", -3, r"steps must be a whole number between 1 and 1000; got -3\."),
        ("num_inference_steps", 2.5, r"steps must be a whole number between 1 and 1000; got 2\.5\."),
        ("num_inference_steps", None, r"steps must be a whole number between 1 and 1000; got none\."),
        ("num_inference_steps", float("inf"), r"steps must be a whole number between 1 and 1000; got inf\."),
        ("num_inference_steps", float("nan"), r"steps must be a whole number between 1 and 1000; got nan\."),
        ("seed", float("nan"), r"seed must be a whole number between 0 and 9007199254740991; got nan\."),
        ("seed", float("-inf"), r"seed must be a whole number between 0 and 9007199254740991; got -inf\."),
        ("seed", 2.0**60, r"seed must be a whole number between 0 and 9007199254740991; got 1\.152921504606847e\+18\."),
        ("seed", -1.0, r"seed must be a whole number between 0 and 9007199254740991; got -1\."),
        ("guidance_scale", None, r"guidance must lie between 0 and 100; got none\."),
        ("guidance_scale", float("nan"), r"guidance must lie between 0 and 100; got nan\."),
    ],
)
def test_numbers_out_of_range(field, value, expected):
    with pytest.raises(ValueError, match=expected):
        Request("a room", **{field: value}).sampling()


def test_the_host_limits_the_steps():
    assert Request("a room", num_inference_steps=20.0).sampling(20)["num_inference_steps"] == 20
    with pytest.raises(ValueError, match=r"steps must be a whole number between 1 and 20; got 21\."):
        Request("a room", num_inference_steps=21.0).sampling(20)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "a" * 2001}, r"^prompt must have at most 2000 characters; got 2001\."),
        ({"view_prompts": ["", "a" * 2001]}, r"^prompt of view 90° must have at most 2000 characters; got 2001\."),
        ({"negative_prompt": "a" * 2001}, r"^negative prompt must have at most 2000 characters; got 2001\."),
        ({"prompt": "a \ud83d"}, r"^prompt must be whole text; got half of a character\."),
    ],
)
def test_texts_that_are_too_long_or_damaged(fields, expected):
    with pytest.raises(ValueError, match=expected):
        Request(**{"prompt": "a room"} | fields).prompts(LABELS)


def test_numbers_as_a_form_gives_them():
    settings = Request("a room", (), "  ", 7.0, 3.0, 2).sampling()
    assert settings == {"seed": 7, "num_inference_steps": 3, "guidance_scale": 2.0, "negative_prompt": None}
    assert isinstance(settings["num_inference_steps"], int)


def test_the_document_shows_the_panorama_its_views_and_prompts(toy_pipeline):
    done = []
    request = Request("white walls", ["a red sofa"], "", 0, 2, 1.0)
    page = generate_panorama(toy_pipeline, request, lambda step, total: done.append((step, total)))
    assert done == [(1, 2), (2, 2)]
    assert page.count("<img") == 1 + 8  # the whole panorama, and the views
    assert '"0\\u00b0: a red sofa"' in page
    assert '"45\\u00b0: white walls"' in page
    assert "<h1>" not in page
    assert not re.search(r"https?:", page)
    assert page == generate_panorama(toy_pipeline, request)
    assert page != generate_panorama(toy_pipeline, Request("white walls", ["a red sofa"], "", 1, 2, 1.0))


def test_the_document_says_whose_it_is_and_shows_texts_as_text(toy_pipeline):
    prompt, negative = "</script><script>alert(1)</script> 🛋 שלום {{ 7 * 7 }}", "<img src=x onerror=alert(2)>"
    page = generate_panorama(toy_pipeline, Request(prompt, (), negative, 3.0, 1.0, 1.5))
    assert "<script>alert(1)" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    assert "Seed 3, 1 steps, guidance 1.5, negative prompt: &lt;img src=x onerror=alert(2)&gt;." in page


def test_what_the_progress_raises_ends_the_generation_and_the_next_one_works(toy_pipeline):
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise RunStopped(f"{done}/{total}")

    request = Request("white walls", num_inference_steps=4, guidance_scale=1.0)
    before = generate_panorama(toy_pipeline, request)
    with pytest.raises(RunStopped, match="2/4"):
        generate_panorama(toy_pipeline, request, stop)
    assert generate_panorama(toy_pipeline, request) == before


def test_a_pipeline_that_continues_a_picture_is_given_one(toy_pipeline, picture_pipeline):
    assert takes_image(picture_pipeline)
    assert not takes_image(toy_pipeline)
    given = Given(Image.new("RGB", (30, 20)), 65, -30.0, 5, False)
    request = Request("white walls", num_inference_steps=1, guidance_scale=1, given=given)
    page = unescape(generate_panorama(picture_pipeline, request))
    assert picture_pipeline.given == {"size": (30, 20), "angles": (65.0, -30.0, 5.0), "paste_back": False}
    assert "Field of view across the picture's width: 65°." in page
    with pytest.raises(ValueError, match=r"image must be the picture to extend; got none\."):
        generate_panorama(picture_pipeline, Request("white walls"))
    with pytest.raises(ValueError, match=r"pitch_deg must be a number of degrees; got none\."):
        Given(given.image, None, 0.0, None).picture()


def test_an_upload_is_read_as_the_command_reads_it(picture_pipeline, tmp_path):
    path = tmp_path / "phone.jpg"
    Image.effect_noise((64, 48), 80).save(path, exif=exif(6, 26))
    request = Request("white walls", num_inference_steps=1, guidance_scale=1, given=Given(str(path), 0, 0.0, 0.0))
    page = unescape(generate_panorama(picture_pipeline, request))
    assert picture_pipeline.given["size"] == (48, 64)
    assert picture_pipeline.given["angles"][0] == pytest.approx(54.88)
    assert "Field of view across the picture's width: 54.88°, from its EXIF focal length of 26 mm" in page
    Image.effect_noise((64, 32), 80).save(path)
    with pytest.raises(ValueError, match="image must be a photo, not a panorama"):
        generate_panorama(picture_pipeline, request)
