"""Panoramas -> multi-view samples: direction of the rig, contents of the views, caption of each view."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mvdiff.data.known import KNOWN_MODES, KnownMode, sample_known
from mvdiff.geometry.cameras import Rig, rotation_from_yaw_pitch
from mvdiff.keyed import keyed_generator

Captions = dict[int | str, str]
"""Captions of one panorama by yaw in degrees, and perhaps "up" and "down"."""
OnBroken = Literal["error", "skip"]
Entry = TypeVar("Entry")

_log = logging.getLogger(__name__)


class PanoramaSource(Protocol):
    """A reader of one layout: panoramas by index, whatever files they are made of.

    Data modules call its class with (root, split, on_broken), see `PanoramaDataModule`.
    """

    def __len__(self) -> int:
        """Number of panoramas."""

    def sample_id(self, index: int) -> str:
        """Name of a panorama, unique and fit to be a folder name."""

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Cut views: [V, 3, 3] intrinsics and world-from-camera rotations -> [V, 3, H, W] in [-1, 1]."""

    def captions(self, index: int) -> Captions:
        """Captions by yaw in degrees, and perhaps "up" and "down"."""


def whole_entries(
    entries: Sequence[Entry], problems: Mapping[int, str], listed_in: Path, on_broken: OnBroken
) -> list[Entry]:
    """Return the panoramas of a split list that are whole.

    Args:
        entries: All panoramas of the list.
        problems: Why the broken ones are broken, by position in the list.
        listed_in: The list, for messages.
        on_broken: "error" stops at broken ones; "skip" leaves them out and logs how many.

    Raises:
        FileNotFoundError: A panorama is broken, with `on_broken="error"`.
        ValueError: None is whole, or `on_broken` is unknown.
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
        _log.warning("%s: %s. They are left out.", what, problem)
    whole = [entry for row, entry in enumerate(entries) if row not in problems]
    if not whole:
        raise ValueError(f"{listed_in} must list at least one complete panorama; got none of {len(entries)}.")
    return whole


def nearest_caption(captions: Captions, yaw_deg: float, pitch_deg: float = 0.0) -> str:
    """Choose a view's caption: the nearest yaw on the circle; above 45 degrees of pitch "up" or "down" if there.

    Ties go to the larger yaw, as in the released MVDiffusion code, which rounds yaw + 22.5 down to a multiple of 45.

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
    """Swap the words left and right of a caption, for the mirrored picture; their case is kept.

    Example:
        >>> mirrored_caption("Left: a sofa, a lamp to its right; left over")
        'Right: a sofa, a lamp to its left; right over'
    """
    return re.sub(r"\b(left|right)\b", _other_side, caption, flags=re.IGNORECASE)


def _other_side(word: re.Match[str]) -> str:
    side = {"left": "right", "right": "left"}[word[0].lower()]
    return side.upper() if word[0].isupper() else side.capitalize() if word[0][0].isupper() else side


class PanoramaDataset(Dataset):
    """Samples of a rig's views cut from panoramas, keyed by `(epoch, index)` (an int means epoch 0).

    Everything random about a sample is a function of (seed, epoch, index), so it does not depend on the rank, the
    worker, the batch or a resume.

    Args:
        source: The panoramas.
        rig: The views to cut.
        yaw: See `PanoramaDataModule`; a random yaw is in 0..359.
        seed: Seed of everything random.
        mirror: See `PanoramaDataModule`; captions are mirrored, too.
        indices: The panoramas to use, by their index in the source; by default all.
        known: See `PanoramaDataModule`.

    Raises:
        ValueError: The source is empty, or `yaw` or `known` is not understood.
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
    ) -> None:
        self.indices = range(len(source)) if indices is None else indices
        if not len(self.indices):
            raise ValueError("source must have at least one panorama; got none. Run `mvdiff data check` on the folder.")
        if yaw != "random" and (isinstance(yaw, str) or not len(yaw)):
            raise ValueError(f'yaw must be "random" or a list of degrees; got {yaw!r}.')
        if known is not None and known not in KNOWN_MODES:
            raise ValueError(f"known must be one of {', '.join(KNOWN_MODES)}, or null; got {known!r}. Choose one.")
        self.source = source
        self.rig = rig
        self.yaw = yaw
        self.seed = seed
        self.mirror = mirror
        self.known = known

    def __len__(self) -> int:
        return len(self.indices)

    def yaw_deg(self, epoch: int, index: int) -> float:
        """Yaw of a sample in degrees, by its index in the source."""
        generator = keyed_generator("yaw", self.seed, epoch, index)
        if self.yaw == "random":
            return float(torch.randint(360, (), generator=generator))
        return float(self.yaw[int(torch.randint(len(self.yaw), (), generator=generator))])

    def mirrored(self, epoch: int, index: int) -> bool:
        """True if a sample is mirrored."""
        return self.mirror and bool(torch.randint(2, (), generator=keyed_generator("mirror", self.seed, epoch, index)))

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample for `MultiViewBatch.collate`.

        Args:
            key: (epoch, index among `indices`), or such an index in epoch 0.

        Returns:
            `images` [V, 3, H, W] in [-1, 1], `K`, `R` [V, 3, 3] of the rig at yaw 0, `prompts`, `sample_id`,
            `sample_index`, `epoch`, `yaw_deg`, `mirrored`, and `known` [V, 1, H, W] if it is set.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = self.indices[index]  # in the source, so that using fewer panoramas changes none of them
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
        """Cut the rig's views at a yaw: `images`, `K`, `R` and `prompts` of a sample."""
        rig = self.rig
        K, R = rig.cameras()
        # In the mirrored world a view at yaw a sees what a view at -a sees in the original, flipped.
        turn = -1.0 if mirrored else 1.0
        yaws = [turn * (view_yaw + yaw_deg) for view_yaw in rig.yaw_deg]
        R_cut = rotation_from_yaw_pitch(
            torch.tensor(yaws, dtype=torch.float64), torch.tensor(rig.pitch_deg, dtype=torch.float64)
        ).to(R.dtype)
        images = self.source.views(index, K, R_cut, rig.height, rig.width)
        captions = self.source.captions(index)
        prompts = [nearest_caption(captions, *direction) for direction in zip(yaws, rig.pitch_deg, strict=True)]
        if mirrored:
            images, prompts = images.flip(-1), list(map(mirrored_caption, prompts))
        return {"images": images, "K": K, "R": R, "prompts": prompts}
