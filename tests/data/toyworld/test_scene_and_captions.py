import numpy as np
import pytest

from mvdiff.data.toyworld.captions import describe, describe_steep, facts
from mvdiff.data.toyworld.render import CEILING, FLOOR, WALL, WINDOW, trace
from mvdiff.data.toyworld.scene import COLOURS, KINDS, make_scene, make_thing, make_walk, walk_poses
from mvdiff.data.toyworld.write import render_view
from mvdiff.geometry.cameras import intrinsics_from_fov, rotation_from_yaw_pitch


def view(scene, yaw: float, pitch: float = 0.0, size: int = 48):
    K = intrinsics_from_fov(90.0, size, size)
    return render_view(scene, K, rotation_from_yaw_pitch(yaw, pitch), scene.eye, size, size)


def test_rooms_are_varied():
    scenes = [make_scene(0, i) for i in range(60)]
    assert len(KINDS) >= 6
    assert len(COLOURS) >= 8
    assert {t.kind for s in scenes for t in s.things} == set(KINDS)
    assert {t.colour for s in scenes for t in s.things} == set(COLOURS)
    assert {len(s.corners) for s in scenes} == {4, 6, 8}  # boxes and trapezoids, L shapes, cut corners
    assert sum(bool(s.windows) for s in scenes) > 50
    assert len({s.light_colour for s in scenes}) == len(scenes)


def test_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="kind must be one of ball, cube"):
        make_thing("sphinx", "red", 0, 2, 0, 1, 3)


def test_directions_and_depth_of_a_known_thing():
    # Golden: yaw 90 looks along +x. Whatever stands in a scene, the floor lies 1.2 m below the eye.
    scene = make_scene(0, 3)
    eye = np.array(scene.eye)
    down = trace(scene, eye, np.array([[0.0, 1.0, 0.0]]))
    assert down.label[0] == FLOOR
    assert down.distance[0] == pytest.approx(1.2, abs=1e-4)
    for thing in scene.things:
        bearing = np.rad2deg(np.arctan2(*thing.position))
        labels = view(scene, float(bearing)).label
        seen = labels == scene.things.index(thing)
        if seen.mean() > 0.02:
            assert np.nonzero(seen)[1].mean() == pytest.approx(23.5, abs=7)


def test_a_thing_to_the_right_is_called_right_and_mirrored_left():
    scene = make_scene(0, 0)
    labels = np.full((8, 16), WALL, np.int16)
    labels[:, 13:] = 0
    thing = scene.things[0]
    name = f"{thing.colour} {thing.kind}"
    assert f"{name} on the right" in describe(scene, labels)
    assert f"{name} on the left" in describe(scene, labels[:, ::-1])
    assert facts(scene, labels)["object"] == "none"
    labels = np.roll(labels, -6, axis=1)
    assert f"{name} in the middle" in describe(scene, labels)
    assert facts(scene, labels) == {"object": thing.kind, "colour": thing.colour, "walls": scene.wall_colour}


def test_captions_name_what_is_seen_and_nothing_else():
    for index in range(5):
        scene = make_scene(7, index)
        for yaw in range(0, 360, 45):
            labels = view(scene, float(yaw), size=64).label
            text = describe(scene, labels)
            for i, thing in enumerate(scene.things):
                assert (f"{thing.colour} {thing.kind} " in text) == ((labels == i).mean() >= 0.015)
            assert ("a window" in text) == ((labels == WINDOW).mean() >= 0.015)
            assert f"{scene.wall_colour} walls, {scene.floor} floor" in text


@pytest.mark.parametrize(("pitch", "surface"), [(90.0, CEILING), (-90.0, FLOOR)])
def test_captions_up_and_down_name_what_is_seen_and_nothing_else(pitch, surface):
    for index in range(8):
        scene = make_scene(7, index)
        labels = view(scene, 0.0, pitch, size=64).label
        text = describe_steep(scene, labels)
        assert (labels == surface).mean() > 0.3
        assert ("the ceiling" in text) == (surface == CEILING)
        assert (f"{scene.floor} floor" in text) == (surface == FLOOR)
        assert ("walls" in text) == ((labels == WALL).mean() >= 0.015)
        for i, thing in enumerate(scene.things):
            assert (f"{thing.colour} {thing.kind} " in text) == ((labels == i).mean() >= 0.015)


def test_depth_is_exact_a_point_seen_from_two_cameras_is_one_point():
    scene = make_walk(0, 0)
    (R_a, t_a), (_, t_b) = walk_poses(0, 0, 60)[0], walk_poses(0, 0, 60)[4]
    K = intrinsics_from_fov(65.0, 36, 48)
    a = render_view(scene, K, R_a, t_a, 36, 48)
    pixels = np.stack([*np.meshgrid(np.arange(48), np.arange(36)), np.ones((36, 48))], axis=-1).reshape(-1, 3)
    points = (pixels @ np.linalg.inv(K.double().numpy()).T) * a.distance.reshape(-1, 1) @ R_a.T + t_a
    again = trace(scene, t_b, points - t_b)  # a ray to the point meets it at distance 1, or something nearer first
    assert (again.distance < 1 + 1e-3).all()
    met = again.distance > 1 - 1e-3
    assert met.mean() > 0.5
    np.testing.assert_array_equal(again.label[met], a.label.reshape(-1)[met])


def test_key_frames_of_walks_hide_15_percent_of_what_they_share():
    height, width = 36, 48
    K = intrinsics_from_fov(65.0, height, width).double().numpy()
    pixels = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], axis=-1)
    rays = pixels.reshape(-1, 3) @ np.linalg.inv(K).T
    hidden, overlap = [], []
    for index in range(6):
        scene, poses = make_walk(0, index), walk_poses(0, index, 60)
        for i in range(0, 54, 6):
            (R_a, t_a), (R_b, t_b) = poses[i], poses[i + 6]
            a = render_view(scene, K, R_a, t_a, height, width)
            points = rays * a.distance.reshape(-1, 1) @ R_a.T + t_a
            in_b = (points - t_b) @ R_b @ K.T
            uv = in_b[:, :2] / in_b[:, 2:]
            shared = (in_b[:, 2] > 0) & (uv > -0.5).all(1) & (uv < [width - 0.5, height - 0.5]).all(1)
            seen = trace(scene, t_b, points - t_b).distance > 0.97
            overlap.append(shared.mean())
            hidden.append((shared & ~seen).sum() / shared.sum())
    assert 0.55 < np.mean(overlap) < 0.75  # as key frames have
    assert np.mean(hidden) >= 0.15


def test_poses_are_rotations_of_level_cameras():
    for R, _ in walk_poses(3, 1, 12):
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) == pytest.approx(1)
        assert R[1, 0] == pytest.approx(0)  # the camera's x axis stays level
        assert R[1, 2] > 0  # it looks a little down: +y is down
