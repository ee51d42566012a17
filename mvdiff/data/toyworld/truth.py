"""Read the ground truth of toy panoramas and toy walks that `mvdiff.data.toyworld.write` saves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from mvdiff.data.matterport3d import layout_root
from mvdiff.files.images import read_values
from mvdiff.files.text import read_json_object
from mvdiff.geometry.cameras import Rig


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
    views = read_json_object(path).get("views")
    if not isinstance(views, dict) or not all(degree.isdecimal() and len(degree) <= 3 for degree in views):
        raise ValueError(f"{path} must have the labels of views by yaw in degrees; got {str(views)[:80]}.")
    return {int(degree): labels for degree, labels in views.items()}


def view_truth(root: str | Path, sample_ids: Iterable[str], rig: Rig) -> dict[str, list[dict[str, str]]]:
    """Return the true labels of every view of panoramas, as `caption_agreement` takes them.

    Args:
        root: See `read_truth`.
        sample_ids: Ids of the panoramas.
        rig: Views; their yaws are multiples of 45 degrees.

    Raises:
        FileNotFoundError: See `read_truth`.
    """
    views = {sample_id: read_truth(root, sample_id) for sample_id in sample_ids}
    return {sample_id: [labels[int(yaw)] for yaw in rig.yaw_deg] for sample_id, labels in views.items()}


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
        self.things: list[dict[str, str]] = read_json_object(path).get("things")
        if not isinstance(self.things, list) or not all(isinstance(thing, dict) for thing in self.things):
            raise ValueError(f"{path} must have a list of things; got {str(self.things)[:80]}.")

    def labels(self, frame: int) -> Tensor:
        """Return the index into `things` at each pixel of a frame, long [H, W]; -1 for none."""
        return torch.from_numpy(read_values(self.folder / f"{frame}.png")).long() - 1
