"""Read the ground truth of toy panoramas and toy walks that `mvdiff.data.toyworld.write` saves."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.data.matterport3d import layout_root
from mvdiff.files.images import read_values


def read_truth(root: str | Path, sample_id: str) -> dict[int, dict[str, str]]:
    """Return the true labels (`captions.facts`) of a panorama's views, by yaw in degrees: 0, 45, ..., 315.

    Args:
        root: The toy world, or its `mp3d_skybox` folder.
        sample_id: Id of the panorama, see `Matterport3DPanoramas.sample_id`.

    Raises:
        FileNotFoundError: The panorama has no file of true labels.
    """
    room = sample_id.split("_")[-1]  # scene and panorama have one name
    path = layout_root(root) / room / "truth" / f"{room}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"a judged panorama must have true labels; {path} does not exist, for {sample_id!r}. "
            "Use a world of `mvdiff data toyworld`."
        )
    views = json.loads(path.read_text(encoding="utf-8"))["views"]
    return {int(degree): labels for degree, labels in views.items()}


class WalkTruth:
    """Ground truth of a toy walk: the things of its room, and the thing at each pixel of its frames.

    Args:
        scene: Folder of the scene in the ScanNet layout.

    Attributes:
        things: Kind and colour of each thing, e.g. `{"kind": "sofa", "colour": "red"}`.

    Raises:
        FileNotFoundError: The scene has no ground truth.
    """

    def __init__(self, scene: str | Path) -> None:
        self.folder = Path(scene) / "truth"
        path = self.folder / "things.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"a judged walk must have ground truth; {path} does not exist. Use a world of `mvdiff data toyworld`."
            )
        self.things: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))["things"]

    def labels(self, frame: int) -> Tensor:
        """Return the index into `things` at each pixel of a frame, long [H, W]; -1 for none."""
        return torch.from_numpy(read_values(self.folder / f"{frame}.png")).long() - 1
