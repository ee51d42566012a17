"""LightningDataModules of panoramas: train, val, test and predict loaders whose training order resumes exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.keyed_datamodule import MultiViewDataModule, Split
from mvdiff.data.known import KnownMode
from mvdiff.data.layouts import Source
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import OnBroken, PanoramaDataset, PanoramaSource
from mvdiff.geometry.cameras import Rig, RingRig


class PanoramaDataModule(MultiViewDataModule):
    """Panoramas of one layout (a subclass or `source` names it) as batches of a rig's views.

    Training cuts at a random yaw; validation, test and prediction at yaw 0, in order, each sample once.

    Args:
        root: The data set's folder.
        rig: The views to cut; by default the paper's ring of 8, 90 degrees, 512x512.
        yaw: "random" (whole degrees), or the degrees to choose from in training.
        mirror: Mirror every second training sample on average.
        known: Known part of the training samples, for outpainting: "first" (the paper: all of view 0), "random" (the
            part of the views that a picture of random field of view, shape and place covers) or "mixed" (the two 1:1);
            outside training, view 0. None: samples have no known masks.
        on_broken: "error" stops at incomplete panoramas, "skip" leaves them out, counted and logged.
        source: Reader of the layout: the import path of a `PanoramaSource`, or `class_path` and `init_args`; called
            with (root, split, on_broken). By default the subclass's.
        **settings: Settings of every data module, see `MultiViewDataModule`.

    Raises:
        ValueError: A setting is out of range. Data errors come from `setup`.
    """

    source_class: type | None = None
    """Reads the layout where `source` is not set."""

    def __init__(
        self,
        root: str | Path,
        rig: Rig | None = None,
        *,
        yaw: Literal["random"] | list[float] = "random",
        mirror: bool = False,
        known: KnownMode | None = None,
        on_broken: OnBroken = "error",
        source: str | dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.root = root
        self.rig = rig or RingRig()
        self.height, self.width = self.rig.height, self.rig.width
        self.yaw = yaw
        self.mirror = mirror
        self.known = known
        self.on_broken = on_broken
        self._reader = Source.of(source or self.source_class)
        if self._reader is None:
            raise ValueError("source must name the class that reads the panoramas; got None.")
        self._sources: dict[str, PanoramaSource] = {}

    def source(self, split: str) -> PanoramaSource:
        """Return the reader of a split, made at the first call."""
        if split not in self._sources:
            self._sources[split] = self._reader(self.root, split, on_broken=self.on_broken)
        return self._sources[split]

    def train_dataset(self) -> PanoramaDataset:
        """Return the training samples."""
        source, indices = self._part("train")
        return PanoramaDataset(source, self.rig, self.yaw, self.seed, self.mirror, indices, self.known)

    def eval_dataset(self, split: Split) -> PanoramaDataset:
        """Return the samples of a split at yaw 0, not mirrored; "train" gives the panoramas of training.

        Raises:
            ValueError: There is no such split, or it is empty.
        """
        source, indices = self._part(split)
        known = None if self.known is None else "first"
        return PanoramaDataset(source, self.rig, (0,), self.seed, indices=indices, known=known)

    def _part(self, split: Split) -> tuple[PanoramaSource, range]:
        """Return the reader of a split and the indices of its panoramas."""
        in_test = self.in_test(split)
        source = self.source("test" if in_test else "train")
        size = len(source)
        if in_test:
            most = self.num_val if split == "val" else self.max_test_samples
            return source, range(min(size, most or size))
        first_val = size - self.num_val if self.val_from == "train" else size
        if split == "val":
            return source, range(max(0, first_val), size)
        if first_val <= 0:
            raise ValueError(
                f"num_val must be below the number of training panoramas ({size}); got {self.num_val}. "
                'Lower it, or set val_from to "test".'
            )
        return source, range(min(first_val, self.max_samples or first_val))


class Matterport3DDataModule(PanoramaDataModule):
    """Panoramas in the Matterport3D layout; arguments as for `PanoramaDataModule`."""

    source_class = Matterport3DPanoramas


class EquirectangularDataModule(PanoramaDataModule):
    """Panoramas in a folder of equirectangular images; arguments as for `PanoramaDataModule`."""

    source_class = EquirectangularPanoramas
