"""Whole equirectangular panoramas as training images, one "view" per sample, to finetune a base on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from mvdiff.data.datamodule import PanoramaDataModule
from mvdiff.data.keyed_datamodule import Split
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import PanoramaDataset, mirrored_caption, nearest_caption
from mvdiff.geometry.cameras import Rig, rotation_from_yaw_pitch
from mvdiff.geometry.panorama import equirectangular_from_skybox, skybox_cameras

NUM_VIEWS = 4
"""Number of views of 90 degrees that show everything around once."""
FACE = 0.85
"""Side of a cube face over the height of the panorama: 1.3 times as dense, below where faces would be halved."""


def panorama_prompt(prompts: Sequence[str]) -> str:
    """Join the prompts of a panorama's views to one prompt, for training and for the method `sd-pano` alike.

    Four views of 90 degrees show everything around once, so of eight views every second one counts (of twelve every
    third, ...). A phrase is what stands between commas, and is said once. Phrases of all these views come first: they
    describe the room. Then come the views in turn, the first phrase of each, the second of each, ...; a text encoder
    that cuts the prompt thus loses what each view says last. (Own derivation: the paper does not say how it prompts a
    panorama.)

    Args:
        prompts: Prompts of V views, in order around the panorama, the one in its middle first.

    Example:
        >>> panorama_prompt(["a sofa, a window, mint walls", "a lamp, mint walls", "a door, a rug, mint walls"])
        'mint walls, a sofa, a lamp, a door, a window, a rug'
    """
    counted = prompts[:: max(1, len(prompts) // NUM_VIEWS)]
    views = [[phrase.strip() for phrase in prompt.split(",") if phrase.strip()] for prompt in counted]
    shared = [phrase for phrase in views[0] if all(phrase in view for view in views)] if views else []
    in_turn = chain.from_iterable(zip_longest(*([one for one in view if one not in shared] for view in views)))
    return ", ".join(dict.fromkeys(phrase for phrase in (*shared, *in_turn) if phrase))


class WholePanoramaDataset(PanoramaDataset):
    """Panoramas as images of height x 2 height pixels; see `PanoramaDataset` for yaw, mirroring and keys.

    A panorama is resampled from the six faces of a cube that its reader cuts, so every layout can be read. Its prompt
    joins the captions of four directions, from its middle to the right (`panorama_prompt`).
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
        yaws = [turn * (yaw_deg + 360 / NUM_VIEWS * view) for view in range(NUM_VIEWS)]
        prompt = panorama_prompt([nearest_caption(captions, yaw) for yaw in yaws])
        if mirrored:
            image, prompt = image.flip(-1), mirrored_caption(prompt)
        K, R = self.rig.cameras()
        return {"images": image[None].clamp(-1, 1), "K": K, "R": R, "prompts": [prompt]}


class WholePanoramaDataModule(PanoramaDataModule):
    """Batches of whole panoramas for `SingleViewModule`: one view of height x 2 height pixels per sample.

    Args:
        root: Folder of the data set.
        height: Height of the panoramas in pixels; their width is twice as much.
        **settings: See `PanoramaDataModule`, without `rig`, `known` and `cut_on_device`; the layout is that of
            Matterport3D, unless `source` names another reader.
    """

    source_class = Matterport3DPanoramas

    def __init__(self, root: str | Path, height: int = 512, **settings: Any) -> None:
        rig = Rig([(0.0, 0.0, 90.0)], height, 2 * height)  # its size counts, not its camera
        super().__init__(root, rig, **settings)
        if self.cut_on_device:
            raise ValueError("cut_on_device must be false for whole panoramas; got true.")

    def train_dataset(self) -> WholePanoramaDataset:
        """Return the training samples."""
        source, indices = self._part("train")
        return WholePanoramaDataset(source, self.rig, self.yaw, self.seed, self.mirror, indices)

    def eval_dataset(self, split: Split) -> WholePanoramaDataset:
        """Return the samples of a split at yaw 0, not mirrored; see `PanoramaDataModule.eval_dataset`."""
        source, indices = self._part(split)
        return WholePanoramaDataset(source, self.rig, (0,), self.seed, indices=indices)
