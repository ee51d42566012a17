"""Files that are not read are named by their first bytes, whatever their suffix."""

import pytest

from mvdiff.files.formats import why_unread
from mvdiff.files.images import BrokenImage, read_image_uint8


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x24ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x24ftypmif1\0\0\0\0mif1avif", "AVIF"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1", "HEIF"),
        (b"\x76\x2f\x31\x01\x02", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"PF\n2 2\n-1.0\n", "PFM"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"%PDF-1.7", "a PDF file"),
        (b"\xef\xbb\xbf <SVG>", "SVG"),
    ],
)
def test_a_format_is_named_with_the_remedy(head, name):
    assert why_unread(head) == f"it is {name}, which is not read; save it as JPEG or PNG"


def test_an_image_that_is_not_read_says_so_wherever_images_are_read(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic")
    with pytest.raises(BrokenImage, match="it is HEIC, which is not read"):
        read_image_uint8(path)
    path.write_bytes(b"\0\0\0\x24ftypisom\0\0\0\0mp42")  # a film
    with pytest.raises(BrokenImage, match="it is no image"):
        read_image_uint8(path)
