"""Multi-view samples cut from panoramas: direction of the rig, images and captions of the views."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mvdiff.batch import blank_images
from mvdiff.data.known import KNOWN_MODES, KnownMode, sample_known
from mvdiff.geometry.cameras import Rig, rotation_from_yaw_pitch
from mvdiff.keyed import keyed_generator

Captions = dict[int | str, str]
"""Captions of one panorama by yaw in degrees, optionally with "up" and "down"."""
OnBroken = Literal["error", "skip"]
Entry = TypeVar("Entry")

_log = logging.getLogger(__name__)


class PanoramaSource(Protocol):
    """Interface of a layout's reader: the panoramas of a split, by index.

    Data modules call the class with (root, split, on_broken), see `PanoramaDataModule`. A reader may also have
    `panorama(index)`, the whole panorama as uint8 [3, H, 2 H], for metrics of panoramas as a whole, and
    `picture_files(index)`, the paths of its one equirectangular image or of its six faces in skybox order, from which
    `views` cuts as the package's own readers do, for shards of its files (`mvdiff data shard`); and `picture(index)`,
    these decoded, from which `mvdiff.data.pictures.views_of_picture` cuts the same views, for `cut_on_device`.
    """

    def __len__(self) -> int:
        """Return the number of panoramas."""

    def sample_id(self, index: int) -> str:
        """Return the name of a panorama, unique within the split."""

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Cut views [V, 3, H, W] in [-1, 1] with [V, 3, 3] intrinsics and world-from-camera rotations."""

    def captions(self, index: int) -> Captions:
        """Return captions by yaw in degrees, optionally with "up" and "down"."""


def whole_entries(
    entries: Sequence[Entry], problems: Mapping[int, str], listed_in: Path, on_broken: OnBroken
) -> list[Entry]:
    """Return the complete entries of a split list.

    Args:
        entries: All entries of the list.
        problems: Reasons why entries are broken, by position in the list.
        listed_in: File of the list, named in messages.
        on_broken: "error" stops at broken entries; "skip" drops them and logs their number.

    Raises:
        FileNotFoundError: An entry is broken and `on_broken` is "error".
        ValueError: No entry is complete, or `on_broken` is unknown.
    """
    if on_broken not in ("error", "skip"):
        raise ValueError(f'on_broken must be "error" or "skip"; got {on_broken!r}.')
    if problems:
        row, problem = next(iter(problems.items()))
        what = f"{len(problems)} of {len(entries)} panoramas in {listed_in} are incomplete, the first at row {row}"
        if on_broken == "error":
            raise FileNotFoundError(
                f"{what}: {problem}. Run `mvdiff data check {listed_in.parent}` to see all of them, "
                'or set on_broken to "skip" to leave them out.'
            )
        _log.warning("%s: %s. They are skipped.", what, problem)
    whole = [entry for row, entry in enumerate(entries) if row not in problems]
    if not whole:
        raise ValueError(f"{listed_in} must list at least one complete panorama; got none of {len(entries)}.")
    return whole


def nearest_caption(captions: Captions, yaw_deg: float, pitch_deg: float = 0.0) -> str:
    """Return the caption of a view: that of the nearest yaw, or "up" or "down" beyond 45 degrees of pitch, if present.

    Ties go to the larger yaw, as in the 2023 release, which rounds yaw + 22.5 down to a multiple of 45.

    Raises:
        ValueError: No caption has a yaw.

    Example:
        >>> nearest_caption({0: "door", 90: "window", "up": "lamp"}, yaw_deg=-30)
        'door'
        >>> nearest_caption({0: "door", 90: "window", "up": "lamp"}, yaw_deg=80, pitch_deg=60)
        'lamp'
    """
    pole = "up" if pitch_deg > 45 else "down" if pitch_deg < -45 else None
    if pole in captions:
        return captions[pole]
    degrees = [key for key in captions if not isinstance(key, str)]
    if not degrees:
        raise ValueError(f"captions must have at least one yaw in degrees; got {sorted(map(str, captions))}.")

    def distance(degree: int) -> tuple[float, bool]:
        turn = (degree - yaw_deg + 180) % 360 - 180
        return abs(turn), turn < 0

    return captions[min(degrees, key=distance)]


def mirrored_caption(caption: str) -> str:
    """Swap the words "left" and "right" in a caption for a mirrored picture; their case is preserved.

    Example:
        >>> mirrored_caption("Left: a sofa, a lamp to its right; left over")
        'Right: a sofa, a lamp to its left; right over'
    """
    return re.sub(r"\b(left|right)\b", _other_side, caption, flags=re.IGNORECASE)


def _other_side(word: re.Match[str]) -> str:
    side = {"left": "right", "right": "left"}[word[0].lower()]
    return side.upper() if word[0].isupper() else side.capitalize() if word[0][0].isupper() else side


class PanoramaDataset(Dataset):
    """Samples of a rig's views cut from panoramas, indexed by `(epoch, index)`; a plain index means epoch 0.

    All randomness of a sample is keyed by (seed, epoch, index) and so independent of rank, worker, batch and resuming.

    Args:
        source: Panoramas.
        rig: Views to cut.
        yaw: See `PanoramaDataModule`; a random yaw is a whole number in [0, 359].
        seed: Random seed.
        mirror: See `PanoramaDataModule`; captions are mirrored too.
        indices: Indices in the source of the panoramas to use; None: all.
        known: See `PanoramaDataModule`.
        cut_on_device: See `PanoramaDataModule`.

    Raises:
        ValueError: There are no panoramas, `yaw` or `known` is invalid, or `source` has no pictures to cut later.
    """

    def __init__(
        self,
        source: PanoramaSource,
        rig: Rig,
        yaw: Literal["random"] | Sequence[float] = (0,),
        seed: int = 0,
        mirror: bool = False,
        indices: Sequence[int] | None = None,
        known: KnownMode | None = None,
        cut_on_device: bool = False,
    ) -> None:
        self.indices = range(len(source)) if indices is None else indices
        if not len(self.indices):
            raise ValueError("source must have at least one panorama; got none. Run `mvdiff data check` on the folder.")
        if yaw != "random" and (isinstance(yaw, str) or not len(yaw)):
            raise ValueError(f'yaw must be "random" or a list of degrees; got {yaw!r}.')
        if known is not None and known not in KNOWN_MODES:
            raise ValueError(f"known must be one of {', '.join(KNOWN_MODES)}, or null; got {known!r}.")
        if cut_on_device and not hasattr(source, "picture"):
            raise ValueError(f"cut_on_device must be false, since {type(source).__name__} has no `picture`; got true.")
        self.source = source
        self.cut_on_device = cut_on_device
        self.rig = rig
        self.yaw = yaw
        self.seed = seed
        self.mirror = mirror
        self.known = known

    def __len__(self) -> int:
        return len(self.indices)

    def sample_ids(self) -> list[str]:
        """Return the ids of all samples, without reading any."""
        return [self.source.sample_id(index) for index in self.indices]

    def panorama(self, index: int) -> Tensor | None:
        """Return the whole panorama at a position in `indices`, uint8 [3, H, 2 H], as the source's `panorama` reads it.

        None if the source has no such method. Yaw, mirroring and known pixels do not apply.
        """
        read = getattr(self.source, "panorama", None)
        return None if read is None else read(self.indices[index])

    def yaw_deg(self, epoch: int, index: int) -> float:
        """Return the yaw of a sample in degrees, by its index in the source."""
        generator = keyed_generator("yaw", self.seed, epoch, index)
        if self.yaw == "random":
            return float(torch.randint(360, (), generator=generator))
        return float(self.yaw[int(torch.randint(len(self.yaw), (), generator=generator))])

    def mirrored(self, epoch: int, index: int) -> bool:
        """Return True if a sample is mirrored, by its index in the source."""
        return self.mirror and bool(torch.randint(2, (), generator=keyed_generator("mirror", self.seed, epoch, index)))

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample for `MultiViewBatch.collate`.

        Args:
            key: (epoch, position in `indices`), or a position in epoch 0.

        Returns:
            `images` [V, 3, H, W] in [-1, 1], `K` and `R` [V, 3, 3] of the rig at yaw 0, `prompts`, `sample_id`,
            `sample_index`, `epoch`, `yaw_deg`, `mirrored`, and `known` [V, 1, H, W] unless `self.known` is None.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = self.indices[index]  # keyed by index in the source, so that a subset gives the same samples
        yaw, mirrored = self.yaw_deg(epoch, index), self.mirrored(epoch, index)
        known = {} if self.known is None else {"known": sample_known(self.known, self.rig, self.seed, epoch, index)}
        return {
            **self.cut(index, yaw, mirrored),
            **known,
            "sample_id": self.source.sample_id(index),
            "sample_index": index,
            "epoch": epoch,
            "yaw_deg": yaw,
            "mirrored": mirrored,
        }

    def cut(self, index: int, yaw_deg: float, mirrored: bool = False) -> dict[str, Any]:
        """Cut the rig's views at a yaw; return `images`, `K`, `R` and `prompts`, or what they are to be cut from."""
        rig = self.rig
        K, R = rig.cameras()
        turned = cut_rotations(rig, yaw_deg, mirrored)
        if self.cut_on_device:
            blank = blank_images(rig.num_views, 3, rig.height, rig.width)
            views = {"images": blank, "pictures": self.source.picture(index), "picture_R": turned}
        else:
            images = self.source.views(index, K, turned, rig.height, rig.width)
            views = {"images": images.flip(-1) if mirrored else images}
        prompts = view_prompts(self.source.captions(index), rig, yaw_deg, mirrored)
        return views | {"K": K, "R": R, "prompts": prompts}


def cut_yaws(rig: Rig, yaw_deg: float, mirrored: bool) -> list[float]:
    """Return the yaws in degrees at which the views of a sample are cut.

    A view at yaw a of the mirrored world is the flipped view at yaw -a of the original.
    """
    turn = -1.0 if mirrored else 1.0
    return [turn * (view_yaw + yaw_deg) for view_yaw in rig.yaw_deg]


def cut_rotations(rig: Rig, yaw_deg: float, mirrored: bool) -> Tensor:
    """Return the rotations [V, 3, 3], world-from-camera, float32, with which the views of a sample are cut."""
    yaws = torch.tensor(cut_yaws(rig, yaw_deg, mirrored), dtype=torch.float64)
    return rotation_from_yaw_pitch(yaws, torch.tensor(rig.pitch_deg, dtype=torch.float64)).float()


def view_prompts(captions: Captions, rig: Rig, yaw_deg: float, mirrored: bool) -> list[str]:
    """Return the prompts of the views of a sample."""
    directions = zip(cut_yaws(rig, yaw_deg, mirrored), rig.pitch_deg, strict=True)
    prompts = [nearest_caption(captions, *direction) for direction in directions]
    return list(map(mirrored_caption, prompts)) if mirrored else prompts
