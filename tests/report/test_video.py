"""Videos, decoded again: counts, sizes, colours, and which way the camera turns."""

import math
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from mvdiff.report.video import panorama_picture, recorded_frames, turning_frames, write_video
from mvdiff.samples import read_sample
from tests.report.folders import POLES, RING, write_panorama, write_recording

SIZE = (32, 64)
FOCAL, MIDDLE = 32.0, 31.5  # of 64 columns at 90 degrees


def decoded(path: Path) -> tuple[list[np.ndarray], object]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            frame.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for frame in container.decode(video=0)
        ]
        return frames, stream


def marked(yaw_deg: float, height: int = 180) -> np.ndarray:
    """A dark panorama with a white stripe, 6 degrees wide, at a yaw."""
    panorama = np.full((height, 2 * height, 3), 20, np.uint8)
    degrees = (np.arange(2 * height) + 0.5) * 180 / height - 180
    panorama[:, np.abs((degrees - yaw_deg + 180) % 360 - 180) < 3] = 255
    return panorama


def column_of_light(frame: np.ndarray) -> float:
    """Where the stripe stands in the middle row; NaN without one."""
    weights = np.clip(frame[frame.shape[0] // 2, :, 1].astype(float) - 60, 0, None)
    return float((weights * np.arange(len(weights))).sum() / weights.sum()) if weights.any() else math.nan


def test_the_camera_turns_right_so_what_it_sees_moves_left(tmp_path):
    """Golden and signed: a thing at yaw +30 stands at cx + f tan(30 - yaw) while the camera turns through yaw."""
    num = 24  # 15 degrees a frame
    write_video(tmp_path / "v.mp4", turning_frames(marked(30), num, *SIZE), fps=12)
    frames, _ = decoded(tmp_path / "v.mp4")
    for i, frame in enumerate(frames[:5]):
        assert column_of_light(frame) == pytest.approx(MIDDLE + FOCAL * math.tan(math.radians(30 - 15 * i)), abs=0.7)
    assert math.isnan(column_of_light(frames[14]))  # behind
    # the loop closes: a frame later than the last would be the first
    assert column_of_light(frames[-1]) == pytest.approx(MIDDLE + FOCAL * math.tan(math.radians(45)) - 0.5, abs=1.5)


def test_the_loop_closes():
    frames = list(turning_frames(marked(30), 8, *SIZE, yaw_deg=20))
    earlier = next(turning_frames(marked(30), 8, *SIZE, yaw_deg=20 - 45))
    np.testing.assert_allclose(frames[-1].astype(int), earlier.astype(int), atol=1)


def test_pitch_looks_up():
    panorama = np.zeros((90, 180, 3), np.uint8)
    panorama[:30] = 200  # above +30 degrees
    level, up, down = (next(turning_frames(panorama, 1, *SIZE, 90.0, pitch)) for pitch in (0, 60, -60))
    assert level.max() == 0
    assert up[16, 32, 0] == 200
    assert down.max() == 0


def test_a_video_is_what_players_expect(tmp_path):
    colour = np.array([200, 40, 90], np.uint8)
    frames = [np.broadcast_to(colour, (48, 80, 3)) for _ in range(7)]
    assert write_video(tmp_path / "v.mp4", iter(frames), fps=12.5) == 7
    read, stream = decoded(tmp_path / "v.mp4")
    context = stream.codec_context
    assert (context.name, context.pix_fmt, context.width, context.height) == ("h264", "yuv420p", 80, 48)
    assert (len(read), float(stream.average_rate)) == (7, 12.5)
    assert (int(context.colorspace), int(context.color_range)) == (1, 1)  # BT.709, limited
    assert np.abs(np.stack(read).astype(int) - colour).max() <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["v.mp4"]
    head = (tmp_path / "v.mp4").read_bytes()
    assert head.index(b"moov") < head.index(b"mdat")  # browsers can start before all has come


def test_frames_of_a_recording_in_order_with_even_sides(tmp_path):
    sample = read_sample(write_recording(tmp_path, "r", num_frames=4, size=(7, 9)))
    frames = list(recorded_frames(sample))
    assert {frame.shape for frame in frames} == {(8, 10, 3)}
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 20, 40, 60]
    assert {frame.shape for frame in recorded_frames(sample, 12, 20)} == {(12, 20, 3)}
    assert write_video(tmp_path / "v.mp4", recorded_frames(sample), 8) == 4


def test_a_sample_without_panorama_is_stitched(tmp_path):
    sample = read_sample(write_panorama(tmp_path, "a", rig=POLES))
    assert panorama_picture(sample).shape == (25, 50, 3)
    grey = panorama_picture(read_sample(write_panorama(tmp_path, "b", rig=RING)))
    assert (grey[0] == 128).all()  # no view looks up


def test_wrong_input_leaves_no_file(tmp_path):
    path = tmp_path / "v.mp4"
    with pytest.raises(ValueError, match=r"height and width of a video must be even; got 7 and 10"):
        write_video(path, [np.zeros((7, 10, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"frames must have the same size"):
        write_video(path, [np.zeros((8, 10, 3), np.uint8), np.zeros((8, 12, 3), np.uint8)])
    with pytest.raises(ValueError, match=r"frames must not be empty; got"):
        write_video(path, [])
    with pytest.raises(ValueError, match=r"fps must be above 0; got 0\."):
        write_video(path, [], fps=0)
    with pytest.raises(ValueError, match=r"pitch_deg must lie between -90 and 90 degrees; got 91"):
        next(turning_frames(marked(0), 4, *SIZE, pitch_deg=91))
    with pytest.raises(ValueError, match=r"num_frames must be at least 1; got 0\."):
        next(turning_frames(marked(0), 0, *SIZE))
    with pytest.raises(ValueError, match=r"fov_deg must lie between 0 and 180"):
        next(turning_frames(marked(0), 4, *SIZE, fov_deg=180))
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match=r"--out must be a writable file; got .*none/v\.mp4"):
        write_video(tmp_path / "none" / "v.mp4", [np.zeros((8, 10, 3), np.uint8)])


def test_without_av_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r'Install it with: pip install "mvdiff\[video\]"'):
        write_video(tmp_path / "v.mp4", [])
