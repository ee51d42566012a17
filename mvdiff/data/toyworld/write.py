"""Write a toy world to disk, in the Matterport3D and ScanNet layouts of `docs/data.md`.

Each room yields one panorama (six skybox faces, captions every 45 degrees, up and down, and `truth/<pano>.json` with
the true labels of the views) and, optionally, one camera path (colour, depth, pose, intrinsics, captions, lists of key
and usable frames, and `truth/` with the thing at each pixel).
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mvdiff.data.matterport3d import CAPTION_DEGREES
from mvdiff.data.prepare.keyframes import find_key_frames, map_in_processes, write_lists
from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.toyworld.captions import describe, describe_steep, facts
from mvdiff.data.toyworld.render import Hits, trace
from mvdiff.data.toyworld.scene import Scene, make_scene, make_walk, walk_poses
from mvdiff.files.paths import is_hidden
from mvdiff.files.writing import check_plain_folder, whole_folder
from mvdiff.geometry.cameras import intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.panorama import skybox_cameras
from mvdiff.geometry.sampling import cell_from_pixel

LABEL_SIZE = 64  # side in pixels of the views from which captions are made
FRAME_SUPERSAMPLING = 2  # rays per pixel and axis; faces get one, since views are cut at half their resolution

_ROOM = re.compile(r"toy\d{5,}")  # names that `room_name` gives


def render_view(scene: Scene, K, R, t, height: int, width: int, supersampling: int = 1) -> Hits:
    """Render one pinhole view of a scene.

    Colours are averaged over `supersampling` rays per pixel and axis; depth and labels are taken at pixel centres.

    Args:
        scene: The room.
        K: [3, 3] intrinsics in pixels.
        R: [3, 3] world-from-camera.
        t: [3] camera centre in metres, inside the room.
        height: Image height in pixels.
        width: Image width in pixels.
        supersampling: Rays per pixel and axis.

    Returns:
        Colour [H, W, 3] in [0, 1], z-depth [H, W] in metres as `distance`, and labels [H, W].
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
    """Return [H f * W f, 3] world directions with camera z = 1, so that distance is z-depth."""
    ys, xs = np.meshgrid(
        cell_from_pixel(np.arange(height * factor), stride=factor),
        cell_from_pixel(np.arange(width * factor), stride=factor),
        indexing="ij",
    )
    K, R = np.asarray(K, np.float64), np.asarray(R, np.float64)
    pixels = np.stack([xs, ys, np.ones_like(xs)], axis=-1).reshape(-1, 3)
    return pixels @ np.linalg.inv(K).T @ R.T


def _save_jpeg(colour: np.ndarray, path: Path) -> None:
    Image.fromarray(np.round(colour * 255).astype(np.uint8)).save(path, quality=95, subsampling=0)


def room_name(index: int) -> str:
    """Return the folder name of room `index`."""
    return f"toy{index:05d}"


def write_panorama(root: Path, seed: int, index: int, size: int) -> list[str]:
    """Write room `index` as a skybox with captions and true labels; return the relative paths of the six faces."""
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
    level = {str(degree): (float(degree), 0.0) for degree in CAPTION_DEGREES}
    for look, direction in (level | {"up": (0.0, 90.0), "down": (0.0, -90.0)}).items():
        R = rotation_from_yaw_pitch(*direction)
        labels = render_view(scene, K, R, scene.eye, LABEL_SIZE, LABEL_SIZE).label
        if look in level:
            judged[look] = facts(scene, labels)
        caption = describe(scene, labels) if look in level else describe_steep(scene, labels)
        (texts / f"{name}_{look}.txt").write_text(caption + "\n")
    (truth / f"{name}.json").write_text(json.dumps({"views": judged}, indent=1) + "\n")
    return paths


def write_walk(root: Path, seed: int, index: int, size: int, num_frames: int, arc_deg: float = 360.0) -> str:
    """Write a walk through room `index` in the ScanNet layout, frames `size` pixels wide (4:3); return its name."""
    scene, name = make_walk(seed, index), room_name(index)
    folder, height, width = root / name, size * 3 // 4, size
    for sub in ("color", "depth", "pose", "intrinsic", "prompt", "truth"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    K, K4 = intrinsics_from_fov(65.0, height, width), np.eye(4)
    K4[:3, :3] = K.numpy()
    for kind in ("color", "depth"):
        np.savetxt(folder / "intrinsic" / f"intrinsic_{kind}.txt", K4, fmt="%.6f")
    for i, (R, t) in enumerate(walk_poses(seed, index, num_frames, arc_deg)):
        hits = render_view(scene, K, R, t, height, width, FRAME_SUPERSAMPLING)
        _save_jpeg(hits.colour, folder / "color" / f"{i}.jpg")
        Image.fromarray(np.round(hits.distance * 1000).astype(np.uint16)).save(folder / "depth" / f"{i}.png")
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = R, t
        np.savetxt(folder / "pose" / f"{i}.txt", pose, fmt="%.8f")
        (folder / "prompt" / f"{i}.txt").write_text(describe(scene, hits.label) + "\n")
        Image.fromarray((np.maximum(hits.label, -1) + 1).astype(np.uint8)).save(folder / "truth" / f"{i}.png")
    things = [{"kind": thing.kind, "colour": thing.colour} for thing in scene.things]
    (folder / "truth" / "things.json").write_text(json.dumps({"things": things}, indent=1) + "\n")
    write_lists(folder, find_key_frames(ScanNetScene(folder)), sync=False)
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
    """Write panoramas of `rooms` rooms to `root/mp3d_skybox` and, unless `num_frames` is 0, walks to `root/scannet`.

    A room depends only on the seed and its index, and is the same on every machine.

    Args:
        root: Folder to write to; created if absent.
        rooms: Number of rooms, at least 2; the last `test_rooms` form the test split.
        seed: Random seed of the world.
        size: Side of a skybox face and width of a frame in pixels; a multiple of 4, at least 16.
        test_rooms: Number of test rooms; None: a fifth, at least one.
        num_frames: Frames of each camera path; 0 omits the ScanNet layout.
        arc_deg: Angle around the middle of the room that a path covers, in (0, 360]; smaller angles give closer frames.
        num_workers: Rendering processes.
        progress: Called with the index of each room after it is written.

    The world appears as a whole when all of it is written; an earlier one stays until then.

    Raises:
        ValueError: `rooms`, `size`, `test_rooms` or `arc_deg` is out of range.
        OSError: See `check_toyworld_folder`; or the folder cannot be written, and is as it was.
    """
    test_rooms = max(1, rooms // 5) if test_rooms is None else test_rooms
    if rooms < 2:
        raise ValueError(f"rooms must be at least 2; got {rooms}: one to train and one to test on.")
    if not 0 < test_rooms < rooms:
        raise ValueError(f"test_rooms must be between 1 and rooms - 1 = {rooms - 1}; got {test_rooms}.")
    if size < 16 or size % 4:
        raise ValueError(f"size must be a multiple of 4 and at least 16 pixels; got {size}.")
    if not 0 < arc_deg <= 360:
        raise ValueError(f"arc_deg must lie in (0, 360]; got {arc_deg}.")
    root = Path(root)
    check_toyworld_folder(root)
    sizes = {"size": size, "num_frames": num_frames, "arc_deg": arc_deg}
    splits = {"train": range(rooms - test_rooms), "test": range(rooms - test_rooms, rooms)}
    with whole_folder(root.resolve(), sync=False) as new:  # a lost world can be made again
        for split, indices in splits.items():
            job = partial(_write_room, root=new, seed=seed, split=split, **sizes)
            rows = []
            for index, row in zip(indices, map_in_processes(job, indices, num_workers), strict=True):
                rows.append(row)
                if progress is not None:
                    progress(index)
            np.save(new / "mp3d_skybox" / f"{split}.npy", np.array(rows))
    return root


def check_toyworld_folder(root: Path) -> None:
    """Check that writing a toy world replaces nothing but an earlier toy world.

    Raises:
        FileExistsError: `mp3d_skybox` or `scannet` in the folder holds other data.
        OSError: The folder is a file, a device or a link to nothing.
    """
    check_plain_folder(root.resolve())
    for folder in (root / "mp3d_skybox", root / "scannet" / "train", root / "scannet" / "test"):
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
        rooms = [path for path in entries if _ROOM.fullmatch(path.name)]
        others = [path for path in entries if path.is_dir() and path not in rooms and not is_hidden(path.name)]
        lists = [path for path in entries if path.name in ("train.npy", "test.npy") and not rooms]
        if others or lists:
            raise FileExistsError(
                f"DIR must be new or hold a toy world; got {root}, where {(others or lists)[0].relative_to(root)} is "
                "not part of one. Choose another DIR."
            )
