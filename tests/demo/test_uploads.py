"""Pictures that visitors upload: which are read, what is said of the others, and that none remain."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mvdiff.demo import uploads
from mvdiff.demo.generation import Given
from tests.files.pictures import chunk, exif, png, shape

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
AVIF = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1" + bytes(64)


def encoded(kind: str, mode: str = "RGB", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(shape()).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(side: int) -> bytes:
    """Return a PNG that claims side x side pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"x" * 40)


OTHER_FRAME = Image.effect_noise((40, 24), 80).convert("RGB")
UNREADABLE = {
    "truncated.png": (encoded("PNG")[:-40], "cannot be decoded"),
    "truncated.jpg": (encoded("JPEG")[:300], "cannot be decoded"),
    "text.png": (b"hello, I am no picture", r"cannot be decoded \(it is no image\)"),
    "page.jpg": (b"<!DOCTYPE html><html>", "it is a web page, which is not read"),
    "empty.png": (b"", r"\(it is empty\)"),
    "photo.heic": (HEIC, "it is HEIC, which is not read; save it as JPEG or PNG"),
    "renamed.jpg": (HEIC, "it is HEIC"),
    "photo.avif": (AVIF, "it is AVIF, which is not read"),
    "room.exr": (b"\x76\x2f\x31\x01" + bytes(80), "it is OpenEXR, which is not read"),
    "room.hdr": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "it is Radiance HDR, which is not read"),
    "drawing.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "it is SVG, which is not read"),
    "bomb.png": (bomb(60000), r"at most 64 megapixels; got bomb\.png of 60000x60000 pixels\. Scale it down"),
    "moving.gif": (encoded("GIF", save_all=True, append_images=[OTHER_FRAME]), "must be a single still picture"),
    "float.tif": (encoded("TIFF", "F"), "floating-point pixels of unknown range"),
}
READABLE = {
    "cmyk.jpg": encoded("JPEG", "CMYK"),
    "palette.png": encoded("PNG", "P"),
    "grey16.png": png(np.arange(24 * 40, dtype=np.uint16).reshape(24, 40) * 60),
    "still.gif": encoded("GIF"),
    "a.tif": encoded("TIFF"),
    "jpeg named.png": encoded("JPEG"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_picture_that_is_not_read_is_one_sentence_when_uploaded_and_when_used(name, tmp_path):
    content, expected = UNREADABLE[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (uploads.preview, lambda path: _picture(str(path))):
        with pytest.raises(ValueError, match=expected) as error:
            read(path)
        assert name in str(error.value)
        assert str(tmp_path) not in str(error.value)
        assert "max_pixels" not in str(error.value)


def _picture(path: str):
    with uploads.named_without_folder(path):
        return Given(path).picture()


@pytest.mark.parametrize("name", READABLE)
def test_other_pictures_are_read(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(READABLE[name])
    assert f"{name}, 40 x 24 pixels" in uploads.preview(path)
    assert _picture(str(path)).pixels.shape == (3, 24, 40)


def test_the_preview_is_upright_and_its_name_is_text(tmp_path):
    path = tmp_path / "<b>.jpg"
    Image.fromarray(shape()).save(path, exif=exif(6))
    assert "&lt;b&gt;.jpg, 24 x 40 pixels" in uploads.preview(path)
    assert "<b>" not in uploads.preview(path)


def test_an_upload_that_was_removed_is_asked_for_again(tmp_path):
    with pytest.raises(ValueError, match=r"image must be uploaded again; sofa\.png was removed"):
        Given(str(tmp_path / "sofa.png")).picture()


@pytest.mark.parametrize("own", [True, False])
def test_the_folder_of_uploads_is_private_and_ends_with_the_server(own, tmp_path, monkeypatch):
    if own:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "mine"))
    else:
        monkeypatch.delenv("GRADIO_TEMP_DIR", raising=False)
    before = os.environ.get("GRADIO_TEMP_DIR")
    with uploads.upload_folder() as folder:
        assert Path(os.environ["GRADIO_TEMP_DIR"]) == folder
        assert not own or folder.parent == (tmp_path / "mine").resolve()
        assert os.name == "nt" or folder.stat().st_mode & 0o777 == 0o700
        (folder / "sofa.png").write_bytes(b"x")
    assert not folder.exists()
    assert os.environ.get("GRADIO_TEMP_DIR") == before


def test_errors_name_no_folder():
    with pytest.raises(ValueError, match=r"^got sofa\.png, which"), uploads.named_without_folder("/x/sofa.png"):
        raise ValueError("got /x/sofa.png, which no view sees")
    with pytest.raises(KeyError), uploads.named_without_folder("/x/sofa.png"):
        raise KeyError("/x/sofa.png")
