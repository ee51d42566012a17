"""Known masks for outpainting training: 1 for known pixels, 0 for pixels to generate.

Axes: V views, H x W image.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mvdiff.geometry.cameras import Rig, intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.given import views_of_given
from mvdiff.keyed import keyed_generator

KnownMode = Literal["first", "random", "mixed"]
"""Known part of a training sample: all of view 0 (the paper), a randomly placed picture, or either, 1:1."""

KNOWN_MODES = ("first", "random", "mixed")

FOV_RANGE = (50.0, 110.0)
"""Range of the horizontal field of view of known pictures in training, degrees."""
ASPECT_RANGE = (0.6, 1.8)
"""Range of the aspect ratio (width / height) of known pictures in training."""
MAX_PITCH = 25.0
"""Largest pitch of known pictures in training, up or down, degrees."""


def known_first(rig: Rig) -> Tensor:
    """Return the paper's mask [V, 1, H, W]: the first view is known, the others are not."""
    known = torch.zeros(rig.num_views, 1, rig.height, rig.width)
    known[0] = 1
    return known


def known_random(rig: Rig, generator: torch.Generator) -> Tensor:
    """Draw the non-empty mask, [V, 1, H, W] float32, of a picture with random camera and aspect ratio.

    Its yaw is uniform, its pitch within `MAX_PITCH` degrees; see `FOV_RANGE` and `ASPECT_RANGE`.
    """
    K, R = rig.cameras()
    while True:  # a picture may fall into a gap of the rig
        known = views_of_given(*_random_camera(rig.height, 180.0, generator), K, R, rig.height, rig.width)
        if bool(known.any()):
            return known


def sample_known(mode: KnownMode, rig: Rig, *keys: int) -> Tensor:
    """Return the known mask [V, 1, H, W] of a training sample, keyed by (seed, epoch, sample index)."""
    generator = keyed_generator("known", *keys)
    if mode == "first" or (mode == "mixed" and bool(torch.randint(2, (), generator=generator))):
        return known_first(rig)
    return known_random(rig, generator)


def view_known(height: int, width: int, generator: torch.Generator) -> Tensor:
    """Draw the known mask [1, H, W], float32, of a single view, for training an inpainting base (own derivation).

    It is empty (35 %), full (10 %), a rectangle or its complement (15 %), one side of a line (15 %), or the part
    covered by a picture in another direction (25 %).
    """
    kind = float(torch.rand((), generator=generator))
    if kind < 0.35:
        return torch.zeros(1, height, width)
    if kind < 0.45:
        return torch.ones(1, height, width)
    if kind < 0.60:
        return _rectangle(height, width, generator)
    if kind < 0.75:
        return _half_plane(height, width, generator)
    K, R = intrinsics_from_fov(90.0, height, width)[None], torch.eye(3)[None]
    return views_of_given(*_random_camera(height, 75.0, generator), K, R, height, width)[0]


def _random_camera(height: int, max_yaw: float, generator: torch.Generator) -> tuple[Tensor, Tensor, int, int]:
    """Draw K, R, height and width of a known picture; only the ratio of width to height matters."""
    fov, aspect, yaw, pitch = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    fov = FOV_RANGE[0] + fov * (FOV_RANGE[1] - FOV_RANGE[0])
    width = max(1, round(height * (ASPECT_RANGE[0] + aspect * (ASPECT_RANGE[1] - ASPECT_RANGE[0]))))
    R = rotation_from_yaw_pitch((2 * yaw - 1) * max_yaw, (2 * pitch - 1) * MAX_PITCH)
    return intrinsics_from_fov(fov, height, width), R, height, width


def _rectangle(height: int, width: int, generator: torch.Generator) -> Tensor:
    kind, *edges = torch.rand(5, generator=generator).tolist()
    known = torch.zeros(1, height, width)
    (top, bottom), (left, right) = sorted(edges[:2]), sorted(edges[2:])
    rows, columns = (round(top * height), round(bottom * height)), (round(left * width), round(right * width))
    known[:, slice(*rows), slice(*columns)] = 1
    return known if kind < 0.5 else 1 - known


def _half_plane(height: int, width: int, generator: torch.Generator) -> Tensor:
    angle, offset = torch.rand(2, generator=generator).tolist()
    x = torch.linspace(-1, 1, width)
    y = torch.linspace(-1, 1, height)[:, None]
    turn = torch.tensor(2 * torch.pi * angle)
    return (x * turn.cos() + y * turn.sin() > 1.2 * offset - 0.6).float()[None]
