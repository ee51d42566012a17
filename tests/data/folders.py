"""Small data sets on disk, in the layouts that users have."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

FACE_COLOURS = [(250, 250, 250), (250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (10, 10, 10)]


def face_path(scene: str, pano: str, face: int) -> str:
    return f"{scene}/matterport_skybox_images/{pano}_skybox{face}_sami.jpg"


def write_skybox(root: Path, scene: str, pano: str, size: int = 16, colours=FACE_COLOURS, poles=()) -> list[str]:
    """Write one panorama of plain faces, its captions saying where they look; return its row."""
    row = [face_path(scene, pano, face) for face in range(6)]
    for name, colour in zip(row, colours, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), colour).save(root / name, quality=95)
    for key in (*range(0, 360, 45), *poles):
        path = root / scene / "blip3" / f"{pano}_{key}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{pano} towards {key}\nanother line\n")
    return row


def write_matterport3d(root: Path, num_train: int = 5, num_test: int = 2, size: int = 16) -> Path:
    """Write scenes of one panorama each, faces of other colours in each, and both lists."""
    rows = []
    for number in range(num_train + num_test):
        colours = [tuple((value + 37 * number) % 256 for value in colour) for colour in FACE_COLOURS]
        rows.append(write_skybox(root, f"scene{number}", f"pano{number}", size, colours))
    np.save(root / "train.npy", np.array(rows[:num_train]))
    np.save(root / "test.npy", np.array(rows[num_train:]))
    return root


def write_equirectangular(root: Path, num_train: int = 5, num_test: int = 2, height: int = 16) -> Path:
    """Write panoramas that differ everywhere, with prompts, and both lists."""
    root.mkdir(parents=True, exist_ok=True)
    names = [f"place{number}" for number in range(num_train + num_test)]
    y, x = np.mgrid[:height, : 2 * height]
    for number, name in enumerate(names):
        pixels = np.stack([255 * x // (2 * height), 255 * y // height, 0 * x + 20 * number], axis=-1)
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{name}.png")
        prompts = {"prompt": f"the {name}"} if number % 2 else {"prompts": {"0": f"{name} door", "180": "wall"}}
        (root / f"{name}.json").write_text(json.dumps(prompts))
    (root / "train.txt").write_text("\n".join(names[:num_train]) + "\n")
    (root / "test.txt").write_text("\n".join(names[num_train:]) + "\n")
    return root


def truncate(path: Path) -> None:
    """Cut off a part of an image's pixels, as a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[:-10] if path.suffix == ".jpg" else content[: len(content) // 2])
