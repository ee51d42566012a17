"""The cuts of a panorama that shards of views or latents hold: a rig at a finite set of yaws, mirrored or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mvdiff.data.damage import WrongSettings
from mvdiff.data.panoramas import cut_rotations
from mvdiff.geometry.cameras import Rig


@dataclass(frozen=True)
class Cuts:
    """Cuts of every panorama of a set of shards.

    Attributes:
        rig: The views.
        yaws: Yaws in degrees; 0, at which evaluation cuts, is always among them.
        mirror: Each yaw has a mirrored cut, too.
    """

    rig: Rig
    yaws: tuple[float, ...]
    mirror: bool = False

    @classmethod
    def of_training(cls, rig: Rig, yaw: Any, mirror: bool) -> Cuts:
        """Return the cuts that a data module makes; see `PanoramaDataModule`.

        Raises:
            ValueError: `yaw` is not a list.
        """
        if isinstance(yaw, str):
            raise ValueError(f"data.yaw must be a list of degrees for shards of views or latents; got {yaw!r}.")
        return cls(rig, tuple(sorted({0.0, *map(float, yaw)})), mirror)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cuts:
        """Return the cuts of a manifest's settings.

        Raises:
            ValueError: They have another form.
        """
        try:
            return cls(Rig.from_dict(values["rig"]), tuple(map(float, values["yaws"])), bool(values["mirror"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"settings of shards must have rig, yaws and mirror; got {sorted(values)}.") from error

    def to_dict(self) -> dict[str, Any]:
        """Return the cuts as plain values, for a manifest."""
        return {"rig": self.rig.to_dict(), "yaws": list(self.yaws), "mirror": self.mirror}

    def __iter__(self) -> Iterator[tuple[str, float, bool]]:
        """Yield the name of each cut's member, its yaw, and if it is mirrored."""
        for yaw in self.yaws:
            for mirrored in (False, True) if self.mirror else (False,):
                yield self.name(yaw, mirrored), yaw, mirrored

    def check(self, rig: Rig, yaw: str | Sequence[float], mirror: bool) -> None:
        """Check that there is every cut that a data module asks for; see `PanoramaDataModule`.

        Raises:
            WrongSettings: There is none of a yaw, or of the rig.
        """
        if rig != self.rig:
            raise WrongSettings(self.other(str(rig)))
        if isinstance(yaw, str):
            raise WrongSettings(self.other(f"yaw {yaw}"))
        for yaw_deg in yaw:
            self.name(yaw_deg, mirror)

    def name(self, yaw_deg: float, mirrored: bool) -> str:
        """Return the name of a cut's member, without ending.

        Raises:
            WrongSettings: There is no such cut.
        """
        if yaw_deg not in self.yaws or (mirrored and not self.mirror):
            raise WrongSettings(self.other(f"yaw {yaw_deg:g}{', mirrored' * mirrored}"))
        return f"yaw{yaw_deg:g}{'-mirrored' * mirrored}"

    def name_of(self, K: Tensor, R: Tensor, height: int, width: int) -> str:
        """Return the name of the cut with these cameras.

        Raises:
            WrongSettings: There is none.
        """
        own_K, _ = self.rig.cameras()
        if (height, width) == (self.rig.height, self.rig.width) and torch.equal(K, own_K):
            for name, rotations in self._rotations:
                if torch.equal(R, rotations):
                    return name
        raise WrongSettings(self.other(f"{len(K)} views of {width}x{height} in other directions"))

    @cached_property
    def _rotations(self) -> list[tuple[str, Tensor]]:
        return [(name, cut_rotations(self.rig, yaw, mirrored)) for name, yaw, mirrored in self]

    def other(self, asked: str) -> str:
        """Say which cuts there are, where another was asked for."""
        mirror = "with" if self.mirror else "without"
        return (
            f"data.rig, data.yaw and data.mirror must be those of the shards: {self.rig}, yaws "
            f"{', '.join(f'{yaw:g}' for yaw in self.yaws)}, {mirror} mirroring; got {asked}."
        )
