"""Likely causes of depths and poses that disagree: conventions and units under which the same files agree.

Own derivation. `check_consistency` is repeated with the poses in other conventions and with translations in other
units, relative to the depths. The first change is looked for alone, then a convention together with a unit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from mvdiff.geometry.consistency import Consistency, Frame, Frames, check_consistency

Poses = tuple[Tensor, Tensor]
"""R [V, 3, 3] world-from-camera and t [V, 3] camera centres."""


def _opengl(R: Tensor, t: Tensor) -> Poses:
    return R * R.new_tensor([1.0, -1.0, -1.0]), t


def _inverse(R: Tensor, t: Tensor) -> Poses:
    return R.mT, -(R.mT @ t[..., None])[..., 0]


def _inverse_opengl(R: Tensor, t: Tensor) -> Poses:
    return _opengl(*_inverse(R, t))


def _transposed(R: Tensor, t: Tensor) -> Poses:
    return R.mT, t


def _scalar_first(R: Tensor, t: Tensor) -> Poses:
    """Take quaternions that were read as (x, y, z, w) as (w, x, y, z)."""
    return _rotations(_quaternions(R).roll(-1, dims=-1)), t


CONVENTIONS: dict[str, Callable[[Tensor, Tensor], Poses]] = {
    "": lambda R, t: (R, t),
    "opengl": _opengl,
    "inverse": _inverse,
    "inverse_opengl": _inverse_opengl,
    "transposed": _transposed,
    "scalar_first": _scalar_first,
}
"""Corrections of poses by the name of the mistake; "" is none."""
SCALES = (1.0, 1000.0, 1 / 1000, 100.0, 1 / 100, 10.0, 1 / 10, 2.0, 1 / 2, 4.0, 1 / 4, 5.0, 1 / 5, 5 / 4, 4 / 5)
"""Corrections of translations relative to depths: metres and millimetres or centimetres; depths in units of 1, 0.5,
0.25, 0.2 or 0.1 mm read as another of these."""
MIN_JUDGED, MIN_CERTAIN = 0.1, 0.9
"""Least share of pixels that must be judged after a change, and least agreement: a few stray points agree under any
change. Measured: the right change 0.96 and more, on the kitchen and on the toy world."""


@dataclass(frozen=True)
class Cause:
    """A change under which the frames agree.

    Attributes:
        convention: Name of the mistake in the poses, see `CONVENTIONS`; "" if there is none.
        scale: Factor by which the translations are too small, relative to the depths; 1 if they are right.
        consistency: Agreement of the frames after the change, without that of colours.
    """

    convention: str
    scale: float
    consistency: Consistency


class _Changed:
    """Frames with other poses."""

    def __init__(self, read: Callable[[int], Frame], poses: Poses) -> None:
        self.read, self.poses = read, poses

    def __len__(self) -> int:
        return len(self.poses[0])

    def __getitem__(self, index: int) -> Frame:
        return self.read(index)._replace(R=self.poses[0][index], t=self.poses[1][index])


@torch.no_grad()
def likely_cause(frames: Frames, poses: Poses, num_pairs: int = 6) -> Cause | None:
    """Return the change under which frames that disagree agree best; None if they do under none.

    Args:
        frames: Frames whose depths and poses disagree.
        poses: R [V, 3, 3] world-from-camera and t [V, 3] of the frames.
        num_pairs: Largest number of pairs of frames to compare for each change.
    """
    read = lru_cache(maxsize=256)(frames.__getitem__)
    R, t = poses[0].double(), poses[1].double()

    def attempt(convention: str, scale: float) -> Cause | None:
        changed = CONVENTIONS[convention](R, t * scale)
        for count in (2, num_pairs):  # two pairs rule most changes out
            found = check_consistency(_Changed(read, changed), changed, count, colours=False)
            if not (found.moves and found.judged >= MIN_JUDGED and found.agreement >= MIN_CERTAIN):
                return None
        return Cause(convention, scale, found)

    alone = [(name, 1.0) for name in CONVENTIONS if name] + [("", scale) for scale in SCALES if scale != 1]
    together = [(name, scale) for name, scale in product(CONVENTIONS, SCALES) if name and scale != 1]
    for changes in (alone, together):
        causes = [cause for change in changes if (cause := attempt(*change)) is not None]
        if causes:
            return max(causes, key=lambda cause: cause.consistency.agreement)
    return None


def _quaternions(R: Tensor) -> Tensor:
    """Return the quaternions (x, y, z, w) [..., 4] of rotations [..., 3, 3], up to sign (Bar-Itzhack 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in R.unbind(-2))
    rows = [
        (xx - yy - zz, yx + xy, zx + xz, zy - yz),
        (yx + xy, yy - xx - zz, zy + yz, xz - zx),
        (zx + xz, zy + yz, zz - xx - yy, yx - xy),
        (zy - yz, xz - zx, yx - xy, xx + yy + zz),
    ]
    matrix = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return torch.linalg.eigh(matrix)[1][..., -1]


def _rotations(quaternions: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] of unit quaternions (x, y, z, w) [..., 4]."""
    x, y, z, w = quaternions.unbind(-1)
    rows = [
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
