"""Ray tracing of toy scenes: colour, distance and label of the first hit (own derivation)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvdiff.data.toyworld.primitives import RayBundle
from mvdiff.data.toyworld.scene import COLOURS, WALLS, Scene, wall_distance

FLOOR, CEILING, WALL, WINDOW = -1, -2, -3, -4


@dataclass(frozen=True)
class Hits:
    """The first surfaces hit by N rays."""

    colour: np.ndarray  # [N, 3] float32 in [0, 1]
    distance: np.ndarray  # [N] in units of the ray direction's length (z-depth in metres if the direction has z = 1)
    label: np.ndarray  # [N] index into scene.things, or FLOOR, CEILING, WALL, WINDOW (negative)


def _intersections(scene: Scene, origins: np.ndarray, directions: np.ndarray):
    """Yield (thing index, brightness, rows, distances, normals) of the rays that pass near each solid."""
    rays = RayBundle(origins, directions)
    for index, thing in enumerate(scene.things):
        for solid, brightness in thing.solids:
            rows = rays.near(*solid.bound())
            if len(rows):
                yield index, brightness, rows, *solid.intersect(rays.origins[rows], rays.directions[rows])


def _nearest_thing(scene: Scene, origins: np.ndarray, directions: np.ndarray, distance: np.ndarray):
    """Return (label, brightness, normals) of things hit before `distance`, which is updated in place."""
    n = len(directions)
    label, shade = np.full(n, -9, np.int16), np.ones(n, np.float32)
    normals = np.zeros((n, 3), np.float32)
    for index, brightness, near, t, normal in _intersections(scene, origins, directions):
        closer = t < distance[near]
        rows = near[closer]
        distance[rows], label[rows], shade[rows], normals[rows] = t[closer], index, brightness, normal[closer]
    return label, shade, normals


def _shadowed(scene: Scene, points: np.ndarray) -> np.ndarray:
    """Return [N] bool, True where a thing stands between the point and the light."""
    to_light = np.asarray(scene.light, np.float32) - points
    dark = np.zeros(len(points), bool)
    for _, _, near, t, _ in _intersections(scene, points, to_light):
        dark[near] |= t < 1
    return dark


def _floor_colour(scene: Scene, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    c, s = np.cos(scene.floor_phase), np.sin(scene.floor_phase)
    u, v = c * x + s * z, c * z - s * x
    if scene.floor == "wood":
        plank = np.floor(u / 0.35)
        tone = 0.86 + 0.14 * np.sin(plank * 12.9898) * np.cos(plank * 4.1)
        return tone[:, None] * np.array([0.55, 0.36, 0.2], np.float32)
    if scene.floor == "tile":
        even = (np.floor(u / 0.6) + np.floor(v / 0.6)) % 2
        return np.where(even[:, None] > 0, np.float32(0.8), np.float32(0.5)) * np.array([1, 1, 0.98], np.float32)
    if scene.floor == "carpet":
        rim = 0.85 + 0.15 * (np.maximum(np.abs(u), np.abs(v)) < 1.2)
        return rim[:, None] * np.array([0.5, 0.22, 0.26], np.float32)
    cell = np.floor(u / 0.8) * 7.0 + np.floor(v / 0.5) * 3.0
    tone = 0.9 + 0.1 * np.sin(cell * 5.3)
    return tone[:, None] * np.array([0.42, 0.45, 0.44], np.float32)


def _wall_colour(scene: Scene, along: np.ndarray, up: np.ndarray) -> np.ndarray:
    base = np.asarray(WALLS[scene.wall_colour], np.float32) / 255
    tone = np.ones_like(up)
    if scene.wall_pattern == "wainscot":
        tone = np.where(up < 0.9, 0.78, 1.0)
    elif scene.wall_pattern == "stripes":
        tone = np.where(np.floor(along / 0.5) % 2 > 0, 0.9, 1.0)
    elif scene.wall_pattern == "brick":
        row = np.floor(up / 0.35)
        offset = along / 0.8 + 0.5 * (row % 2)
        joint = (np.abs(up / 0.35 - np.round(up / 0.35)) < 0.1) | (np.abs(offset - np.round(offset)) < 0.05)
        tone = np.where(joint, 0.84, 1.0)
    tone = np.where(up < 0.1, 0.6, tone)  # skirting board
    return tone[:, None].astype(np.float32) * base


def _in_window(scene: Scene, wall: np.ndarray, along: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Return [N] int8: 0 no window, 1 pane, 2 frame."""
    kind = np.zeros(len(wall), np.int8)
    for w in scene.windows:
        inside = (wall == w.wall) & (along > w.left) & (along < w.right) & (up > w.bottom) & (up < w.top)
        gap = np.minimum(np.minimum(along - w.left, w.right - along), np.minimum(up - w.bottom, w.top - up))
        gap = np.minimum(gap, np.abs(along - (w.left + w.right) / 2))
        kind[inside] = np.where(gap[inside] < 0.06, 2, 1)
    return kind


def trace(scene: Scene, origins: np.ndarray, directions: np.ndarray) -> Hits:
    """Trace rays to the first surface, lit by one lamp with shadows on floor and walls.

    Args:
        scene: The room.
        origins: [3] or [N, 3] ray origins inside the room, metres.
        directions: [N, 3] ray directions of any length.
    """
    directions = np.ascontiguousarray(directions, np.float32)
    origins = np.broadcast_to(np.asarray(origins, np.float32), directions.shape)
    n = len(directions)
    distance, wall, along = wall_distance(scene.corners, origins[:, [0, 2]], directions[:, [0, 2]])
    vertical = np.where(np.abs(directions[:, 1]) < 1e-9, np.float32(1e-9), directions[:, 1])
    level = np.where(vertical > 0, np.float32(0), np.float32(-scene.height))
    t_level = (level - origins[:, 1]) / vertical
    flat = t_level < distance
    distance = np.where(flat, t_level, distance).astype(np.float32)
    background = np.where(flat, np.where(vertical > 0, FLOOR, CEILING), WALL).astype(np.int16)
    thing, shade, thing_normals = _nearest_thing(scene, origins, directions, distance)
    label = np.where(thing >= 0, thing, background)
    points = origins + distance[:, None] * directions

    albedo, normals = np.zeros((n, 3), np.float32), np.zeros((n, 3), np.float32)
    on = label == FLOOR
    albedo[on], normals[on] = _floor_colour(scene, points[on, 0], points[on, 2]), (0, -1, 0)
    on = label == CEILING
    albedo[on], normals[on] = 0.5 + 0.4 * np.asarray(WALLS[scene.wall_colour], np.float32) / 255, (0, 1, 0)
    on = label == WALL
    edges = np.roll(scene.corners, -1, axis=0) - scene.corners
    wall_normals = np.stack([-edges[:, 1], np.zeros(len(edges)), edges[:, 0]], 1) / np.linalg.norm(
        edges, axis=1, keepdims=True
    )
    up = -points[on, 1]
    albedo[on], normals[on] = _wall_colour(scene, along[on], up), wall_normals[wall[on]]
    window = np.zeros(n, np.int8)
    window[on] = _in_window(scene, wall[on], along[on], up)
    albedo[window == 2] = 0.93
    palette = np.array([COLOURS[t.colour] for t in scene.things] or [(0, 0, 0)], np.float32) / 255
    on = label >= 0
    albedo[on], normals[on] = np.minimum(palette[label[on]] * shade[on, None], 1), thing_normals[on]

    to_light = np.asarray(scene.light, np.float32) - points
    reach = np.linalg.norm(to_light, axis=1)
    lambert = np.einsum("nc,nc->n", normals, to_light) / np.maximum(reach, 1e-6)
    lambert = np.maximum(np.where(label >= 0, lambert, np.abs(lambert)), 0) / (1 + 0.03 * reach**2)
    receives = np.nonzero((label == FLOOR) | ((label == WALL) & (window == 0)))[0]
    lambert[receives[_shadowed(scene, points[receives] + 1e-3 * normals[receives])]] *= 0.15
    light = np.asarray(scene.light_colour, np.float32) * (scene.ambient + 0.62 * lambert[:, None])
    colour = np.clip(albedo * light, 0, 1)
    colour[window == 1] = scene.sky
    label[window > 0] = WINDOW
    return Hits(colour, distance, label)
