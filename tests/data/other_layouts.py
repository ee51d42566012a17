"""One recording written in other layouts, by formulas of its own: nothing of the readers is used."""

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.scenes import pose_of


def quaternion_of(R: np.ndarray) -> np.ndarray:
    """qx, qy, qz, qw of a rotation: the eigenvector of a symmetric matrix (Bar-Itzhack 2000)."""
    K = np.array(
        [
            [R[0, 0] - R[1, 1] - R[2, 2], R[1, 0] + R[0, 1], R[2, 0] + R[0, 2], R[2, 1] - R[1, 2]],
            [0, R[1, 1] - R[0, 0] - R[2, 2], R[2, 1] + R[1, 2], R[0, 2] - R[2, 0]],
            [0, 0, R[2, 2] - R[0, 0] - R[1, 1], R[1, 0] - R[0, 1]],
            [0, 0, 0, R.trace()],
        ]
    )
    return np.linalg.eigh(np.triu(K) + np.triu(K, 1).T)[1][:, -1]


def poses_of(scene: Path, frames) -> list[np.ndarray]:
    return [np.loadtxt(scene / "pose" / f"{frame}.txt") for frame in frames]


def copy_lists(scene: Path, out: Path) -> None:
    for name in ("key_frame_0.6.txt", "valid_frames.npy"):
        shutil.copyfile(scene / name, out / name)
    shutil.copytree(scene / "prompt", out / "prompt")


def colour_of(scene: Path, frame: int) -> Path:
    return next((scene / "color").glob(f"{frame}.*"))


def write_transforms(scene: Path, out: Path, per_frame: bool = False) -> Path:
    """Write a ScanNet scene whose frames are 0, 1, ... as transforms.json; colour and depth have one size."""
    out.mkdir(parents=True)
    copy_lists(scene, out)
    K = np.loadtxt(scene / "intrinsic" / "intrinsic_depth.txt")
    frames = range(len(list((scene / "color").iterdir())))
    (width, height) = Image.open(colour_of(scene, 0)).size
    camera = {"fl_x": K[0, 0], "fl_y": K[1, 1], "cx": K[0, 2] + 0.5, "cy": K[1, 2] + 0.5, "w": width, "h": height}
    entries = []
    for frame, pose in zip(frames, poses_of(scene, frames), strict=True):
        for sub, path in (("images", colour_of(scene, frame)), ("depth", scene / "depth" / f"{frame}.png")):
            (out / sub).mkdir(exist_ok=True)
            shutil.copyfile(path, out / sub / f"frame_{frame + 1:05d}{path.suffix}")
        opengl = pose @ np.diag([1.0, -1.0, -1.0, 1.0])
        entries.append(
            {
                "file_path": f"./images/frame_{frame + 1:05d}" + (colour_of(scene, frame).suffix if frame % 2 else ""),
                "depth_file_path": f"depth/frame_{frame + 1:05d}.png",
                "transform_matrix": opengl.tolist(),
                **(camera if per_frame else {}),
            }
        )
    content = {"camera_model": "OPENCV", "k1": 0, "p1": 0.0, "frames": entries, **({} if per_frame else camera)}
    (out / "transforms.json").write_text(json.dumps(content))
    return out


def write_tum(scene: Path, out: Path) -> Path:
    """Write the same as TUM RGB-D: depths a little later than colours, poses at 100 Hz, comments, no order of names."""
    out.mkdir(parents=True)
    copy_lists(scene, out)
    frames = range(len(list((scene / "color").iterdir())))
    rgb, depth, poses = ["# color images"], ["# depth maps"], ["# time tx ty tz qx qy qz qw"]
    for frame, pose in zip(frames, poses_of(scene, frames), strict=True):
        time = 1305031102.175304 + frame / 30
        colour = colour_of(scene, frame)
        for sub, path in (("rgb", colour), ("depth", scene / "depth" / f"{frame}.png")):
            (out / sub).mkdir(exist_ok=True)
            name = out / sub / f"{time + (sub == 'depth') * 0.011:.6f}{path.suffix}"
            if sub == "rgb":
                shutil.copyfile(path, name)
            else:
                millimetres = np.array(Image.open(path)).astype(np.int64)
                Image.fromarray((millimetres * 5).astype(np.uint16)).save(name)
        rgb.append(f"{time:.6f} rgb/{time:.6f}{colour.suffix}")
        depth.append(f"{time + 0.011:.6f} depth/{time + 0.011:.6f}.png")
        values = [*pose[:3, 3], *quaternion_of(pose[:3, :3]) * (-1) ** frame]  # q and -q are one rotation
        poses.append(f"{time + 0.004:.4f} " + " ".join(f"{value:.12f}" for value in values))
        poses.append(f"{time + 0.0145:.4f} 9 9 9 0 0 0 1")  # another, farther in time
    for name, lines in (("rgb.txt", rgb), ("depth.txt", depth), ("groundtruth.txt", poses)):
        (out / name).write_text("\n".join(lines) + "\n")
    K = np.loadtxt(scene / "intrinsic" / "intrinsic_depth.txt")
    (out / "camera.txt").write_text(f"# fx fy cx cy\n{K[0, 0]} {K[1, 1]} {K[0, 2]} {K[1, 2]}\n")
    return out


def write_small_transforms(folder: Path, frames: int = 3, **changes) -> Path:
    """Three frames, 8x6 colour and 4x3 depth in millimetres, the poses of `tests.data.scenes.pose_of`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for frame in range(frames):
        Image.new("RGB", (8, 6), (40 * frame, 0, 0)).save(folder / f"{frame}.png")
        Image.fromarray(np.full((3, 4), 1500 + frame, np.uint16)).save(folder / f"{frame}_depth.png")
        matrix = (pose_of(10 * frame) @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist()
        entries.append({"file_path": f"{frame}", "depth_file_path": f"{frame}_depth", "transform_matrix": matrix})
    camera = {"fl_x": 10.0, "fl_y": 9.0, "cx": 4.5, "cy": 3.5, "w": 8, "h": 6}
    (folder / "transforms.json").write_text(json.dumps(camera | {"frames": entries} | changes))
    return folder


def write_small_tum(folder: Path, times=(1.0, 1.1, 1.2), depth_times=None, pose_times=None, size=(3, 4)) -> Path:
    """Frames of one size, depth 5000 + its number, and a camera.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    depth_times, pose_times = depth_times or times, pose_times or times
    for number, _ in enumerate(times):
        Image.new("RGB", size[::-1], (40 * number, 0, 0)).save(folder / f"rgb{number}.png")
    for number, _ in enumerate(depth_times):
        Image.fromarray(np.full(size, 5000 + number, np.uint16)).save(folder / f"depth{number}.png")
    lines = {
        "rgb.txt": [f"{time} rgb{i}.png" for i, time in enumerate(times)],
        "depth.txt": [f"{time} depth{i}.png" for i, time in enumerate(depth_times)],
        "groundtruth.txt": [f"{time} {i} 0 0 0 0 0 1" for i, time in enumerate(pose_times)],
        "camera.txt": ["4 4 1.5 1"],
    }
    for name, content in lines.items():
        (folder / name).write_text("# a comment\n" + "\n".join(content) + "\n")
    return folder
