"""Whole equirectangular panoramas as training images, one "view" per sample, to finetune a base on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mvdiff.data.datamodule import PanoramaDataModule
from mvdiff.data.keyed_datamodule import Split
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import PanoramaDataset, mirrored_caption
from mvdiff.geometry.cameras import Rig, rotation_from_yaw_pitch
from mvdiff.geometry.panorama import equirectangular_from_skybox, skybox_cameras

FACE = 0.85
"""Side of a cube face over the height of the panorama: 1.3 times as dense, below where faces would be halved."""


def panorama_prompt(prompts: Iterable[str]) -> str:
    """Join the prompts of a panorama's views, in order around it, to one: each phrase between commas once.

    Example:
        >>> panorama_prompt(["a sofa, mint walls", "a door, mint walls", "a sofa, mint walls"])
        'a sofa, mint walls, a door'
    """
    phrases = (phrase.strip() for prompt in prompts for phrase in prompt.split(","))
    return ", ".join(dict.fromkeys(phrase for phrase in phrases if phrase))


class WholePanoramaDataset(PanoramaDataset):
    """Panoramas as images of height x 2 height pixels; see `PanoramaDataset` for yaw, mirroring and keys.

    A panorama is resampled from the six faces of a cube that its reader cuts, so every layout can be read. Its prompt
    joins the captions by yaw, from its middle to the right (`panorama_prompt`).
    """

    def cut(self, index: int, yaw_deg: float, mirrored: bool = False) -> dict[str, Any]:
        """Resample a panorama with a yaw in its middle; return `images` [1, 3, H, 2H], cameras and `prompts`.

        The cameras are those of the stand-in rig: a panorama is no pinhole view.
        """
        turn = -1.0 if mirrored else 1.0
        side = round(FACE * self.rig.height)
        K, R = skybox_cameras(side)
        R = rotation_from_yaw_pitch(turn * yaw_deg, 0.0) @ R
        faces = self.source.views(index, K, R, side, side)
        image = equirectangular_from_skybox(faces, self.rig.height, self.rig.width)
        captions = self.source.captions(index)
        degrees = [degree for degree in captions if not isinstance(degree, str)]
        degrees.sort(key=lambda degree: (turn * degree - yaw_deg) % 360)
        prompt = panorama_prompt(captions[degree] for degree in degrees)
        if mirrored:
            image, prompt = image.flip(-1), mirrored_caption(prompt)
        K, R = self.rig.cameras()
        return {"images": image[None].clamp(-1, 1), "K": K, "R": R, "prompts": [prompt]}


class WholePanoramaDataModule(PanoramaDataModule):
    """Batches of whole panoramas for `SingleViewModule`: one view of height x 2 height pixels per sample.

    Args:
        root: Folder of the data set.
        height: Height of the panoramas in pixels; their width is twice as much.
        **settings: See `PanoramaDataModule`, without `rig` and `known`; the layout is that of Matterport3D, unless
            `source` names another reader.
    """

    source_class = Matterport3DPanoramas

    def __init__(self, root: str | Path, height: int = 512, **settings: Any) -> None:
        rig = Rig([(0.0, 0.0, 90.0)], height, 2 * height)  # its size counts, not its camera
        super().__init__(root, rig, **settings)

    def train_dataset(self) -> WholePanoramaDataset:
        """Return the training samples."""
        source, indices = self._part("train")
        return WholePanoramaDataset(source, self.rig, self.yaw, self.seed, self.mirror, indices)

    def eval_dataset(self, split: Split) -> WholePanoramaDataset:
        """Return the samples of a split at yaw 0, not mirrored; see `PanoramaDataModule.eval_dataset`."""
        source, indices = self._part(split)
        return WholePanoramaDataset(source, self.rig, (0,), self.seed, indices=indices)
