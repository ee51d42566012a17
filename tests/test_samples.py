"""Sample folders: what is written comes back, nothing half-written looks complete, upstream's layout is read."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import (
    SampleRecord,
    find_samples,
    from_uint8,
    is_complete,
    read_sample,
    sample_folder,
    scan_samples,
    to_uint8,
    write_json,
    write_sample,
)
from tests.faults import full_disk

RIG = RingRig(num_views=4, fov_deg=100.0, height=6, width=10)


def record(sample_id="room/1", **kwargs):
    return SampleRecord(sample_id, ["a sofa", "a lamp", "a door", "a wall"], rig=RIG.to_dict(), seed=3, **kwargs)


def views(num_views=4, height=6, width=10, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_views, height, width, 3), dtype=np.uint8)


def test_golden_to_uint8_rounds_and_clips():
    # (x + 1) * 127.5: 0.996 -> 254.49 -> 254; 0.9961 -> 254.503 -> 255 (truncation would give 254 for both).
    values = torch.tensor([-1.5, -1.0, 0.996, 0.9961, 1.0, 3.0])
    assert to_uint8(values).tolist() == [0, 0, 254, 255, 255, 255]


def test_uint8_there_and_back():
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(every)), every)
    assert from_uint8(torch.tensor([-0.1, 127.5, 255.1])).tolist() == [-1, 0, 1]
    with pytest.raises(ValueError, match="images must be finite"):
        to_uint8(torch.tensor([float("nan")]))


def test_write_and_read_back(tmp_path):
    pixels, panorama = views(), views(1, 5, 20)[0]
    folder = write_sample(
        sample_folder(tmp_path, "room/1"), record(settings={"steps": 5}), torch.from_numpy(pixels), panorama
    )
    sample = read_sample(folder)
    assert sample.record == record(settings={"steps": 5})
    assert sample.num_views == 4
    assert np.array_equal(sample.images_uint8().permute(0, 2, 3, 1).numpy(), pixels)
    assert np.array_equal(sample.panorama_uint8().permute(1, 2, 0).numpy(), panorama)
    K, R, height, width = sample.record.camera_tensors()
    assert (height, width) == (6, 10)
    assert torch.equal(K, RIG.cameras()[0])
    assert torch.equal(R, RIG.cameras()[1])
    assert sorted(p.name for p in folder.iterdir()) == [*(f"{i}.png" for i in range(4)), "panorama.png", "sample.json"]


def test_what_was_given_comes_back(tmp_path):
    alpha = np.zeros((4, 6, 10, 1), np.uint8)
    alpha[0], alpha[2, :, :3] = 255, 255
    given = np.concatenate([views(seed=1), alpha], axis=-1)
    folder = write_sample(tmp_path / "a", record(), views(), given=given)
    pixels, known = read_sample(folder).given()
    assert np.array_equal(pixels.permute(0, 2, 3, 1).numpy(), given[..., :3])
    assert np.array_equal(known[:, 0].numpy() * 255, alpha[..., 0])
    (folder / "given" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1\.png missing"):
        read_sample(folder).given()
    Image.new("RGB", (10, 6)).save(folder / "given" / "1.png")
    with pytest.raises(ValueError, match=r"given view must be an RGBA image; got shape \[6, 10, 3\], in .*1.png"):
        read_sample(folder).given()
    write_sample(folder, record(), views(), overwrite=True)  # and leaves no stale part
    assert read_sample(folder).given() is None
    assert not (folder / "given").exists()
    with pytest.raises(ValueError, match=r"given must be uint8 of shape \[4, 6, 10, 4\]; got \[4, 6, 10, 3\]"):
        write_sample(tmp_path / "b", record(), views(), given=views())


def test_cameras_without_a_rig(tmp_path):
    K, R = RIG.cameras(yaw_offset_deg=17.0)
    turned = [{"K": k.tolist(), "R": r.tolist()} for k, r in zip(K, R, strict=True)]
    cameras = {"height": 6, "width": 10, "views": turned}
    made = SampleRecord("x", list("abcd"), cameras=cameras)
    back = read_sample(write_sample(tmp_path / "x", made, views())).record.camera_tensors()
    assert torch.equal(back[0], K)
    assert torch.equal(back[1], R)
    assert back[2:] == (6, 10)
    with pytest.raises(ValueError, match="must have a rig or cameras"):
        SampleRecord("x", ["a"]).camera_tensors()


def test_overwrite_is_asked_for_and_leaves_no_stale_view(tmp_path):
    folder = write_sample(tmp_path / "s", record(), views(), views(1, 5, 10)[0])
    with pytest.raises(FileExistsError, match="already holds a complete sample"):
        write_sample(folder, record(), views())
    fewer = SampleRecord("s", ["a", "b"], rig=RingRig(num_views=2, height=6, width=10).to_dict())
    write_sample(folder, fewer, views(2, seed=1), overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["0.png", "1.png", "sample.json"]
    assert read_sample(folder).panorama_uint8() is None


def test_full_disk_is_one_clear_error_and_no_complete_sample(tmp_path, monkeypatch):
    folder = tmp_path / "s"
    full_disk(monkeypatch, call=5)  # four views, then sample.json
    with pytest.raises(OSError, match=r"sample folder .*s must be writable; got No space left on device") as caught:
        write_sample(folder, record(), views())
    assert caught.value.errno == 28
    assert not is_complete(folder)
    assert sorted(path.name for path in folder.iterdir()) == [f"{i}.png" for i in range(4)]
    assert is_complete(write_sample(folder, record(), views()))


def test_write_json_keeps_the_old_file_when_it_fails(tmp_path):
    path = write_json(tmp_path / "r.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_find_samples_sorts_and_counts_incomplete(tmp_path, caplog):
    for name in ("b", "a"):
        write_sample(tmp_path / "deep" / name, record(name), views())
    (tmp_path / "killed").mkdir()
    Image.fromarray(views()[0]).save(tmp_path / "killed" / "0.png")
    with caplog.at_level("WARNING"):
        assert find_samples(tmp_path) == [tmp_path / "deep" / "a", tmp_path / "deep" / "b"]
    assert "1 incomplete sample folder(s)" in caplog.text
    assert scan_samples(tmp_path)[1] == [tmp_path / "killed"]
    assert find_samples(tmp_path / "deep" / "a") == [tmp_path / "deep" / "a"]
    with pytest.raises(FileNotFoundError, match="sample root must be a folder"):
        find_samples(tmp_path / "nowhere")


def upstream_folder(folder: Path, num_views=8, natural=True, prompts=None):
    folder.mkdir(parents=True)
    pixels = views(num_views, 8, 8)
    for i, view in enumerate(pixels):
        Image.fromarray(view).save(folder / f"{i}.png")
        if natural:
            Image.fromarray(255 - view).save(folder / f"{i}_natural.png")
    (folder / "prompt.txt").write_text("\n".join(prompts or [f"view {i}" for i in range(num_views)]) + "\n")
    return pixels


def test_reads_upstream_layout_with_the_default_rig(tmp_path):
    pixels = upstream_folder(tmp_path / "scene_0")
    sample = read_sample(tmp_path / "scene_0")
    assert sample.record.sample_id == "scene_0"
    assert sample.record.prompts == [f"view {i}" for i in range(8)]
    assert np.array_equal(sample.images_uint8().permute(0, 2, 3, 1).numpy(), pixels)
    assert torch.equal(sample.natural_uint8(), 255 - sample.images_uint8())
    K, R, height, width = sample.record.camera_tensors()
    assert (height, width) == (8, 8)
    # FoV 90: f = 0.5 w = 4, centre (w - 1) / 2 = 3.5; view 2 looks right: its z axis is the world's x axis.
    assert torch.allclose(K[0], torch.tensor([[4.0, 0, 3.5], [0, 4.0, 3.5], [0, 0, 1]]))
    assert torch.allclose(R[2] @ torch.tensor([0.0, 0, 1]), torch.tensor([1.0, 0, 0]), atol=1e-6)


def test_upstream_layout_with_a_given_rig(tmp_path):
    upstream_folder(tmp_path / "s", num_views=4, natural=False, prompts=["one for all"])
    with pytest.raises(ValueError, match="rig must have as many views as the folder"):
        read_sample(tmp_path / "s")
    sample = read_sample(tmp_path / "s", rig=RIG)
    assert sample.record.prompts == ["one for all"] * 4
    with pytest.raises(FileNotFoundError, match=r"_natural\.png"):
        sample.natural_uint8()


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="incomplete"):
        read_sample(tmp_path)
    folder = write_sample(tmp_path / "s", record(), views())
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:40])
    with pytest.raises(ValueError, match=r"image .*2\.png cannot be read"):
        read_sample(folder).images_uint8()
    (folder / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"2\.png missing"):
        read_sample(folder)
    (folder / "sample.json").write_text("{")
    with pytest.raises(ValueError, match=r"sample\.json must be JSON"):
        read_sample(folder)
    (folder / "sample.json").write_text('{"schema_version": 9}')
    with pytest.raises(ValueError, match=r"schema_version must be 1; got 9, in .*sample\.json"):
        read_sample(folder)
    (folder / "sample.json").write_text('{"schema_version": 1, "sample_id": "x", "promts": []}')
    with pytest.raises(ValueError, match=r"unknown: .*promts.*missing: \['prompts'\]"):
        read_sample(folder)


@pytest.mark.parametrize(
    ("made", "pixels", "message"),
    [
        (record(), views().astype(np.float32), r"views must be uint8 of shape \[V, H, W, 3\]; got float32"),
        (record(), views().transpose(0, 3, 1, 2), "channels last"),
        (record(), views(3), r"prompts must be one per view \(3\); got 4, in sample 'room/1'"),
        (
            SampleRecord("room/1", ["a"] * 3, rig=RIG.to_dict()),
            views(3),
            r"rig must have as many views as the sample \(3\); got 4, in sample 'room/1'",
        ),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, made, pixels, message):
    with pytest.raises(ValueError, match=message):
        write_sample(tmp_path / "s", made, pixels)
    assert not (tmp_path / "s").exists()


def test_sample_folder_names_are_distinct():
    names = {sample_folder("r", i).name for i in ("a/b", "a%2Fb", "a_b", "...", ".a", "a b")}
    assert len(names) == 6
    assert all("/" not in name and not name.startswith(".") for name in names)


def camera(**changes):
    eye = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
    return {"K": eye, "R": eye, **changes}


def views_of(*described):
    return {"height": 6, "width": 10, "views": list(described)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample_id": 7}, r"sample_id must be a non-empty text; got 7"),
        ({"sample_id": ""}, r"sample_id must be a non-empty text; got ''"),
        ({"prompts": "abcd"}, r"prompts must be a list of texts, one per view; got 'abcd'"),
        ({"prompts": []}, r"prompts must be a list of texts, one per view; got \[\]"),
        ({"prompts": [1, 2, 3, 4]}, r"prompts must be a list of texts, one per view; got \[1, 2, 3, 4\]"),
        ({"prompts": ["x"] * 3}, r"prompts must be one text per view of rig \(4\); got 3"),
        ({"seed": "a"}, r"seed must be a whole number or null; got 'a'"),
        ({"seed": True}, r"seed must be a whole number or null; got True"),
        ({"settings": None}, r"settings must be an object; got None"),
        ({"versions": ["1.0"]}, r"versions must be an object; got \['1\.0'\]"),
        ({"settings": {"key_frames": 5}}, r"settings\.key_frames must be a list of frame numbers or names; got 5"),
        (
            {"settings": {"frames": [[0]]}},
            r"settings\.frames must be a list of frame.* got \[\[0\]\]",
        ),
        ({"rig": [1]}, r"rig must be an object with views, height and width, or null; got \[1\]"),
        ({"rig": {"views": []}}, r"rig must be an object with views, height and width, or null; got \{'views': \[\]\}"),
        ({"rig": views_of() | {"fov": 9}}, r"rig\.views must be a list with one entry per view; got \[\]"),
        ({"rig": views_of([0, 0, 90]) | {"fov": 9}}, r"rig must be an object with only views, height and width; got"),
        ({"rig": views_of([0, 0, 90])}, r"prompts must be one text per view of rig \(1\); got 4"),
        ({"rig": views_of([0, 0, 180])}, r"rig\.views\[0\] must be .*degrees.* got \[0, 0, 180\]"),
        ({"rig": views_of([0, 0, 90], [0, "a", 90])}, r"rig\.views\[1\] must be .*degrees.* got \[0, 'a', 90\]"),
        ({"rig": views_of([float("nan"), 0, 90])}, r"rig\.views\[0\] must be .*degrees.* got \[nan, 0, 90\]"),
        ({"rig": views_of(8) | {"height": 6.5}}, r"rig\.height must be a whole number of pixels, .* got 6\.5"),
        ({"rig": views_of(8) | {"width": 0}}, r"rig\.width must be a whole number of pixels, from 1 to 65536; got 0"),
        ({"cameras": {"K": 1}}, r"cameras must be an object with views, height and width, or null; got \{'K': 1\}"),
        ({"cameras": views_of(1)}, r"cameras\.views\[0\] must be an object with K and R; got 1"),
        ({"cameras": views_of(camera(), {"K": [1]})}, r"cameras\.views\[1\]\.K must be three rows of .* got \[1\]"),
        (
            {"cameras": views_of(camera(R=None))},
            r"cameras\.views\[0\]\.R must be three rows of .*; got None",
        ),
        ({"cameras": views_of(camera(K=[[0, 0, 0]] * 3))}, r"\[0\]\.K must be intrinsics with positive focal lengths;"),
        (
            {"cameras": views_of(camera(t=[0, 0]))},
            r"\[0\]\.t must be three numbers, or null; got \[0, 0\]",
        ),
        ({"cameras": views_of(camera(t=[0, 0, 10**18]))}, r"\[0\]\.t must be three numbers, or null; got \[0, 0, 10"),
        (
            {"cameras": views_of(*[camera(t=[0, 0, 0])] * 3, camera())},
            r"cameras\.views must have t for every view or for none; got 3 of 4",
        ),
        ({"cameras": views_of(*[camera()] * 3)}, r"prompts must be one text per view of cameras \(3\); got 4"),
    ],
)
def test_a_record_that_contradicts_itself_is_named(tmp_path, changes, message):
    path = write_sample(tmp_path / "s", record(), views()) / "sample.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as caught:
        read_sample(tmp_path / "s")
    assert f", in {path}." in str(caught.value)


def broken_chunk(png: bytes) -> bytes:
    """The first half of a PNG's pixels, then a chunk whose name is none: Pillow raises SyntaxError."""
    at = png.index(b"IDAT") - 4
    half = png[at + 8 : at + 8 + struct.unpack(">I", png[at : at + 4])[0] // 2]
    chunk = struct.pack(">I", len(half)) + b"IDAT" + half + struct.pack(">I", zlib.crc32(b"IDAT" + half))
    return png[:at] + chunk + b"\0\0\0\7\1\2\3\4" + bytes(20)


def test_images_that_cannot_be_decoded_are_named(tmp_path, monkeypatch):
    alpha = np.full((4, 6, 10, 4), 255, np.uint8)
    folder = write_sample(tmp_path / "s", record(), views(), given=alpha, depths=np.ones((4, 6, 10)))
    whole = folder / "3.png"
    sample = read_sample(folder)
    monkeypatch.setattr("mvdiff.files.images.MAX_PIXELS", 59)
    with pytest.raises(ValueError, match=r"/0\.png must have at most 59 pixels; it is 10x6"):
        sample.images_uint8()
    monkeypatch.undo()
    for path, read, name in (
        (folder / "0.png", sample.images_uint8, "image"),
        (folder / "given" / "0.png", sample.given, "given view"),
        (folder / "depth" / "0.png", sample.depths, "depth"),
    ):
        path.write_bytes(broken_chunk(whole.read_bytes()))
        with pytest.raises(ValueError, match=rf"{name} {path} cannot be read \(broken PNG file"):
            read()


def test_prompts_in_another_encoding_are_named(tmp_path):
    upstream_folder(tmp_path / "s")
    (tmp_path / "s" / "prompt.txt").write_bytes("a caf\xe9".encode("latin-1"))
    with pytest.raises(ValueError, match=r"s/prompt\.txt must be text in UTF-8; byte 5 is not"):
        read_sample(tmp_path / "s")
