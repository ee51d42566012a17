"""Write a toy world to disk, in the Matterport3D and ScanNet layouts of `docs/data.md`.

A room gives one panorama (six skybox faces, a caption per 45 degrees, one up, one down, and `truth/<pano>.json` with
what judges may be asked) and, where asked for, one camera path (colour, depth, pose, intrinsics, captions, lists
of key and usable frames, and `truth/`: which pixels of each frame show which thing).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mvdiff.data.prepare.keyframes import find_key_frames, write_lists
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.toyworld.captions import describe, describe_steep, facts
from mvdiff.data.toyworld.render import Hits, trace
from mvdiff.data.toyworld.scene import Scene, make_scene, make_walk, walk_poses
from mvdiff.geometry.cameras import intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.panorama import skybox_cameras
from mvdiff.geometry.sampling import cell_from_pixel

LABEL_SIZE = 64  # pixels of the views in which captions look for things
FRAME_SUPERSAMPLING = 2  # faces have one ray per texel: views are cut from them at half their resolution


def render_view(scene: Scene, K, R, t, height: int, width: int, supersampling: int = 1) -> Hits:
    """Render one pinhole view of a scene.

    Args:
        scene: The scene.
        K: `[3, 3]` intrinsics of the height x width image (torch).
        R: `[3, 3]` world-from-camera rotation (torch).
        t: `[3]` camera position, metres.
        height: Image height.
        width: Image width.
        supersampling: Rays per pixel and axis; colours are averaged, depth and labels taken at the pixel's centre.

    Returns:
        Colour `[H, W, 3]` in [0, 1], z-depth `[H, W]` in metres, labels `[H, W]`.
    """
    centre = trace(scene, t, _z1_directions(K, R, height, width, 1))
    colour = centre.colour
    if supersampling > 1:
        fine = trace(scene, t, _z1_directions(K, R, height, width, supersampling)).colour
        colour = fine.reshape(height, supersampling, width, supersampling, 3).mean(axis=(1, 3))
    return Hits(
        colour.reshape(height, width, 3), centre.distance.reshape(height, width), centre.label.reshape(height, width)
    )


def _z1_directions(K, R, height: int, width: int, factor: int) -> np.ndarray:
    """Return world directions `[H f * W f, 3]` whose camera z is 1, so that distance is z-depth."""
    ys, xs = np.meshgrid(
        cell_from_pixel(np.arange(height * factor), stride=factor),
        cell_from_pixel(np.arange(width * factor), stride=factor),
        indexing="ij",
    )
    K, R = np.asarray(K, np.float64), np.asarray(R, np.float64)
    pixels = np.stack([xs, ys, np.ones_like(xs)], axis=-1).reshape(-1, 3)
    return pixels @ np.linalg.inv(K).T @ R.T


def _uint8(colour: np.ndarray) -> Image.Image:
    return Image.fromarray(np.round(colour * 255).astype(np.uint8))


def _save_jpeg(colour: np.ndarray, path: Path) -> None:
    _uint8(colour).save(path, quality=95, subsampling=0)


def room_name(index: int) -> str:
    """Return the scene's folder name of room number `index`."""
    return f"toy{index:05d}"


def write_panorama(root: Path, seed: int, index: int, size: int) -> list[str]:
    """Write room `index` as a skybox with captions and truth; return its six relative paths."""
    scene, name = make_scene(seed, index), room_name(index)
    images, texts, truth = (root / name / sub for sub in ("matterport_skybox_images", "blip3", "truth"))
    for folder in (images, texts, truth):
        folder.mkdir(parents=True, exist_ok=True)
    K, R = skybox_cameras(size)
    paths = []
    for face in range(6):
        path = images / f"{name}_skybox{face}_sami.jpg"
        _save_jpeg(render_view(scene, K[face], R[face], scene.eye, size, size).colour, path)
        paths.append(str(path.relative_to(root)))
    judged = {}
    K = intrinsics_from_fov(90.0, LABEL_SIZE, LABEL_SIZE)
    for degree in range(0, 360, 45):
        R = rotation_from_yaw_pitch(float(degree), 0.0)
        labels = render_view(scene, K, R, scene.eye, LABEL_SIZE, LABEL_SIZE).label
        (texts / f"{name}_{degree}.txt").write_text(describe(scene, labels) + "\n")
        judged[str(degree)] = facts(scene, labels)
    for look, pitch in (("up", 90.0), ("down", -90.0)):
        R = rotation_from_yaw_pitch(0.0, pitch)
        labels = render_view(scene, K, R, scene.eye, LABEL_SIZE, LABEL_SIZE).label
        (texts / f"{name}_{look}.txt").write_text(describe_steep(scene, labels) + "\n")
    (truth / f"{name}.json").write_text(json.dumps({"views": judged}, indent=1) + "\n")
    return paths


def write_walk(root: Path, seed: int, index: int, size: int, num_frames: int, arc_deg: float = 360.0) -> str:
    """Write a walk through room `index` in the ScanNet layout (`size` wide, 3:4) and return the scene's name."""
    scene, name = make_walk(seed, index), room_name(index)
    height, width = size * 3 // 4, size
    for sub in ("color", "depth", "pose", "intrinsic", "prompt", "truth"):
        (root / name / sub).mkdir(parents=True, exist_ok=True)
    K = intrinsics_from_fov(65.0, height, width)
    K4 = np.eye(4)
    K4[:3, :3] = K.numpy()
    for kind in ("color", "depth"):
        np.savetxt(root / name / "intrinsic" / f"intrinsic_{kind}.txt", K4, fmt="%.6f")
    for i, (R, t) in enumerate(walk_poses(seed, index, num_frames, arc_deg)):
        hits = render_view(scene, K, R, t, height, width, FRAME_SUPERSAMPLING)
        _save_jpeg(hits.colour, root / name / "color" / f"{i}.jpg")
        Image.fromarray(np.round(hits.distance * 1000).astype(np.uint16)).save(root / name / "depth" / f"{i}.png")
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = R, t
        np.savetxt(root / name / "pose" / f"{i}.txt", pose, fmt="%.8f")
        (root / name / "prompt" / f"{i}.txt").write_text(describe(scene, hits.label) + "\n")
        Image.fromarray((np.maximum(hits.label, -1) + 1).astype(np.uint8)).save(root / name / "truth" / f"{i}.png")
    things = [{"kind": thing.kind, "colour": thing.colour} for thing in scene.things]
    (root / name / "truth" / "things.json").write_text(json.dumps({"things": things}, indent=1) + "\n")
    write_lists(root / name, find_key_frames(ScanNetScene(root / name)))
    return name


def _write_room(index: int, root: Path, seed: int, size: int, split: str, num_frames: int, arc_deg: float) -> list[str]:
    paths = write_panorama(root / "mp3d_skybox", seed, index, size)
    if num_frames:
        write_walk(root / "scannet" / split, seed, index, size, num_frames, arc_deg)
    return paths


def write_toyworld(
    root: str | Path,
    rooms: int = 40,
    seed: int = 0,
    size: int = 128,
    test_rooms: int | None = None,
    num_frames: int = 60,
    arc_deg: float = 360.0,
    num_workers: int = 1,
    progress=None,
) -> Path:
    """Write `rooms` rooms to `root/mp3d_skybox` and, with `num_frames`, `root/scannet`.

    Room `i` of seed `s` is the same on every machine and whatever the other settings are.

    Args:
        root: Folder to write to; made where missing.
        rooms: Number of rooms; the last `test_rooms` of them are the test split.
        seed: The world.
        size: Side of a skybox face and width of a frame, pixels.
        test_rooms: Default: a fifth, at least one.
        num_frames: Frames of each camera path; 0 leaves the ScanNet layout out.
        arc_deg: How far around the room's middle a path goes, in (0, 360]; less gives closer frames.
        num_workers: Processes that render.
        progress: Called with each room's index when it is written.

    Raises:
        ValueError: `rooms`, `size`, `test_rooms` or `arc_deg` out of range.
    """
    test_rooms = max(1, rooms // 5) if test_rooms is None else test_rooms
    if rooms < 2:
        raise ValueError(f"rooms must be at least 2; got {rooms}. One is needed to train and one to test.")
    if not 0 < test_rooms < rooms:
        raise ValueError(f"test_rooms must be between 1 and rooms - 1 = {rooms - 1}; got {test_rooms}.")
    if size < 16 or size % 4:
        raise ValueError(f"size must be a multiple of 4 and at least 16 pixels; got {size}.")
    if not 0 < arc_deg <= 360:
        raise ValueError(f"arc_deg must lie in (0, 360]; got {arc_deg}. The whole round is 360.")
    root = Path(root)
    rows: list[list[str]] = []
    for split, indices in (("train", range(rooms - test_rooms)), ("test", range(rooms - test_rooms, rooms))):
        sizes = {"size": size, "num_frames": num_frames, "arc_deg": arc_deg}
        job = partial(_write_room, root=root, seed=seed, split=split, **sizes)
        written = []
        for index, paths in zip(indices, _map(job, indices, num_workers), strict=True):
            written.append(paths)
            if progress is not None:
                progress(index)
        np.save(root / "mp3d_skybox" / f"{split}.npy", np.array(written))
        rows += written
    return root


def _map(job, indices: Iterable[int], num_workers: int):
    if num_workers <= 1:
        yield from map(job, indices)
        return
    with ProcessPoolExecutor(num_workers) as pool:
        yield from pool.map(job, indices, chunksize=2)
