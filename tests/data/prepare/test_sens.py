"""Recordings written by an independent writer come back exactly; damaged ones say what was saved and where it broke."""

import io
import struct
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mvdiff.cli.main import main
from mvdiff.data.prepare.sens import SensReader, import_sens
from mvdiff.data.scannet import ScanNetScene

HEIGHT, WIDTH = 6, 8  # of depth; colour is 12 x 20


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (12, 20, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def raw(number: int) -> bytes:
    return np.random.default_rng(number).integers(0, 256, (12, 20, 3)).astype(np.uint8).tobytes()


def depth_of(number: int) -> np.ndarray:
    depth = np.random.default_rng(100 + number).integers(0, 65536, (HEIGHT, WIDTH)).astype("<u2")
    depth[0, 0] = 0
    return depth


def pose_of(number: int) -> np.ndarray:
    angle = 0.1 * number
    pose = np.eye(4, dtype=np.float32)
    pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    pose[:3, 3] = 1 / (number + 3), -2.5e-7, number
    return pose if number != 2 else np.full((4, 4), -np.inf, np.float32)


INTRINSIC_DEPTH = np.array([[7.1, 0, 3.4, 0], [0, 7.3, 2.6, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32)


def write_sens(
    path,
    num_frames=5,
    colours=jpeg,
    compression=(2, 1),
    units=1000.0,
    version=4,
    depth_size=None,
    poses=pose_of,
):
    """Write a .sens file, part by part as ScanNet's own description of the format has it."""
    color, depth = compression
    parts = [struct.pack("<I", version), struct.pack("<Q", 5), b"Kinde"]
    for scale in (2, 1):  # intrinsics and extrinsics of colour, then of depth
        parts.append((INTRINSIC_DEPTH * np.float32(scale)).tobytes())
        parts.append(np.eye(4, dtype=np.float32).tobytes())
    parts.append(struct.pack("<ii", color, depth))
    parts.append(struct.pack("<IIII", 20, 12, *(depth_size or (WIDTH, HEIGHT))))
    parts.append(struct.pack("<f", units) + struct.pack("<Q", num_frames))
    for number in range(num_frames):
        colour_bytes = colours(number)
        depth_bytes = depth_of(number).tobytes()
        depth_bytes = zlib.compress(depth_bytes) if depth == 1 else depth_bytes
        parts.append(poses(number).tobytes())
        parts.append(struct.pack("<QQ", 1000 * number, 1000 * number + 7))
        parts.append(struct.pack("<QQ", len(colour_bytes), len(depth_bytes)))
        parts += [colour_bytes, depth_bytes]
    parts += [struct.pack("<Q", 1), bytes(15 * 8 + 8)]  # one reading of the motion sensor
    path.write_bytes(b"".join(parts))
    return path


def test_comes_back_exactly(tmp_path):
    path = write_sens(tmp_path / "a.sens")
    report = import_sens(path, tmp_path / "scene")
    assert (report.saved, report.kept, report.total) == (5, 0, 5)
    scene = tmp_path / "scene"
    for number in range(5):
        assert (scene / "color" / f"{number}.jpg").read_bytes() == jpeg(number)
        np.testing.assert_array_equal(np.array(Image.open(scene / "depth" / f"{number}.png")), depth_of(number))
        text = (scene / "pose" / f"{number}.txt").read_text()
        np.testing.assert_array_equal(np.array(text.split(), np.float32).reshape(4, 4), pose_of(number))
    for name, matrix in (
        ("intrinsic_depth", INTRINSIC_DEPTH),
        ("intrinsic_color", 2 * INTRINSIC_DEPTH),
        ("extrinsic_color", np.eye(4)),
    ):
        np.testing.assert_array_equal(np.loadtxt(scene / "intrinsic" / f"{name}.txt", dtype=np.float32), matrix)
    assert not list(scene.rglob("*.partial"))
    read = ScanNetScene(scene)
    assert (read.valid_frames, read.unusable) == ([0, 1, 3, 4], {"pose is not finite": 1})
    assert read.depth_size == (HEIGHT, WIDTH)
    np.testing.assert_allclose(read.depths(3, HEIGHT, WIDTH).numpy() * 1000, depth_of(3), rtol=1e-6)


def test_header_and_time_stamps(tmp_path):
    with SensReader(write_sens(tmp_path / "a.sens")) as reader:
        header = reader.header
        frames = list(reader.frames())
    assert (header.sensor, header.num_frames, header.depth_units) == ("Kinde", 5, 1000)
    assert (header.color_size, header.depth_size) == ((12, 20), (HEIGHT, WIDTH))
    assert [(frame.number, frame.time_color, frame.time_depth) for frame in frames[:2]] == [(0, 0, 7), (1, 1000, 1007)]


def test_raw_colour_and_depth_in_other_units(tmp_path):
    path = write_sens(tmp_path / "a.sens", colours=raw, compression=(0, 0), units=4000.0)
    import_sens(path, tmp_path / "scene")
    pixels = np.array(Image.open(tmp_path / "scene" / "color" / "1.png"))
    assert pixels.tobytes() == raw(1)
    millimetres = np.array(Image.open(tmp_path / "scene" / "depth" / "1.png"))
    np.testing.assert_array_equal(millimetres, np.round(depth_of(1) / 4.0).astype(np.uint16))


def test_every_third_frame_keeps_its_number(tmp_path, capsys):
    path = write_sens(tmp_path / "a.sens", num_frames=8)
    assert main(["data", "import-sens", str(path), str(tmp_path / "scene"), "--every", "3"]) == 0
    assert "3 frames saved, of 8" in capsys.readouterr().out
    assert sorted(file.stem for file in (tmp_path / "scene" / "depth").iterdir()) == ["0", "3", "6"]


def test_a_truncated_file_says_where_it_broke_and_can_be_continued(tmp_path, capsys):
    whole = write_sens(tmp_path / "whole.sens", num_frames=6).read_bytes()
    cut = tmp_path / "cut.sens"
    cut.write_bytes(whole[: len(whole) * 6 // 10])
    scene = tmp_path / "scene"
    assert main(["data", "import-sens", str(cut), str(scene)]) == 1
    error = capsys.readouterr().err
    saved = len(list((scene / "depth").iterdir()))
    assert 2 <= saved <= 4
    assert f"it breaks in frame {saved}: " in error
    assert f"{saved} frames were saved now and 0 before" in error
    assert error.count("\n") == 1
    first = (scene / "color" / "0.jpg").stat().st_mtime_ns
    report = import_sens(tmp_path / "whole.sens", scene)
    assert (report.saved, report.kept) == (6 - saved, saved)
    assert (scene / "color" / "0.jpg").stat().st_mtime_ns == first
    assert len(list((scene / "pose").iterdir())) == 6


@pytest.mark.parametrize("length", [2, 10, 16, 100, 300])
def test_a_file_cut_in_its_header(tmp_path, length):
    path = write_sens(tmp_path / "a.sens")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"must be a complete \.sens file; its header is truncated"):
        import_sens(path, tmp_path / "scene")
    assert not (tmp_path / "scene").exists()


def test_every_cut_is_an_error_or_a_whole_import(tmp_path):
    whole = write_sens(tmp_path / "whole.sens", num_frames=2).read_bytes()
    last = len(whole) - (8 + 128)  # the readings of the motion sensor are not needed
    for length in range(330, len(whole), 97):
        path = tmp_path / "cut.sens"
        path.write_bytes(whole[:length])
        if length >= last:
            assert import_sens(path, tmp_path / str(length)).saved == 2
        else:
            with pytest.raises(ValueError, match=r"must be a complete \.sens file"):
                import_sens(path, tmp_path / str(length))


def test_damaged_depth(tmp_path):
    path = write_sens(tmp_path / "a.sens")
    content = path.read_bytes()
    third = zlib.compress(depth_of(2).tobytes())
    path.write_bytes(content.replace(third, b"\0" * len(third)))
    with pytest.raises(ValueError, match=r"it breaks in frame 2: depth cannot be decompressed .* 2 frames were saved"):
        import_sens(path, tmp_path / "scene")
    assert not (tmp_path / "scene" / "color" / "2.jpg").exists()
    other_size = write_sens(tmp_path / "b.sens", depth_size=(9, 9))
    with pytest.raises(ValueError, match="depth is 96 bytes, not 2 x 9 x 9"):
        import_sens(other_size, tmp_path / "other")


def test_what_is_not_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"FILE must be a \.sens recording"):
        import_sens(tmp_path / "none.sens", tmp_path / "scene")
    with pytest.raises(ValueError, match=r"must be a \.sens file of version 4; got 3"):
        import_sens(write_sens(tmp_path / "old.sens", version=3), tmp_path / "scene")
    with pytest.raises(ValueError, match=r"depth compression must be one of 0 \(raw\), 1 \(zlib\); got 2"):
        import_sens(write_sens(tmp_path / "occi.sens", compression=(2, 2)), tmp_path / "scene")
    with pytest.raises(ValueError, match="frame_skip must be at least 1; got 0"):
        import_sens(write_sens(tmp_path / "a.sens"), tmp_path / "scene", frame_skip=0)


def test_a_folder_is_no_recording(tmp_path, capsys):
    for number in (1, 2):
        (tmp_path / "scans" / f"scene{number}").mkdir(parents=True)
        (tmp_path / "scans" / f"scene{number}" / f"scene{number}.sens").write_bytes(b"")
    assert main(["data", "import-sens", str(tmp_path / "scans"), str(tmp_path / "out")]) != 0
    first = tmp_path / "scans" / "scene1" / "scene1.sens"
    assert f"{tmp_path / 'scans'} is a folder; give one of the 2 below it, such as {first}." in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is a folder without any \.sens file below it"):
        SensReader(tmp_path / "empty")


def test_65535_is_no_depth_in_any_unit(tmp_path):
    values = np.array([[65535, 100], [0, 65534]], np.uint16)
    for units, expected in ((1000.0, [[0, 100], [0, 65534]]), (5000.0, [[0, 20], [0, 13107]])):
        header = SimpleNamespace(depth_compression=0, depth_size=(2, 2), depth_units=units)
        frame = SimpleNamespace(depth=values.tobytes())
        assert SensReader.depth_millimetres(SimpleNamespace(header=header), frame).tolist() == expected


def test_another_recording_does_not_mix_in(tmp_path):
    import_sens(write_sens(tmp_path / "a.sens"), tmp_path / "scene")
    other = tmp_path / "b.sens"
    other.write_bytes(write_sens(tmp_path / "c.sens").read_bytes().replace(INTRINSIC_DEPTH[0].tobytes(), bytes(16)))
    with pytest.raises(ValueError, match="DIR must be empty or hold frames of"):
        import_sens(other, tmp_path / "scene")


def lost_at_first(number):
    return pose_of(2 if number == 0 else number + 10)


def standing_still(number):
    return np.eye(4, dtype=np.float32)


def large(number):
    return jpeg(number) + bytes(7)


@pytest.mark.parametrize(
    ("there", "given", "named"),
    [
        # the same camera, so the same four matrices
        ({"num_frames": 3}, {"poses": lambda number: pose_of(number + 10)}, "pose/0.txt"),
        ({"num_frames": 3, "poses": lambda number: pose_of(2)}, {"poses": lost_at_first}, "pose/1.txt"),
        ({"num_frames": 3, "poses": standing_still}, {"poses": standing_still, "colours": large}, "color/0.jpg"),
        ({"num_frames": 9}, {}, "pose/8.txt"),
    ],
)
def test_another_recording_of_the_same_camera_does_not_mix_in(tmp_path, capsys, there, given, named):
    scene = tmp_path / "scene"
    import_sens(write_sens(tmp_path / "a.sens", **there), scene)
    before = {path: path.read_bytes() for path in scene.rglob("*") if path.is_file()}
    other = write_sens(tmp_path / "b.sens", **{"num_frames": 5} | given)
    assert main(["data", "import-sens", str(other), str(scene)]) == 1
    assert (
        f"DIR must be empty or hold frames of {other}; got {scene}, whose {named} is not of that recording."
    ) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in scene.rglob("*") if path.is_file()} == before


def test_frames_in_between_are_added_later(tmp_path):
    path, scene = write_sens(tmp_path / "a.sens", num_frames=8), tmp_path / "scene"
    import_sens(path, scene, frame_skip=3)
    (scene / "color" / "6.jpg").unlink()  # as where a run ended in the middle of a frame
    report = import_sens(path, scene)
    assert (report.saved, report.kept) == (6, 2)
    assert (scene / "color" / "6.jpg").read_bytes() == jpeg(6)
    assert import_sens(path, scene).kept == 8


def test_memory_does_not_grow_with_the_file(tmp_path):
    def big(number):
        return bytes(200_000)

    path = write_sens(tmp_path / "a.sens", num_frames=50, colours=big)
    tracemalloc.start()
    import_sens(path, tmp_path / "scene")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000
