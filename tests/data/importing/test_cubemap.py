"""Faces of cubes: their order and their turns, held to the skybox convention by a smooth world."""

import numpy as np
import pytest
import torch
from PIL import Image

from mvdiff.data.importing.cubemap import CubemapReader, bad_edges
from mvdiff.data.importing.pictures import find_pictures
from mvdiff.geometry.cameras import Rig, RingAndPolesRig
from mvdiff.geometry.cubemap import edge_steps
from mvdiff.geometry.panorama import SKYBOX_PITCH_DEG, SKYBOX_YAW_DEG
from tests.eval.worlds import views

RIG = RingAndPolesRig(num_views=4, height=16, width=16)
SIZE = 24
UP, LEFT, FRONT, RIGHT, BACK, DOWN = range(6)


def camera(yaw, pitch):
    return views(1, Rig([(yaw, pitch, 90.0)], SIZE, SIZE))[0]


@pytest.fixture(scope="module")
def skybox():
    """Faces of the world by the cameras of convention 7: uint8 [6, S, S, 3]."""
    return np.stack([camera(*angles) for angles in zip(SKYBOX_YAW_DEG, SKYBOX_PITCH_DEG, strict=True)])


@pytest.fixture(scope="module")
def named():
    """Faces as people name them: up and down as seen after looking ahead and then up or down."""
    ring = {"front": 0.0, "right": 90.0, "back": 180.0, "left": 270.0}
    return {name: camera(yaw, 0.0) for name, yaw in ring.items()} | {"up": camera(0, 90), "down": camera(0, -90)}


def as_tensor(faces):
    return torch.from_numpy(np.ascontiguousarray(faces)).movedim(-1, 1)


def read(root):
    found = find_pictures(root, "cubemap")
    assert len(found.samples) == 1
    reader = CubemapReader(root, RIG)
    return reader.faces(found.samples[0]), reader.read(found.samples[0])


def save(root, name, pixels):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / name)


@pytest.mark.parametrize(
    "names",
    [
        ["a_front", "a_right", "a_back", "a_left", "a_up", "a_down"],
        ["a/F", "a/R", "a/B", "a/L", "a/U", "a/D"],
        ["a/front", "a/right", "a/back", "a/left", "a/top", "a/bottom"],
        ["a/posz", "a/posx", "a/negz", "a/negx", "a/posy", "a/negy"],
    ],
)
def test_faces_by_name(tmp_path, skybox, named, names):
    for name, face in zip(names, ("front", "right", "back", "left", "up", "down"), strict=True):
        save(tmp_path, f"{name}.png", named[face])
    faces, _ = read(tmp_path)
    assert torch.equal(faces, as_tensor(skybox))


@pytest.mark.parametrize("name", ["a_skybox{}_sami.png", "a_{}.png", "a/{}.png"])
def test_faces_by_number_and_their_views(tmp_path, skybox, name):
    for number, face in enumerate(skybox):
        save(tmp_path, name.format(number), face)
    faces, imported = read(tmp_path)
    assert torch.equal(faces, as_tensor(skybox))
    assert np.abs(imported.images.numpy().astype(int) - views(1, RIG).astype(int)).mean() < 2
    whole = imported.panorama.numpy().astype(int)
    assert whole.shape == (2 * SIZE, 4 * SIZE, 3)
    assert np.abs(whole[SIZE - 1 : SIZE + 1, 2 * SIZE - 1 : 2 * SIZE + 1] - camera(0, 0)[11:13, 11:13]).max() < 9
    assert imported.doubt == ""


@pytest.mark.parametrize("shape", ["wide", "tall", "strip"])
def test_all_faces_in_one_picture(tmp_path, skybox, named, shape):
    blank = np.zeros_like(named["up"])
    rows = {
        "wide": [[None, "up", None, None], ["left", "front", "right", "back"], [None, "down", None, None]],
        "tall": [[None, "up", None], ["left", "front", "right"], [None, "down", None], [None, "hung", None]],
        "strip": [["front", "right", "back", "left", "up", "down"]],
    }[shape]
    faces = named | {None: blank, "hung": np.rot90(named["back"], 2)}
    save(tmp_path, "a.png", np.concatenate([np.concatenate([faces[one] for one in row], 1) for row in rows]))
    assert torch.equal(read(tmp_path)[0], as_tensor(skybox))


def test_sound_faces_fit_and_others_are_named(skybox):
    faces = as_tensor(skybox)
    assert bad_edges(faces) == ""
    turned = faces.clone()
    turned[UP] = turned[UP].rot90(1, (1, 2))
    assert bad_edges(turned).startswith("up does not continue its neighbours")
    assert "with up turned left by 270 degrees, 8 of 8 bad edges fit" in bad_edges(turned)
    turned[DOWN] = turned[DOWN].rot90(-1, (1, 2))  # as if named faces were numbered
    assert bad_edges(turned).startswith("up, down do not continue their neighbours")
    assert "with up turned left by 270 degrees and down turned left by 90 degrees, 16 of 16" in bad_edges(turned)
    assert "with every face mirrored" in bad_edges(faces.flip(-1))  # seen from outside
    assert "left and right exchanged" in bad_edges(faces[[UP, RIGHT, FRONT, LEFT, BACK, DOWN]])
    assert bad_edges(faces[[UP, FRONT, LEFT, RIGHT, BACK, DOWN]])
    noise = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert bad_edges(noise) == ""  # no edge differs from the rest
    assert bad_edges(torch.arange(6).mul(40).to(torch.uint8).view(6, 1, 1, 1).expand(6, 3, 8, 8))


def test_steps_of_planted_lines():
    faces = torch.zeros(6, 1, 8, 8)
    faces[FRONT, :, :, -1] = 10.0  # outermost column beside the right face
    steps, inside = edge_steps(faces)
    assert steps[FRONT].tolist() == pytest.approx([0, 10, 1.25, 1.25])
    assert inside[FRONT].tolist() == pytest.approx([0, 10, 0, 0])
    assert steps[RIGHT, 0] == pytest.approx(10)
    assert float(steps[BACK].max()) == 0


@pytest.mark.parametrize(
    ("sizes", "problem"),
    [
        ({"a_front": (8, 8), "a_up": (8, 8)}, "left, right, back, down"),
        ({"a_front": (8, 8), "a_f": (8, 8)}, "names the same face as"),
        ({"a": (24, 16)}, "cross"),
        ({f"a_{face}": (8 + (face == 3), 8 + (face == 3)) for face in range(6)}, "must be 8x8"),
        ({f"a_{face}": (8, 8) for face in ("f", "1", "b", "l", "u", "d")}, "names no face"),
    ],
)
def test_incomplete_cubes(tmp_path, sizes, problem):
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=problem):
        read(tmp_path)
