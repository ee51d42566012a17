"""Analytic ray intersections with the solids of the toy world (own derivation).

Rays have origins and directions [N, 3] in world axes (x right, y down, z forward; metres). Every solid has `bound() ->
(centre [3], radius)`, a bounding sphere, and `intersect(origins, directions) -> (distance [N], normals [N, 3])`, the
distance of the first hit in units of the direction's length and the outward unit normal; inf and 0 where a ray misses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EPSILON = 1e-4


def _smallest_positive(near: np.ndarray, far: np.ndarray) -> np.ndarray:
    return np.where(near > EPSILON, near, np.where(far > EPSILON, far, np.inf))


@dataclass(frozen=True)
class Ball:
    """A sphere."""

    centre: tuple[float, float, float]
    radius: float

    def bound(self) -> tuple[np.ndarray, float]:
        """Return centre and radius of a bounding sphere."""
        return np.asarray(self.centre, np.float32), self.radius

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and normals of the first hits."""
        offset = origins - np.asarray(self.centre, np.float32)
        a = np.einsum("nc,nc->n", directions, directions)
        b = np.einsum("nc,nc->n", offset, directions)
        c = np.einsum("nc,nc->n", offset, offset) - self.radius**2
        discriminant = b * b - a * c
        root = np.sqrt(np.maximum(discriminant, 0))
        distance = np.where(discriminant > 0, _smallest_positive((-b - root) / a, (-b + root) / a), np.inf)
        hit = np.isfinite(distance)
        normals = np.zeros_like(origins)
        normals[hit] = (offset[hit] + distance[hit, None] * directions[hit]) / self.radius
        return distance, normals


@dataclass(frozen=True)
class Block:
    """A box rotated about the vertical axis by `yaw` radians (positive to the right)."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    yaw: float = 0.0

    def bound(self) -> tuple[np.ndarray, float]:
        """Return centre and radius of a bounding sphere."""
        return np.asarray(self.centre, np.float32), float(np.linalg.norm(self.half))

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and normals of the first hits, by the slab method in the box's own axes."""
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        world_from_box = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]], np.float32)
        offset = (origins - np.asarray(self.centre, np.float32)) @ world_from_box
        d = directions @ world_from_box
        d = np.where(np.abs(d) < 1e-9, np.float32(1e-9), d)
        half = np.asarray(self.half, np.float32)
        t1, t2 = (-half - offset) / d, (half - offset) / d
        near, far = np.minimum(t1, t2), np.maximum(t1, t2)
        enter, leave = near.max(axis=1), far.min(axis=1)
        inside = enter <= EPSILON
        distance = np.where(enter < leave, _smallest_positive(enter, leave), np.inf)
        axis = np.where(inside, far.argmin(axis=1), near.argmax(axis=1))
        rows = np.arange(len(d))
        box_normals = np.zeros_like(d)
        box_normals[rows, axis] = -np.sign(d[rows, axis]) * np.where(inside, -1, 1)
        normals = box_normals @ world_from_box.T
        normals[~np.isfinite(distance)] = 0
        return distance, normals


@dataclass(frozen=True)
class Tapered:
    """A vertical cylinder or (truncated) cone: radius `bottom` at y = `base[1]`, `top` at `height` above it."""

    base: tuple[float, float, float]
    height: float
    bottom: float
    top: float

    def bound(self) -> tuple[np.ndarray, float]:
        """Return centre and radius of a bounding sphere."""
        x, y, z = self.base
        reach = float(np.hypot(max(self.bottom, self.top), self.height / 2))
        return np.array([x, y - self.height / 2, z], np.float32), reach

    def intersect(self, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances and normals of the first hits with the side or a cap."""
        x, y, z = self.base
        slope = (self.top - self.bottom) / self.height
        o = origins - np.array([x, y, z], np.float32)
        up, d_up = -o[:, 1], -directions[:, 1]  # height above the base
        r0 = self.bottom + slope * up
        a = directions[:, 0] ** 2 + directions[:, 2] ** 2 - (slope * d_up) ** 2
        a = np.where(np.abs(a) < 1e-9, np.float32(1e-9), a)
        b = o[:, 0] * directions[:, 0] + o[:, 2] * directions[:, 2] - r0 * slope * d_up
        c = o[:, 0] ** 2 + o[:, 2] ** 2 - r0**2
        discriminant = b * b - a * c
        root = np.sqrt(np.maximum(discriminant, 0))
        best, normals = np.full(len(o), np.inf, np.float32), np.zeros((len(o), 3), np.float32)
        for t in ((-b - root) / a, (-b + root) / a):
            height = up + t * d_up
            good = (discriminant > 0) & (t > EPSILON) & (height >= 0) & (height <= self.height) & (t < best)
            good &= r0 + slope * t * d_up >= 0
            best = np.where(good, t, best)
            p = o[good] + t[good, None] * directions[good]
            out = np.stack([p[:, 0], np.zeros(len(p), np.float32), p[:, 2]], axis=1)
            out /= np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)
            out[:, 1] = slope
            normals[good] = out / np.sqrt(1 + slope**2)
        d_up = np.where(np.abs(d_up) < 1e-9, np.float32(1e-9), d_up)
        for level, radius, sign in ((0.0, self.bottom, 1.0), (self.height, self.top, -1.0)):
            t = (level - up) / d_up
            px, pz = o[:, 0] + t * directions[:, 0], o[:, 2] + t * directions[:, 2]
            good = (t > EPSILON) & (px * px + pz * pz <= radius * radius) & (t < best)
            best = np.where(good, t, best)
            normals[good] = (0.0, sign, 0.0)
        return best, normals


Solid = Ball | Block | Tapered


class RayBundle:
    """Rays, float32 [N, 3] origins and directions of any length, with a fast test of which pass near a point."""

    SLACK = 1e-3  # square metres; exceeds the float32 error on coordinates of a room, so that no hit is missed

    def __init__(self, origins: np.ndarray, directions: np.ndarray) -> None:
        self.origins, self.directions = np.ascontiguousarray(origins), np.ascontiguousarray(directions)
        self._start = np.einsum("nc,nc->n", self.origins, self.directions)
        self._length2 = np.einsum("nc,nc->n", self.directions, self.directions)
        self._origin2 = np.einsum("nc,nc->n", self.origins, self.origins)

    def near(self, centre: np.ndarray, radius: float) -> np.ndarray:
        """Return the indices of rays that pass within `radius` of `centre`, at or ahead of their origins."""
        along = np.maximum(self.directions @ centre - self._start, 0)
        offset2 = self._origin2 - 2 * (self.origins @ centre) + centre @ centre
        return np.nonzero(offset2 - along * along / self._length2 <= radius * radius + self.SLACK)[0]
