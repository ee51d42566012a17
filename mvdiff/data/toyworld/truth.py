"""Read the truth about views of toy panoramas and frames of toy walks that `write` saved.

Legend: H W image.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

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
            "Use a world of `mvdiff data toyworld`."
        )
    views = json.loads(path.read_text(encoding="utf-8"))["views"]
    return {int(degree): shown for degree, shown in views.items()}


class WalkTruth:
    """Things of a walk's room and the pixels of its frames that show them.

    Args:
        scene: The scene's folder in the ScanNet layout.

    Attributes:
        things: Kind and colour of each thing of the room, e.g. `{"kind": "sofa", "colour": "red"}`.

    Raises:
        FileNotFoundError: The scene has no truth.
    """

    def __init__(self, scene: str | Path) -> None:
        self.folder = Path(scene) / "truth"
        path = self.folder / "things.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"a judged walk must have its truth; got none at {path}. Use a world of `mvdiff data toyworld`."
            )
        self.things: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))["things"]

    def labels(self, frame: int) -> Tensor:
        """Return long [H, W]: the index into `things` at each pixel, -1 where there is no thing."""
        with Image.open(self.folder / f"{frame}.png") as image:
            return torch.from_numpy(np.array(image)).long() - 1
