"""Read what the views of a toy panorama or the frames of a toy walk show, as `write` noted it for judges."""

from __future__ import annotations

import json
from pathlib import Path

from mvdiff.data.matterport3d import layout_root


def read_truth(root: str | Path, sample_id: str) -> dict[int, dict[str, str]]:
    """Return the facts (see `captions.facts`) of a panorama's views, by yaw in degrees: 0, 45, ..., 315.

    Args:
        root: The toy world, or its `mp3d_skybox` folder.
        sample_id: The panorama's, as `Matterport3DPanoramas.sample_id` gives it.

    Raises:
        FileNotFoundError: The panorama has no truth file.
    """
    room = sample_id.split("_")[-1]  # scene and panorama have one name
    path = layout_root(root) / room / "truth" / f"{room}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"a judged panorama must have its facts; got none for {sample_id!r}, at {path}. "
            "Judge a world that `mvdiff data toyworld` wrote."
        )
    views = json.loads(path.read_text(encoding="utf-8"))["views"]
    return {int(degree): shown for degree, shown in views.items()}


def read_walk_truth(scene: str | Path) -> dict[int, dict[str, str]]:
    """Return the facts (see `captions.facts`) of a walk's frames, by frame number.

    Args:
        scene: The scene's folder in the ScanNet layout.

    Raises:
        FileNotFoundError: The scene has no truth file.
    """
    path = Path(scene) / "truth.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"a judged walk must have its facts; got none at {path}. Judge a world that `mvdiff data toyworld` wrote."
        )
    frames = json.loads(path.read_text(encoding="utf-8"))["frames"]
    return {int(frame): shown for frame, shown in frames.items()}
