"""Small scenes in the ScanNet layout on disk, frames told apart by colour, depth, pose and prompt."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOUR_SIZE, DEPTH_SIZE = (30, 40), (24, 32)  # height, width: the layout's colour may have another size than its depth
K_DEPTH = np.array([[30.0, 0, 15.5, 0], [0, 31.0, 11.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def pose_of(frame: int) -> np.ndarray:
    """A camera that faces a wall, rolls by a degree and moves right by a centimetre and back by a millimetre a frame.

    The wall is a metre before the camera of frame 0, so that depths of 1000 + frame millimetres are right.
    """
    yaw, pitch, roll = np.deg2rad([20, -35, frame])
    to_wall = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    to_wall = to_wall @ [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
    pose = np.eye(4)
    pose[:3, :3] = to_wall @ [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    pose[:3, 3] = to_wall @ [0.01 * frame, 0, -0.001 * frame] + [0, -1, 2]
    return pose


def write_frame(scene: Path, frame: int) -> None:
    height, width = COLOUR_SIZE
    colour = np.zeros((height, width, 3), np.uint8)
    colour[..., 0], colour[..., 1], colour[..., 2] = frame, np.arange(width), np.arange(height)[:, None]
    Image.fromarray(colour).save(scene / "color" / f"{frame}.png")
    write_depth(scene, frame, np.full(DEPTH_SIZE, 1000 + frame))
    np.savetxt(scene / "pose" / f"{frame}.txt", pose_of(frame))
    (scene / "prompt" / f"{frame}.txt").write_text(f"frame {frame}\nanother line\n")


def write_depth(scene: Path, frame: int, millimetres: np.ndarray) -> None:
    Image.fromarray(millimetres.astype(np.uint16)).save(scene / "depth" / f"{frame}.png")


def write_scene(scene: Path, num_frames: int = 24, first: int = 0, key_every: int | None = 2) -> Path:
    for sub in ("color", "depth", "pose", "prompt", "intrinsic"):
        (scene / sub).mkdir(parents=True)
    frames = range(first, first + num_frames)
    for frame in frames:
        write_frame(scene, frame)
    np.savetxt(scene / "intrinsic" / "intrinsic_depth.txt", K_DEPTH)
    if key_every:
        (scene / "key_frame_0.6.txt").write_text("".join(f"{frame}\n" for frame in frames[::key_every]))
        np.save(scene / "valid_frames.npy", np.array(frames))
    return scene


def write_scannet(root: Path, num_train: int = 3, num_test: int = 2, **settings) -> Path:
    """Write scene0, scene1, ... to train/ and test/, 2 frames more in each."""
    settings = {"num_frames": 24} | settings
    for number in range(num_train + num_test):
        split = "train" if number < num_train else "test"
        write_scene(root / split / f"scene{number}", **settings | {"num_frames": settings["num_frames"] + 2 * number})
    return root
