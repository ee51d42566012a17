"""Sources of samples to score: sample folders, ground truth beside generated views, or a data module.

Axes: V views, H x W image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import Any, Self

import torch
from torch.utils.data import Dataset

from mvdiff.batch import MultiViewBatch
from mvdiff.data.importing.suggest import guess_kind, import_command
from mvdiff.data.loader import BatchLoader, Reported
from mvdiff.eval.sample import ScoredSample, Truth
from mvdiff.files.paths import same_name
from mvdiff.files.sharing import shared_name
from mvdiff.files.text import read_json_object
from mvdiff.geometry.cameras import Rig, resize_intrinsics
from mvdiff.samples import is_complete, read_sample, scan_samples, to_uint8


@dataclass(frozen=True)
class SeenSample:
    """What results keep of a sample beside its numbers.

    Attributes:
        pixel_hashes: Hash of the pixels of every view.
        geometry_hash: Hash of cameras, depths and the covered part.
        panorama_hash: Hash of the panorama; None if no metric read it.
        size: Height and width of the views in pixels.
        is_whole: True for each view that is covered wholly.
        prompts: V prompts.
        seed: Seed of the noise, or None.
        deviations: What it has instead of the values of a protocol, see `mvdiff.eval.deviations`.
    """

    pixel_hashes: Sequence[str]
    geometry_hash: str
    panorama_hash: str | None
    size: tuple[int, int]
    is_whole: Sequence[bool]
    prompts: Sequence[str]
    seed: int | None
    deviations: Mapping[str, str]


@dataclass
class Tally:
    """Record of one pass over a source.

    Attributes:
        num_read: Number of samples read.
        skipped: Folder and reason of the samples that could not be read, by position.
        partial: Folder and views of the samples that show a part of a panorama only, by position.
        seen: The samples that were measured, by id.
    """

    num_read: int = 0
    skipped: dict[int, dict[str, str]] = field(default_factory=dict)
    partial: dict[int, dict[str, Any]] = field(default_factory=dict)
    seen: dict[str, SeenSample] = field(default_factory=dict)

    @classmethod
    def merged(cls, parts: Sequence[Tally]) -> Tally:
        """Merge the tallies of several processes."""
        skipped = {index: reason for part in parts for index, reason in part.skipped.items()}
        seen = {name: sample for part in parts for name, sample in part.seen.items()}
        partial = {index: views for part in parts for index, views in part.partial.items()}
        order = (dict(sorted(found.items())) for found in (skipped, partial, seen))
        return cls(sum(part.num_read for part in parts), *order)


class Source(ABC):
    """An ordered collection of samples to score, or one process's share of it.

    Attributes:
        rank: Index of this share.
        world_size: Number of shares.
        num_workers: Processes that prefetch images; 0 reads them in this process.
        tally: Counts of the last pass.
    """

    rank: int = 0
    world_size: int = 1
    num_workers: int = 0

    @abstractmethod
    def __iter__(self) -> Iterator[ScoredSample]:
        """Yield the samples of this share in order, and count them in `tally`."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples in this share, including unreadable ones."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the source for `results.json`: `path`, `kind`, `num_samples`, ...; valid after iterating."""

    def part(self, rank: int, world_size: int, num_workers: int) -> Self:
        """Return a copy that reads every `world_size`-th sample, starting with sample `rank`."""
        part = copy(self)
        part.rank, part.world_size, part.num_workers, part.tally = rank, world_size, num_workers, Tally()
        return part

    def positions(self, num_samples: int) -> range:
        """Return the positions of this share among all samples."""
        return range(self.rank, num_samples, self.world_size)

    def read(self, item: Callable[[Any], Any], keys: Sequence[Any]) -> Iterator[Any]:
        """Yield `item(key)` for each key in order, prefetched by `num_workers` processes."""
        generator = torch.Generator()  # the loader draws a seed; keep it off the global generator
        options = {"sampler": keys, "num_workers": self.num_workers, "collate_fn": _unchanged, "generator": generator}
        yield from BatchLoader(Reported(item), batch_size=None, **options)


class PlainSource(Source):
    """Adapter for any object with `__iter__` and `describe`, in a single process.

    Args:
        source: The object. Its `len`, if it has one, is the number of samples.
    """

    def __init__(self, source: Any) -> None:
        self.source, self.tally = source, Tally()

    def __iter__(self) -> Iterator[ScoredSample]:
        """Yield the samples."""
        return iter(self.source)

    def __len__(self) -> int:
        """Return the number of samples, or 0 if unknown."""
        return len(self.source) if hasattr(self.source, "__len__") else 0

    def describe(self) -> dict[str, Any]:
        """Return the object's own description."""
        return self.source.describe()


def _unchanged(value: Any) -> Any:
    return value


@dataclass
class FolderSource(Source):
    """Complete sample folders at or below a root; unreadable ones are skipped and counted.

    Args:
        root: Folder with samples.
        rig: Cameras of samples in the layout of the 2023 release, see `mvdiff.samples.read_sample`.
        natural: Read the ground truth `<i>_natural.png` (2023 release) instead of the generated views.

    Raises:
        FileNotFoundError: The root is not a folder.
        ValueError: The root holds no complete sample.
    """

    root: Path
    rig: Rig | None = None
    natural: bool = False
    tally: Tally = field(default_factory=Tally, init=False)

    def __post_init__(self) -> None:
        self.complete, self.incomplete = scan_samples(self.root)
        if not self.complete:
            counts = f"{len(self.incomplete)} incomplete, in {self.root}"
            raise ValueError(
                f"sample root must hold at least one complete sample; got {counts}. A sample is a folder with <i>.png "
                f"for each view and sample.json; a folder of images is read, too.{_advice(self.root)}"
            )

    def has_natural(self) -> bool:
        """Return True if any sample has ground-truth views beside it (2023 release)."""
        return any((folder / "0_natural.png").is_file() for folder in self.complete)

    def needs_rig(self) -> bool:
        """Return True if any sample lacks cameras of its own (2023 release)."""
        return not all(map(is_complete, self.complete))

    def __len__(self) -> int:
        """Return the number of complete samples in this share."""
        return len(self.positions(len(self.complete)))

    def __iter__(self) -> Iterator[ScoredSample]:
        """Yield the readable samples; record the others in `tally`."""
        self.tally = Tally()
        positions = self.positions(len(self.complete))
        for index, item in zip(positions, self.read(self._sample, positions), strict=True):
            if isinstance(item, ScoredSample):
                self.tally.num_read += 1
                if item.covered is not None:
                    counts = {"num_views": len(item.is_whole), "num_whole": int(item.is_whole.sum())}
                    self.tally.partial[index] = {"folder": str(self.complete[index]), **counts}
                yield item
            else:
                self.tally.skipped[index] = item

    def _sample(self, index: int) -> ScoredSample | dict[str, str]:
        """Read a sample, or return its folder and the reason why it cannot be read."""
        folder = self.complete[index]
        try:
            sample = read_sample(folder, rig=self.rig)
            images = sample.natural_uint8() if self.natural else sample.images_uint8()
            K, R, height, width = sample.record.camera_tensors()
            t, depths, given = sample.record.translations(), sample.depths(), sample.given()
        except (ValueError, OSError) as error:
            return {"folder": str(folder), "reason": str(error)}
        if (height, width) != tuple(images.shape[-2:]):
            K = resize_intrinsics(K, images.shape[-1] / width, images.shape[-2] / height)
        record, covered = sample.record, None
        if given is not None and "covered" in record.settings:  # imported: what is not given is unknown, not generated
            covered, given = given[1] > 0.5, None
        truth = record.settings.get("truth")
        pasted = bool(record.settings.get("paste_back", given is not None))
        how = {"pasted_back": pasted, "covered": covered, "seed": record.seed, "settings": record.settings}
        # panorama.png is of the generated views
        how["read_panorama"] = None if self.natural else sample.panorama_uint8
        return ScoredSample(record.sample_id, images, K, R, record.prompts, truth, t, depths, given, **how)

    def describe(self) -> dict[str, Any]:
        """Describe the folder and its incomplete and unreadable samples."""
        return {
            "path": str(self.root),
            "kind": "ground truth beside generated views" if self.natural else "sample folders",
            "num_samples": self.tally.num_read,
            "num_incomplete": len(self.incomplete),
            "num_unreadable": len(self.tally.skipped),
            "incomplete": [str(folder) for folder in self.incomplete],
            "unreadable": list(self.tally.skipped.values()),
            "partial": list(self.tally.partial.values()),
        }


def _advice(root: Path) -> str:
    """Say how to import pictures that another method may have made; "" where nothing is known of them."""
    kind = guess_kind(root)
    return "" if kind is None else f" If another method made its pictures, type: {import_command(root, kind)}"


@dataclass
class DataSource(Source):
    """One split of a data module as ground truth: each sample once, in order, panoramas at yaw 0.

    Args:
        data: A `MultiViewDataModule`, or another object with an `eval_dataset(split)` whose items
            `MultiViewBatch.collate` accepts.
        split: `"train"`, `"val"` or `"test"`.
        name: Name of the source in results.
    """

    data: Any
    split: str = "test"
    name: str = "data module"
    tally: Tally = field(default_factory=Tally, init=False)

    def __post_init__(self) -> None:
        if self.split not in ("train", "val", "test"):
            raise ValueError(f"split must be 'train', 'val' or 'test'; got {self.split!r}.")

    @cached_property
    def dataset(self) -> Dataset:
        """Samples of the split.

        Raises:
            ValueError: They are latents without pictures.
        """
        dataset = self.data.eval_dataset(self.split)
        if not getattr(dataset, "has_pictures", True):
            raise ValueError(f"data.root must hold pictures; got shards of latents, {self.data.root}.")
        return dataset

    def __len__(self) -> int:
        """Return the number of samples in this share."""
        return len(self.positions(len(self.dataset)))

    def __iter__(self) -> Iterator[ScoredSample]:
        """Yield the samples."""
        self.tally = Tally()
        positions = self.positions(len(self.dataset))
        items = self.read(self.dataset.__getitem__, [(0, index) for index in positions])
        panorama = getattr(self.dataset, "panorama", None)
        for index, item in zip(positions, items, strict=True):
            batch = MultiViewBatch.collate([item])
            valid = batch.view_valid[0]
            images, K, R, t = (values[0][valid] for values in (batch.images, batch.K, batch.R, batch.t))
            depths = None if batch.depths is None else batch.depths[0][valid]
            prompts = list(compress(batch.prompts[0], valid))
            self.tally.num_read += 1
            read = None if panorama is None else partial(panorama, index)
            yield ScoredSample(
                batch.sample_id[0], to_uint8(images), K, R, prompts, t=t, depths=depths, read_panorama=read
            )

    def describe(self) -> dict[str, Any]:
        """Describe the data and its split."""
        kind = f"{self.split} split of the data section"
        return {"path": self.name, "kind": kind, "num_samples": self.tally.num_read}


def source_from_config(configs: Sequence[str | Path], split: str = "test") -> DataSource:
    """Build the data module from the `data` sections of YAML files and return a source of one split.

    Later files override earlier ones, as in `mvdiff fit`; packaged ones are found by name.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: No file has a `data` section, or it is invalid.
    """
    from mvdiff.data.from_config import data_from_config

    return DataSource(data_from_config(configs), split, ", ".join(map(shared_name, configs)))


def read_truth(path: str | Path) -> dict[str, Truth]:
    """Read true labels from a JSON file `{sample id: [labels of view 0, ...]}`.

    Labels of a view are an object of labels by head, or null to skip the view.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file has another format.
    """
    values = read_json_object(Path(path))
    for name, views in values.items():
        if not isinstance(views, list) or not all(_is_labels(view) for view in views):
            raise ValueError(
                "truth must map sample ids to lists with one entry per view, an object of labels or null; got "
                f"{str(views)[:80]} for {name!r}, in {path}."
            )
    return {same_name(sample_id): views for sample_id, views in values.items()}


def _is_labels(view: Any) -> bool:
    return view is None or (isinstance(view, dict) and all(isinstance(label, str) for label in view.values()))
