"""Views of skyboxes, by the sampler of `mvdiff.data.matterport3d`.

| files of a sample | order of the faces | up and down meet |
|---|---|---|
| `<id>_skybox0` ... `_skybox5`, `<id>_0` ... `<id>_5` | up, yaw 270, 0, 90, 180, down (Matterport3D) | the left face |
| `<id>_front`, `<id>/posz`, `<id>_f`, ... | as named | the front face, as in viewers and with `--cube_faces` |
| one picture, 4:3 or 3:4 | a cross with the front face in its second row and column | the front face |
| one picture, 6:1 | a strip: front, right, back, left, up, down | the front face |
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mvdiff.data.importing.pictures import FACE_WORDS, FACES, WHOLE, SamplePictures
from mvdiff.data.importing.reading import ImportedViews, RigReader, last_channel
from mvdiff.data.matterport3d import read_faces
from mvdiff.files.images import read_image_uint8, unusable
from mvdiff.geometry.cubemap import edge_steps
from mvdiff.geometry.panorama import equirectangular_from_skybox, perspective_from_skybox
from mvdiff.samples import from_uint8

_WIDE = {"up": (0, 1), "left": (1, 0), "front": (1, 1), "right": (1, 2), "back": (1, 3), "down": (2, 1)}
_TALL = {**_WIDE, "back": (3, 1)}
_STRIP = {face: (0, column) for column, face in enumerate(("front", "right", "back", "left", "up", "down"))}
_ONE_PICTURE = {(3, 4): _WIDE, (4, 3): _TALL, (1, 6): _STRIP}
"""Row and column of each face in one picture, by its numbers of rows and columns."""
_MOST_RATIO, _LEAST_LEVELS = 4.0, 8.0
"""Faces fit if the step across each edge is below so many steps inside the faces, or below so many levels."""


class CubemapReader(RigReader):
    """Read skyboxes; arguments: see `RigReader`."""

    def read(self, pictures: SamplePictures) -> ImportedViews:
        """Cut the views, and turn the faces into a panorama of 4 S x 2 S pixels, S the side of a face."""
        faces = self.faces(pictures)
        size = faces.shape[-1]
        views = perspective_from_skybox(faces, *self.rig.cameras(), self.rig.height, self.rig.width)
        panorama = equirectangular_from_skybox(faces, 2 * size, 4 * size)
        return ImportedViews(
            last_channel(from_uint8(views)), last_channel(from_uint8(panorama)), doubt=bad_edges(faces)
        )

    def faces(self, pictures: SamplePictures) -> Tensor:
        """Decode the faces as uint8 [6, 3, S, S] in skybox order."""
        if WHOLE in pictures.files:
            path = self.root / pictures.files[WHOLE]
            return _as_skybox(_cut_out(read_image_uint8(path, max_pixels=self.max_pixels), path))
        if all(part.isdecimal() for part in pictures.files):
            row = [pictures.files.get(str(number)) for number in range(6)]
        else:
            row = _by_name(pictures)
        missing = [face for face, path in zip(FACES, row, strict=True) if path is None]
        if missing or len(pictures.files) > 6:
            raise ValueError(
                f"cube {pictures.sample_id!r} must have six faces; got {len(pictures.files)} "
                f"({', '.join(pictures.files)}), without {', '.join(missing) or 'room for more'}. If each picture "
                "holds all faces, pass --ids '(.+)'."
            )
        faces = read_faces(self.root, [path.as_posix() for path in row], self.max_pixels)
        return faces if next(iter(pictures.files)).isdecimal() else _as_skybox(faces)


def bad_edges(faces: Tensor) -> str:
    """Say which faces of a skybox do not continue each other; "" where all do.

    Wrong orders and turns of faces show as steps. A method whose faces do not fit shows them as well.

    Args:
        faces: uint8 [6, 3, S, S] in skybox order.
    """
    steps, inside = edge_steps(faces.float())
    bad = _bad(steps, inside)
    if not bool(bad.any()):
        return ""
    counts = bad.sum(dim=1).tolist()
    names = [face for face, count in zip(FACES, counts, strict=True) if count >= min(3, max(counts))]
    worst = int((steps - _MOST_RATIO * inside).flatten().argmax())
    numbers = f"a step of {steps.flatten()[worst]:.0f} levels, {inside.flatten()[worst]:.0f} beside it"
    verb = "do not continue their neighbours" if len(names) > 1 else "does not continue its neighbours"
    return f"{', '.join(names)} {verb} ({numbers}){_remedy(faces, int(bad.sum()))}"


def _remedy(faces: Tensor, num_bad: int) -> str:
    """Say which turn of the up and down faces, mirroring or exchange lets the edges fit."""
    mirrored = faces.flip(-1)
    as_named = torch.cat([faces[:1].flip(-2), mirrored[1:5], faces[5:].flip(-2)])  # where up and down met the front
    text = "every face mirrored, or left and right exchanged"  # edges cannot tell which: a mirrored world fits as well
    options = [(text, mirrored), (text, as_named)]
    for up, down in ((1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (0, 3), (1, 3), (2, 2), (3, 1)):
        turns = [f"{face} turned left by {90 * count} degrees" for face, count in (("up", up), ("down", down)) if count]
        turned = faces.clone()
        turned[0], turned[5] = torch.rot90(faces[0], up, (1, 2)), torch.rot90(faces[5], down, (1, 2))
        options.append((" and ".join(turns), turned))
    counts = [int(_bad(*edge_steps(option.float())).sum()) for _, option in options]
    fewest = min(counts)
    if 4 * fewest > num_bad:
        return ""
    return f"; with {options[counts.index(fewest)][0]}, {num_bad - fewest} of {num_bad} bad edges fit"


def _bad(steps: Tensor, inside: Tensor) -> Tensor:
    return (steps > _LEAST_LEVELS) & (steps > _MOST_RATIO * inside)


def _by_name(pictures: SamplePictures) -> list[Path | None]:
    row: dict[str, Path] = {}
    for part, path in pictures.files.items():
        face = FACE_WORDS.get(part)
        if face is None or face in row:
            problem = "names no face" if face is None else f"names the same face as {row[face].as_posix()}"
            raise ValueError(f"faces of a cube must be {', '.join(FACES)}; {part!r} {problem}, in {path.as_posix()}.")
        row[face] = path
    return [row.get(face) for face in FACES]


def _as_skybox(faces: Tensor) -> Tensor:
    """Turn up and down faces that meet the front face so that they meet the left one, as in a skybox."""
    up, *ring, down = faces
    return torch.stack([torch.rot90(up, 1, (1, 2)), *ring, torch.rot90(down, -1, (1, 2))])


def _cut_out(image: Tensor, path: Path) -> Tensor:
    """Cut the faces out of one picture: uint8 [6, 3, S, S] in the order of a skybox."""
    height, width = image.shape[-2:]
    for (rows, columns), places in _ONE_PICTURE.items():
        size = height // rows
        if (height, width) != (rows * size, columns * size):
            continue
        faces = {
            face: image[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
            for face, (row, column) in places.items()
        }
        if places is _TALL:
            faces["back"] = torch.rot90(faces["back"], 2, (1, 2))  # it hangs below the down face
        return torch.stack([faces[face] for face in FACES])
    raise unusable(path, f"must be a face, or all six in a cross (4:3, 3:4) or a strip (6:1); got {width}x{height}.")
