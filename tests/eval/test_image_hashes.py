"""Hashes of images and sets of images, against hashes made by hand."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.eval.image_hashes import content_hash, pixel_hash
from mvdiff.samples.pixels import read_png


def test_pixel_hash_is_of_the_decoded_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)  # H != W
    by_hand = hashlib.sha256(b"5 7\n" + pixels.tobytes()).hexdigest()
    for level in (0, 9):  # the bytes of the file differ, the pixels do not
        Image.fromarray(pixels).save(tmp_path / f"{level}.png", compress_level=level)
        assert pixel_hash(read_png(tmp_path / f"{level}.png")) == by_hand
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "9.png").read_bytes()


def test_pixel_hash_tells_apart_size_order_and_value():
    image = torch.arange(18, dtype=torch.uint8).reshape(3, 2, 3)
    changed = image.clone()
    changed[2, 1, 2] += 1
    others = [image.reshape(3, 3, 2), image.flip(0), image.flip(2), changed]
    assert len({pixel_hash(one) for one in [image, *others]}) == 5
    assert pixel_hash(image.permute(0, 2, 1).contiguous().permute(0, 2, 1)) == pixel_hash(image)  # strides do not count


def test_pixel_hash_tells_other_types_apart_and_refuses_other_shapes():
    assert pixel_hash(torch.zeros(3, 2, 2)) != pixel_hash(torch.zeros(3, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match="image"):
        pixel_hash(torch.zeros(2, 2, 3, dtype=torch.uint8).expand(1, 2, 2, 3))


def test_content_hash_is_of_sorted_lines():
    lines = b"a\t0\tff\na\t1\tee\nb/c\t0\tdd\n"
    assert content_hash({"b/c": ["dd"], "a": ["ff", "ee"]}) == hashlib.sha256(lines).hexdigest()
    assert content_hash({"\u00e9": ["00"]}) == hashlib.sha256("\u00e9\t0\t00\n".encode()).hexdigest()
