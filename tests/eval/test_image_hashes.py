"""Hashes of images, geometry and sets of samples, against hashes made by hand; results hold those of what was read."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.eval.comparability import differing
from mvdiff.eval.image_hashes import content_hash, geometry_hash, pixel_hash
from mvdiff.eval.manifest import manifest_deviations, read_manifest, write_manifest
from mvdiff.eval.runner import evaluate
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import SampleRecord, camera_record, save_panorama, write_sample
from mvdiff.samples.pixels import read_png

EYE = torch.eye(3).expand(2, 3, 3)


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


def test_geometry_hash_is_of_whole_steps():
    K = torch.tensor([[8.0, 0, 3.5], [0, 8.0004, 2.5], [0, 0, 1]]).expand(2, 3, 3)
    depths = torch.tensor([[[1.2344, 0.0]], [[2.5, 3.0004]]])
    steps = {
        "K": ("2 3 3", [8000, 0, 3500, 0, 8000, 2500, 0, 0, 1000] * 2),
        "R": ("2 3 3", [100000, 0, 0, 0, 100000, 0, 0, 0, 100000] * 2),
        "t": ("2 3", [0] * 6),
        "depths": ("2 1 2", [1234, 0, 2500, 3000]),
    }
    parts = [
        f"{name} {shape}\n".encode() + np.array(values, "<i8").tobytes() for name, (shape, values) in steps.items()
    ]
    assert geometry_hash(K, EYE, depths=depths) == hashlib.sha256(b"".join(parts)).hexdigest()
    assert geometry_hash(K, EYE) == hashlib.sha256(b"".join(parts[:3])).hexdigest()


def test_geometry_hash_tells_every_part_apart():
    def turned(values):
        return values + 1e-3 * torch.eye(3)[0]

    parts = [(EYE, EYE), (turned(EYE), EYE), (EYE, turned(EYE)), (EYE, EYE, 1e-3 * torch.ones(2, 3))]
    parts += [(EYE, EYE, None, value * torch.ones(2, 2, 2)) for value in (1.0, 1.001)]
    parts += [(EYE, EYE, None, None, torch.tensor([[[[True, value]]]] * 2)) for value in (True, False)]
    assert len({geometry_hash(*part) for part in parts}) == len(parts)
    assert geometry_hash(EYE, EYE - 1e-8) == geometry_hash(EYE, EYE)  # also where 0 becomes a small negative number


class References:
    """References that differ in one thing that metrics read, and methods scored against them."""

    def __init__(self, root):
        self.root = root
        self.generated = self.write("generated")

    def write(self, name, depth=1.0, turn=0.0, level=0):
        """Write a sample of two views with depths and a panorama."""
        folder = self.root / name / "a"
        K, R = RingRig(num_views=2, height=8, width=8).cameras(yaw_offset_deg=turn)
        record = SampleRecord("a", ["x", "y"], cameras=camera_record(K, R, torch.zeros(2, 3), 8, 8))
        write_sample(folder, record, np.zeros((2, 8, 8, 3), np.uint8), depths=torch.full((2, 8, 8), depth))
        save_panorama(folder / "panorama.png", torch.full((8, 16, 3), level, dtype=torch.uint8))
        return folder.parent

    def score(self, reference, generated=None, metrics=("sharpness", "wrap_ratio")):
        return evaluate(generated or self.generated, reference, metrics, EvaluationSettings(device="cpu"))


@pytest.mark.parametrize(
    ("change", "entry"), [({"depth": 1.5}, "geometry"), ({"turn": 1.0}, "geometry"), ({"level": 9}, "panoramas")]
)
def test_references_of_equal_views_are_told_apart(tmp_path, change, entry):
    words = {"geometry": "cameras or depths", "panoramas": "panoramas"}[entry]
    made = References(tmp_path)
    truth, other = made.write("truth"), made.write("other", **change)
    base, method = made.score(truth), made.score(other)
    assert base["reference"]["content_hash"] == method["reference"]["content_hash"]
    assert base["reference"][f"{entry}_hash"] == content_hash({"a": [base["reference"][entry]["a"]]})
    [line] = differing(base, method, ("base", "method"))
    assert line.startswith(f"reference: {entry} hash {base['reference'][f'{entry}_hash'][:12]} in base, ")
    assert line.endswith(f"; {words} of a differ")
    write_manifest(tmp_path / "m.json", base["reference"])
    manifest = read_manifest(tmp_path / "m.json")
    assert manifest_deviations(manifest, base["reference"]) == []
    assert manifest_deviations(manifest, method["reference"]) == [
        f"{words} of 1 sample of the reference differ from the manifest: a"
    ]
    generated = made.score(truth, other)
    lines = differing(base, generated, ("base", "method"))
    assert lines == ["geometry: cameras or depths of a differ"] * (entry == "geometry")  # methods differ in panoramas


def test_a_panorama_counts_where_a_metric_reads_it(tmp_path):
    made = References(tmp_path)
    truth = made.write("truth")
    read, unread = made.score(truth), made.score(truth, metrics=["sharpness"])
    assert read["reference"]["panoramas"] == {"a": pixel_hash(torch.zeros(3, 8, 16, dtype=torch.uint8))}
    assert "panoramas" not in unread["reference"]
    write_manifest(tmp_path / "m.json", unread["reference"])
    assert manifest_deviations(read_manifest(tmp_path / "m.json"), read["reference"]) == [
        "the manifest names no panoramas, which the metrics read; write a new one"
    ]
