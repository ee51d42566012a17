"""LightningDataModules for panoramas."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from mvdiff.batch import MultiViewBatch
from mvdiff.data.counts import check_counts
from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.data.keyed_datamodule import MultiViewDataModule, Split, naming_missing_root
from mvdiff.data.known import KnownMode
from mvdiff.data.layouts import Source
from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.panoramas import OnBroken, PanoramaDataset, PanoramaSource
from mvdiff.data.pictures import with_views
from mvdiff.data.shards.latents import Encoding, ShardLatents
from mvdiff.data.shards.opening import open_panoramas
from mvdiff.data.shards.panoramas import ShardViews
from mvdiff.data.shards.reading import holds_shards
from mvdiff.files.paths import folder_or_url
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.settings import ShardSettings, settings_from

PLAIN_READING = ShardSettings()


class PanoramaDataModule(MultiViewDataModule):
    """Batches of a rig's views, cut from panoramas of one layout (that of the subclass, or `source`).

    Training cuts panoramas at a random yaw. Validation, test and prediction cut each panorama once, at yaw 0, in order.

    Args:
        root: Folder of the data set, or folder or address (s3://bucket/data) of shards (`mvdiff data shard`), which
            give the samples of the data set that they were made of.
        rig: Rig (the set of cameras) that cuts views out of a panorama, as `class_path` and `init_args`, such as
            mvdiff.geometry.cameras.RingRig; None: the paper's ring of 8 views of 90 degrees, 512x512 pixels.
        yaw: Training yaws: "random" (any whole degree), or a list of degrees to draw from.
        mirror: Mirror each training sample with probability 1/2.
        known: Known part of training samples, for outpainting: "first" (the paper: all of view 0), "random" (the part
            covered by a picture of random field of view, shape and direction) or "mixed" (either, 1:1); None: no
            `known` mask. Validation and test always use "first".
        on_broken: "error" stops at incomplete panoramas; "skip" drops them with a warning.
        max_pixels: Maximum number of pixels (width x height) in an image file, which bounds memory; None: 178956970.
        source: Class that reads the data: class path of a `PanoramaSource`, or `class_path` and `init_args`, called
            with (root, split, on_broken), and with max_pixels where it is set; None: the reader of the data module's
            own layout.
        shards: Reading of shards.
        cut_on_device: Send the pictures of training samples, uint8, to the device, and cut their views there, by the
            same function: fewer bytes travel, and loader processes only decode.
        **settings: See `MultiViewDataModule`.

    Raises:
        ValueError: A setting is out of range. `setup` raises errors about data.
    """

    source_class: type | None = None
    """Class that reads the layout if `source` is None."""

    def __init__(
        self,
        root: str | Path,
        rig: Rig | None = None,
        *,
        yaw: Literal["random"] | list[float] = "random",
        mirror: bool = False,
        known: KnownMode | None = None,
        on_broken: OnBroken = "error",
        max_pixels: int | None = None,
        source: str | dict[str, Any] | None = None,
        shards: ShardSettings = PLAIN_READING,
        cut_on_device: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_counts(max_pixels=max_pixels)
        self.root = folder_or_url(root)
        self.shards = settings_from(ShardSettings, shards)
        self.rig = rig or RingRig()
        self.height, self.width = self.rig.height, self.rig.width
        self.yaw = yaw
        self.mirror = mirror
        self.known = known
        self.on_broken = on_broken
        self.max_pixels = max_pixels
        self.cut_on_device = cut_on_device
        self._reader = Source.of(source or self.source_class)
        if self._reader is None:
            raise ValueError("source must name a class that reads panoramas; got None.")
        self._sources: dict[str, PanoramaSource] = {}

    def source(self, split: str) -> PanoramaSource:
        """Return the reader of a split; open it on the first call."""
        if split not in self._sources:
            how = {"on_broken": self.on_broken}
            if self.max_pixels is not None:
                how["max_pixels"] = self.max_pixels
            with naming_missing_root(self.root):
                if holds_shards(self.root):
                    self._sources[split] = open_panoramas(self.root, split, self.max_pixels, self.shards)
                else:
                    self._sources[split] = self._reader(self.root, split, **how)
        return self._sources[split]

    def setup(self, stage: str) -> None:
        """Open the splits that a stage needs; see `MultiViewDataModule.setup`.

        Raises:
            ValueError: They are shards of latents, and the model or the stage needs pictures.
        """
        super().setup(stage)
        model = getattr(self.trainer, "lightning_module", None)
        takes_latents = stage in ("fit", "validate") and getattr(model, "takes_latents", False)
        are_latents = any(isinstance(source, ShardLatents) for source in self._sources.values())
        if are_latents and self.trainer is not None and not takes_latents:
            raise ValueError(
                f"data.root must hold pictures; got shards of latents, {self.root}. Only `mvdiff fit` of a "
                "MultiViewModule without given views takes them (docs/train.md)."
            )

    @property
    def encoding(self) -> Encoding | None:
        """Encoders and settings that made the latents and text embeddings, if the data are shards of them."""
        return getattr(self.source("train"), "encoding", None) if holds_shards(self.root) else None

    def train_dataset(self) -> PanoramaDataset:
        """Return the training samples.

        Raises:
            ValueError: They are shards of views or latents without a cut that `rig`, `yaw` and `mirror` ask for.
        """
        source, indices = self._part("train")
        dataset = _class_of(source)(
            *(source, self.rig, self.yaw, self.seed, self.mirror, indices, self.known, self.cut_on_device)
        )
        _check_cuts(dataset)
        return dataset

    def on_after_batch_transfer(self, batch: MultiViewBatch, dataloader_idx: int) -> MultiViewBatch:
        """Cut the views of a batch that brings pictures; Lightning calls this on the device."""
        return with_views(batch)

    def eval_dataset(self, split: Split) -> PanoramaDataset:
        """Return the samples of a split ("train" included) at yaw 0, not mirrored.

        Raises:
            ValueError: The split is unknown or empty, or consists of shards of views or latents of another rig.
        """
        source, indices = self._part(split)
        known = None if self.known is None else "first"
        dataset = _class_of(source)(source, self.rig, (0,), self.seed, indices=indices, known=known)
        _check_cuts(dataset)
        return dataset

    def _part(self, split: Split) -> tuple[PanoramaSource, range]:
        """Return the reader of a split and the indices of its panoramas."""
        in_test = self.in_test(split)
        source = self.source("test" if in_test else "train")
        size = len(source)
        if in_test:
            most = self.num_val if split == "val" else self.max_test_samples
            return source, range(min(size, most or size))
        first_val = size - self.num_held_out(size, "panoramas")
        if split == "val":
            return source, range(first_val, size)
        return source, range(min(first_val, self.max_samples or first_val))


def _class_of(source: PanoramaSource) -> type[PanoramaDataset]:
    """Return the class of a source's samples: shards of latents have one of their own."""
    return getattr(source, "dataset_class", PanoramaDataset)


def _check_cuts(dataset: PanoramaDataset) -> None:
    """Raise WrongSettings if samples are to be cut in a way that shards of views or latents do not hold."""
    if isinstance(dataset.source, ShardViews | ShardLatents):
        dataset.source.cuts.check(dataset.rig, dataset.yaw, dataset.mirror)


class Matterport3DDataModule(PanoramaDataModule):
    """Panoramas in the Matterport3D layout; takes the arguments of `PanoramaDataModule`."""

    source_class = Matterport3DPanoramas


class EquirectangularDataModule(PanoramaDataModule):
    """Panoramas in a folder of equirectangular images; takes the arguments of `PanoramaDataModule`."""

    source_class = EquirectangularPanoramas
