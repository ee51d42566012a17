import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.geometry.cameras import Rig
from mvdiff.report.pictures import depth_pictures, direction_labels, open_pictures, panorama_of, spread
from mvdiff.samples import SampleRecord, camera_record, read_sample, write_sample
from tests.eval.worlds import views
from tests.report.folders import POLES, RING, write_panorama, write_recording


@given(st.integers(1, 200), st.integers(1, 40))
def test_spread_is_even_and_keeps_the_ends(count, at_most):
    chosen = spread(count, at_most)
    assert len(chosen) == min(count, at_most)
    assert chosen[0] == 0
    if at_most > 1:
        assert chosen[-1] == count - 1
        assert np.ptp(np.diff(chosen)) <= 1 if len(chosen) > 2 else True


def test_a_panorama_is_its_file_or_its_views_stitched(tmp_path):
    drawn = np.arange(8 * 16 * 3, dtype=np.uint8).reshape(8, 16, 3)
    with_file = open_pictures(read_sample(write_panorama(tmp_path, "a", panorama=drawn)), 16)
    np.testing.assert_array_equal(with_file.panorama, drawn)
    without = open_pictures(read_sample(write_panorama(tmp_path, "b", rig=RING)), 16)
    image, covered = without.panorama
    assert image.shape == (25, 50, 3)  # pi * f rows, f = 8
    assert covered[12].all()  # the horizon
    assert not covered[0].any()  # the pole
    assert without.labels == ["0°", "45°", "90°", "135°", "180°", "225°", "270°", "315°"]


def test_poles_are_covered_and_named(tmp_path):
    shown = open_pictures(read_sample(write_panorama(tmp_path, "a", rig=POLES)), 4)
    assert shown.labels[-2:] == ["up", "down"]
    assert len(shown.views) == 6  # all views of a panorama, whatever the limit
    assert shown.panorama[1].all()


def test_cameras_name_the_views_as_their_rig_does(tmp_path):
    rig = Rig([(0, 0, 90), (45, 10, 90), (270, -20, 90), (0, 90, 90)], 12, 12)
    K, R = rig.cameras()
    cameras = camera_record(K, R, torch.zeros(4, 3), 12, 12)
    for view in cameras["views"]:
        del view["t"]
    names = []
    for sample_id, kwargs in (("rig", {"rig": rig.to_dict()}), ("cameras", {"cameras": cameras})):
        folder = write_sample(tmp_path / sample_id, SampleRecord(sample_id, ["x"] * 4, **kwargs), views(0, rig))
        names.append(direction_labels(read_sample(folder)))
    assert names[0] == names[1] == ["0°", "45°, +10°", "270°, -20°", "up"]


def test_views_of_another_size_than_their_cameras_are_stitched_alike(tmp_path):
    """Cameras of a rig twice as fine as the images on disk: each colour stays in its direction."""
    rigs = {"fine": RING.resized(64, 64), "coarse": RING.resized(32, 32)}
    shown = {}
    for name, rig in rigs.items():
        record = SampleRecord(name, ["x"] * 8, rig.to_dict())
        shown[name] = panorama_of(read_sample(write_sample(tmp_path / name, record, views(3, rigs["coarse"]))))[0]
    np.testing.assert_array_equal(shown["fine"], shown["coarse"])


def test_frames_are_spread_and_named_by_the_recording(tmp_path):
    shown = open_pictures(read_sample(write_recording(tmp_path, "r", num_frames=9)), 3)
    assert shown.labels == ["key 0", "40", "80"]
    assert [view[0, 0, 0] for view in shown.views] == [0, 80, 160]
    assert shown.prompts == ["frame 0", "frame 4", "frame 8"]
    assert (shown.panorama, len(shown.depths), shown.num_views) == (None, 3, 9)


def test_near_is_bright_and_none_is_black():
    near, none, far = depth_pictures(torch.tensor([[[1.0, 0.0, 4.0]]]))[0][0]
    assert near.tolist() == [255] * 3
    assert none.tolist() == [0] * 3
    assert far.tolist() == [40] * 3
    assert not depth_pictures(torch.zeros(1, 2, 2))[0].any()  # nothing known


def test_a_panorama_of_another_shape_is_refused(tmp_path):
    folder = write_panorama(tmp_path, "a", panorama=np.zeros((8, 20, 3), np.uint8))
    with pytest.raises(ValueError, match=r"panorama\.png must be twice as wide as high; got 20 x 8 pixels, in .*a\."):
        open_pictures(read_sample(folder), 16)
