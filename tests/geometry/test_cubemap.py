import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.geometry import pixel_directions, skybox_cameras
from mvdiff.geometry.cubemap import atlas_from_faces, atlas_grid

components = st.floats(-1, 1, width=32)


def number_of_face(x, y, z):
    """Return the skybox face that shows a direction, from the faces' names."""
    largest = max(abs(x), abs(y), abs(z))
    if abs(y) == largest:
        return 0 if y < 0 else 5
    if abs(x) == largest:
        return 3 if x > 0 else 1
    return 2 if z > 0 else 4


@given(components, components, components)
def test_every_direction_falls_on_its_face(x, y, z):
    ordered = sorted([abs(x), abs(y), abs(z)])
    if ordered[2] - ordered[1] < 1e-3:
        return  # on an edge either face is right
    faces = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 1024, 1024)[:, :, :4, :4]
    grid = atlas_grid(*(torch.tensor([[c]]) for c in (x, y, z)), size=4)
    nearest = F.grid_sample(atlas_from_faces(faces), grid[None], mode="nearest", align_corners=False)
    assert nearest.item() == number_of_face(x, y, z)


@pytest.mark.parametrize("size", [1, 2, 5, 16])
def test_texel_centres_read_their_texel(size):
    faces = torch.rand(6, 2, size, size)
    K, R = skybox_cameras(size)
    for face in range(6):
        directions = pixel_directions(K[face], R[face], size, size)
        grid = atlas_grid(*directions.unbind(-1), size=size)
        sampled = F.grid_sample(atlas_from_faces(faces), grid[None], align_corners=False)[0]
        torch.testing.assert_close(sampled, faces[face], atol=1e-5, rtol=0)


def test_borders_show_what_the_face_plane_would_show():
    # A smooth function of direction on the faces; every border texel must be near that function at its own place on the
    # extended plane of the face. Repeating the last texel instead would be off by a texel times the slope, about 0.06.
    size = 32
    K, R = skybox_cameras(size)

    def function(directions):
        return torch.sin(directions[..., 0] + 2 * directions[..., 1]) - directions[..., 2]

    faces = function(pixel_directions(K, R, size, size))[:, None]
    K_larger = K.clone()
    K_larger[:, :2, 2] += 1  # one more texel on each side
    bordered = function(pixel_directions(K_larger, R, size + 2, size + 2))
    tiles = atlas_from_faces(faces).view(6, size + 2, size + 2)
    stored = torch.stack([bordered[4], bordered[2], bordered[1], bordered[3], bordered[0].mT, bordered[5].mT])
    assert (tiles - stored).abs().max() < 4e-3
