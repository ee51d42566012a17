"""Random small indoor scenes: rooms of several shapes with surfaces, light, windows and coloured objects.

World axes are x right, y down, z forward, in metres; the floor is y = 0, so heights are negative y. The panorama is
taken at `Scene.eye`. A scene depends only on `(seed, index)`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from mvdiff.data.toyworld.primitives import EPSILON, Ball, Block, Solid, Tapered
from mvdiff.geometry.cameras import rotation_from_yaw_pitch

COLOURS = {
    "red": (205, 38, 38),
    "yellow": (238, 205, 40),
    "green": (45, 155, 60),
    "cyan": (70, 205, 215),
    "blue": (40, 70, 205),
    "purple": (150, 50, 185),
    "white": (240, 240, 240),
    "black": (38, 38, 44),
}
WALLS = {
    "cream": (214, 200, 165),
    "gray": (150, 150, 154),
    "tan": (178, 138, 102),
    "mint": (150, 196, 168),
    "rose": (208, 152, 156),
    "slate": (98, 116, 142),
}
KINDS = ("ball", "cube", "cone", "pillar", "table", "lamp", "sofa", "shelf")
FLOORS = ("wood", "tile", "carpet", "stone")
WALL_PATTERNS = ("plain", "wainscot", "stripes", "brick")
EYE_HEIGHT = 1.2
WALK_RADIUS = 1.75  # metres from the middle of the room


@dataclass(frozen=True)
class Thing:
    """An object: its kind, colour, position (x, z) in metres, and its solids with their brightness."""

    kind: str
    colour: str
    position: tuple[float, float]
    solids: tuple[tuple[Solid, float], ...]


@dataclass(frozen=True)
class Window:
    """A bright pane on wall number `wall`, from `left` to `right` along it and from `bottom` to `top`, in metres."""

    wall: int
    left: float
    right: float
    bottom: float
    top: float


@dataclass(frozen=True)
class Scene:
    """A room and its contents; `corners` [N, 2] (x, z) is the floor polygon, whose edges are the walls."""

    corners: np.ndarray
    height: float
    wall_colour: str
    wall_pattern: str
    floor: str
    floor_phase: float
    windows: tuple[Window, ...]
    sky: tuple[float, float, float]
    things: tuple[Thing, ...]
    light: tuple[float, float, float]
    light_colour: tuple[float, float, float]
    ambient: float
    eye: tuple[float, float, float]


def scene_rng(*keys: int | str) -> np.random.Generator:
    """Return a generator that depends only on the keys, equal on every machine."""
    digest = hashlib.blake2b("/".join(map(str, keys)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def make_thing(kind: str, colour: str, x: float, z: float, facing: float, size: float, ceiling: float) -> Thing:
    """Build an object.

    Args:
        kind: One of `KINDS`.
        colour: One of `COLOURS`.
        x: Position of its centre in metres.
        z: Position of its centre in metres.
        facing: Yaw in radians of its own z axis; the front faces -z.
        size: Scale, about 1.
        ceiling: Height of the room in metres, which is the height of a pillar.

    Raises:
        ValueError: `kind` is unknown.
    """
    c, s = np.cos(facing), np.sin(facing)

    def block(dx: float, up: float, dz: float, hx: float, hy: float, hz: float) -> Block:
        dx, up, dz = dx * size, up * size, dz * size
        return Block(
            (float(x + c * dx + s * dz), -up, float(z - s * dx + c * dz)), (hx * size, hy * size, hz * size), facing
        )

    def tapered(up: float, height: float, bottom: float, top: float) -> Tapered:
        return Tapered((x, -up * size, z), height * size, bottom * size, top * size)

    solids: list[tuple[Solid, float]]
    if kind == "ball":
        solids = [(Ball((x, -0.5 * size, z), 0.5 * size), 1.0)]
    elif kind == "cube":
        solids = [(block(0, 0.42, 0, 0.42, 0.42, 0.42), 1.0)]
    elif kind == "cone":
        solids = [(tapered(0, 1.3, 0.5, 0.0), 1.0)]
    elif kind == "pillar":
        solids = [(Tapered((x, 0.0, z), ceiling, 0.27 * size, 0.27 * size), 1.0)]
    elif kind == "table":
        legs = [(block(dx, 0.36, dz, 0.05, 0.36, 0.05), 0.8) for dx in (-0.55, 0.55) for dz in (-0.33, 0.33)]
        solids = [(block(0, 0.76, 0, 0.65, 0.06, 0.42), 1.0), *legs]
    elif kind == "lamp":
        solids = [(tapered(0, 0.06, 0.28, 0.28), 0.8), (tapered(0, 1.25, 0.045, 0.045), 0.8)]
        solids += [(tapered(1.15, 0.5, 0.42, 0.2), 1.15)]
    elif kind == "sofa":
        solids = [(block(0, 0.22, 0, 0.75, 0.22, 0.36), 1.0), (block(0, 0.48, 0.3, 0.75, 0.48, 0.12), 0.9)]
        solids += [(block(dx, 0.32, -0.02, 0.12, 0.32, 0.38), 0.85) for dx in (-0.8, 0.8)]
    elif kind == "shelf":
        solids = [(block(0, 0.88, 0.16, 0.46, 0.88, 0.03), 0.55)]
        solids += [(block(dx, 0.88, 0, 0.04, 0.88, 0.18), 1.0) for dx in (-0.46, 0.46)]
        solids += [(block(0, up, 0, 0.46, 0.035, 0.18), 1.0) for up in (0.1, 0.63, 1.16, 1.72)]
    else:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
    return Thing(kind, colour, (x, z), tuple(solids))


def _room(rng: np.random.Generator) -> np.ndarray:
    """Return a floor polygon [N, 2] around the origin: a box, a box with cut corners, an L, or a trapezoid."""
    a, b, c, d = rng.uniform(2.9, 4.2, 4)
    box = [(-a, -c), (b, -c), (b, d), (-a, d)]
    shape = rng.integers(4)
    if shape == 1:  # cut corners
        cut = rng.uniform(0.8, 1.6)
        box = [(-a + cut, -c), (b - cut, -c), (b, -c + cut), (b, d - cut)]
        box += [(b - cut, d), (-a + cut, d), (-a, d - cut), (-a, -c + cut)]
    elif shape == 2:  # L: one corner is missing
        u, v = rng.uniform(1.2, 1.9, 2)
        box = [(-a, -c), (b, -c), (b, d - v), (b - u, d - v), (b - u, d), (-a, d)]
    elif shape == 3:  # trapezoid
        lean = rng.uniform(0.4, 1.0)
        box = [(-a + lean, -c), (b - lean, -c), (b, d), (-a, d)]
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (np.asarray(box) @ rotation.T).astype(np.float32)


def wall_distance(corners: np.ndarray, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, ...]:
    """Intersect rays with the walls of a room, in the floor plane (x, z).

    Args:
        corners: [N, 2] floor polygon, metres.
        origin: [2] or [M, 2] ray origins, metres.
        directions: [M, 2] ray directions of any length.

    Returns:
        [M] distance in units of the direction's length, [M] wall index, and [M] position along the wall in metres.
    """
    best = np.full(len(directions), np.inf, np.float32)
    wall, along = np.zeros(len(directions), np.int64), np.zeros(len(directions), np.float32)
    for i in range(len(corners)):
        start, edge = corners[i], corners[(i + 1) % len(corners)] - corners[i]
        cross = directions[:, 0] * edge[1] - directions[:, 1] * edge[0]
        cross = np.where(np.abs(cross) < 1e-9, np.float32(1e-9), cross)
        gap = start - origin
        t = (gap[..., 0] * edge[1] - gap[..., 1] * edge[0]) / cross
        u = (gap[..., 0] * directions[:, 1] - gap[..., 1] * directions[:, 0]) / cross
        good = (t > EPSILON) & (u >= -1e-6) & (u <= 1 + 1e-6) & (t < best)
        best = np.where(good, t, best)
        wall = np.where(good, i, wall)
        along = np.where(good, u * np.float32(np.linalg.norm(edge)), along)
    return best, wall, along


def make_scene(seed: int, index: int) -> Scene:
    """Make room `index` of world `seed`, with things in a ring around its eye."""
    return _furnish(scene_rng("toyworld", seed, index), _ring)


def make_walk(seed: int, index: int) -> Scene:
    """Make room `index` of world `seed`, with things in its middle and along its walls and space to walk between."""
    return _furnish(scene_rng("toyworld-walk", seed, index), _cluster)


def walk_poses(seed: int, index: int, num_frames: int, arc_deg: float = 360.0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (R [3, 3] world-from-camera, t [3] in metres) of each frame of a walk around the middle of the room.

    Frame i is at `arc_deg * i / num_frames` degrees of the circle.
    """
    rng = scene_rng("toyworld-path", seed, index)
    start, sway, phase = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.3), rng.uniform(0, 2 * np.pi)
    poses = []
    for i in range(num_frames):
        angle = start + np.deg2rad(arc_deg) * i / num_frames
        height = -1.35 - 0.1 * np.sin(2 * angle + phase)
        t = np.array([WALK_RADIUS * np.sin(angle), height, WALK_RADIUS * np.cos(angle)])
        yaw, pitch = angle + np.pi + sway * np.sin(3 * angle + phase), -0.16 + 0.05 * np.sin(angle + phase)
        yaw_deg, pitch_deg = torch.rad2deg(torch.tensor([yaw, pitch], dtype=torch.float64))
        poses.append((rotation_from_yaw_pitch(yaw_deg, pitch_deg).numpy(), t))
    return poses


def _look(corners: np.ndarray, yaw: float) -> tuple[np.ndarray, float]:
    """Return the direction [2] (x, z) of a yaw in radians, and the distance from the middle to the wall."""
    direction = np.array([np.sin(yaw), np.cos(yaw)], np.float32)
    return direction, float(wall_distance(corners, np.zeros(2, np.float32), direction[None])[0][0])


def _ring(rng: np.random.Generator, corners: np.ndarray, height: float) -> list[Thing]:
    """Place up to eight things, one near each multiple of 45 degrees."""
    things = []
    kinds, colours = rng.permutation(len(KINDS)), rng.permutation(len(COLOURS))
    for sector in range(8):
        kind, colour = KINDS[kinds[sector]], list(COLOURS)[colours[sector]]
        yaw = np.deg2rad(45 * sector + rng.uniform(-9, 9))
        size, wish = rng.uniform(0.9, 1.15), rng.uniform(1.5, 2.4)
        if rng.uniform() < 0.12:
            continue
        direction, room = _look(corners, yaw)
        distance = min(wish, room - 0.75)
        if distance < 1.2:
            continue
        x, z = (float(distance * part) for part in direction)
        facing = yaw + (rng.uniform(-0.35, 0.35) if kind != "cube" else rng.uniform(0, np.pi / 2))
        things.append(make_thing(kind, colour, x, z, float(facing), float(size), height))
    return things


def _cluster(rng: np.random.Generator, corners: np.ndarray, height: float) -> list[Thing]:
    """Place four things around the middle and up to four along the walls."""
    things = []
    kinds, colours = rng.permutation(len(KINDS)), rng.permutation(len(COLOURS))
    turn = rng.uniform(0, 2 * np.pi)
    for i in range(8):
        kind, colour = KINDS[kinds[i]], list(COLOURS)[colours[i]]
        inner = i < 4
        yaw = turn + 2 * np.pi * (i / 4 if inner else (i - 4) / 4) + rng.uniform(-0.2, 0.2)
        direction, room = _look(corners, yaw)
        distance = rng.uniform(0.5, 0.7) if inner else room - 0.6
        size = rng.uniform(0.75, 0.85) if inner else rng.uniform(0.9, 1.1)
        if not inner and distance < WALK_RADIUS + 0.75:
            continue
        x, z = (float(distance * part) for part in direction)
        things.append(make_thing(kind, colour, x, z, float(yaw + rng.uniform(-0.3, 0.3)), float(size), height))
    return things


def _furnish(rng: np.random.Generator, place) -> Scene:
    corners = _room(rng)
    height = float(rng.uniform(2.5, 3.1))
    wall_colour = str(rng.choice(list(WALLS)))
    wall_pattern, floor = str(rng.choice(WALL_PATTERNS)), str(rng.choice(FLOORS))
    windows = []
    for i in rng.permutation(len(corners))[: rng.integers(1, 4)]:
        length = float(np.linalg.norm(corners[(i + 1) % len(corners)] - corners[i]))
        if length > 2.0:
            left = rng.uniform(0.3, length - 1.7)
            top = rng.uniform(1.9, 2.3)
            windows.append(Window(int(i), left, left + rng.uniform(1.0, 1.4), rng.uniform(0.8, 1.1), top))
    things = place(rng, corners, height)
    light_xz = rng.uniform(-1.2, 1.2, 2)
    tint = {0: (1.0, 0.95, 0.86), 1: (1.0, 1.0, 1.0), 2: (0.9, 0.96, 1.0)}[int(rng.integers(3))]
    strength = rng.uniform(0.85, 1.1)
    sky = tuple(float(v) for v in np.array([0.75, 0.88, 1.0]) * rng.uniform(0.85, 1.0))
    return Scene(
        corners=corners,
        height=height,
        wall_colour=wall_colour,
        wall_pattern=wall_pattern,
        floor=floor,
        floor_phase=float(rng.uniform(0, np.pi)),
        windows=tuple(windows),
        sky=sky,
        things=tuple(things),
        light=(float(light_xz[0]), -(height - 0.25), float(light_xz[1])),
        light_colour=tuple(float(strength * v) for v in tint),
        ambient=float(rng.uniform(0.42, 0.58)),
        eye=(0.0, -EYE_HEIGHT, 0.0),
    )
