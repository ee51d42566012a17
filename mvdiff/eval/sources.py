"""Where scored views come from: sample folders, upstream's ground truth beside them, or a run's data set.

Legend: V views, H W image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from mvdiff.geometry.cameras import Rig, resize_intrinsics
from mvdiff.samples import read_sample, scan_samples, to_uint8

Truth = Sequence[Mapping[str, str] | None]


@dataclass(frozen=True)
class ScoredSample:
    """What metrics see of one sample.

    Attributes:
        sample_id: Its name; samples of generated images and reference are matched by it.
        images_uint8: uint8 [V, 3, H, W].
        K: [V, 3, 3] intrinsics at H x W, pixels.
        R: [V, 3, 3] world-from-camera rotations.
        prompts: V prompts, without the prefix.
        truth: What each view shows, or None.
        t: [V, 3] camera centres in the world, metres, or None where all views share one.
        depths: [V, H, W] z-depth in metres, 0 = none; or None.
        given: What was given of the views, uint8 [V, 3, H, W] and [V, 1, H, W] float `known`; or None.
        pasted_back: Whether given pixels were put back into the views.
    """

    sample_id: str
    images_uint8: Tensor
    K: Tensor
    R: Tensor
    prompts: list[str]
    truth: Truth | None = None
    t: Tensor | None = None
    depths: Tensor | None = None
    given: tuple[Tensor, Tensor] | None = None
    pasted_back: bool = False


class Source(Protocol):
    """Samples to score, each once, always in the same order."""

    def __iter__(self) -> Iterator[ScoredSample]:
        """Read the samples one after the other."""

    def describe(self) -> dict[str, Any]:
        """Say where the samples came from, how many were read and how many were not (after iterating)."""


@dataclass
class FolderSource:
    """Complete sample folders at or below a root; unreadable ones are skipped and counted.

    Args:
        root: Folder with samples.
        rig: Cameras of samples in upstream's layout, see `mvdiff.samples.read_sample`.
        natural: Read upstream's ``<i>_natural.png`` instead of the generated views.

    Raises:
        FileNotFoundError: The root does not exist.
        ValueError: It holds no complete sample.
    """

    root: Path
    rig: Rig | None = None
    natural: bool = False
    num_read: int = field(default=0, init=False)
    skipped: list[dict[str, str]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.complete, self.incomplete = scan_samples(self.root)
        if not self.complete:
            raise ValueError(
                f"sample root must hold at least one complete sample; got {len(self.incomplete)} incomplete, in "
                f"{self.root}. Generate some (again), or check the path."
            )

    def has_natural(self) -> bool:
        """Tell whether the first sample brings its ground truth (upstream's layout)."""
        return (self.complete[0] / "0_natural.png").is_file()

    def __iter__(self) -> Iterator[ScoredSample]:
        self.num_read, self.skipped = 0, []
        for folder in self.complete:
            try:
                sample = read_sample(folder, rig=self.rig)
                images = sample.natural_uint8() if self.natural else sample.images_uint8()
                K, R, height, width = sample.record.camera_tensors()
                t, depths, given = sample.record.translations(), sample.depths(), sample.given()
            except (ValueError, OSError) as error:
                self.skipped.append({"folder": str(folder), "reason": str(error)})
                continue
            if (height, width) != tuple(images.shape[-2:]):
                K = resize_intrinsics(K, images.shape[-1] / width, images.shape[-2] / height)
            self.num_read += 1
            record = sample.record
            truth = record.settings.get("truth")
            pasted = bool(record.settings.get("paste_back", given is not None))
            yield ScoredSample(record.sample_id, images, K, R, record.prompts, truth, t, depths, given, pasted)

    def describe(self) -> dict[str, Any]:
        """Say which folder was read, and what of it could not be."""
        return {
            "path": str(self.root),
            "kind": "ground truth beside generated views" if self.natural else "sample folders",
            "num_samples": self.num_read,
            "num_incomplete": len(self.incomplete),
            "num_unreadable": len(self.skipped),
            "unreadable": self.skipped[:20],
        }


@dataclass
class DataSource:
    """The views of one split of a data module, as ground truth: in order (panoramas at yaw 0), each sample once.

    Args:
        data: A `MultiViewDataModule`, or whatever has its `eval_dataloader`, which yields `MultiViewBatch`.
        split: ``"train"``, ``"val"`` or ``"test"``.
        name: What stands in the results.
    """

    data: Any
    split: str = "test"
    name: str = "data module"
    num_read: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.split not in ("train", "val", "test"):
            raise ValueError(f"split must be 'train', 'val' or 'test'; got {self.split!r}. Choose one.")

    def __iter__(self) -> Iterator[ScoredSample]:
        self.num_read = 0
        for batch in self.data.eval_dataloader(self.split):
            for i, sample_id in enumerate(batch.sample_id):
                valid = batch.view_valid[i]
                kept = valid.tolist()
                prompts = [p for p, keep in zip(batch.prompts[i], kept, strict=True) if keep]
                self.num_read += 1
                images, K, R, t = (values[i][valid] for values in (batch.images, batch.K, batch.R, batch.t))
                depths = None if batch.depths is None else batch.depths[i][valid]
                yield ScoredSample(sample_id, to_uint8(images), K, R, prompts, t=t, depths=depths)

    def describe(self) -> dict[str, Any]:
        """Say which data was read."""
        return {"path": self.name, "kind": f"{self.split} split of the data section", "num_samples": self.num_read}


def source_from_config(configs: Sequence[str | Path], split: str = "test") -> DataSource:
    """Build the data module of a run's YAML files and read one split of it.

    Only the ``data`` section is looked at; later files overlay earlier ones, as on the command line of ``mvdiff fit``.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: No file has a data section, or it cannot be built (the text names the key).
    """
    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    from mvdiff.data.keyed_datamodule import MultiViewDataModule

    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MultiViewDataModule, "data", required=True)
    names = ", ".join(str(path) for path in configs)
    parsed = None
    try:
        for path in configs:
            section = (yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}).get("data")
            if section is not None:
                parsed = parser.parse_object({"data": section}, namespace=parsed)
        if parsed is None:
            raise ValueError("no data section")
        data = parser.instantiate(parsed).data
    except (ArgumentError, TypeError, ValueError, AttributeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"--config must have a data section that can be built; got {reason}, in {names}.") from error
    return DataSource(data, split, names)


def read_truth(path: str | Path) -> dict[str, Truth]:
    """Read a JSON file ``{sample id: [what view 0 shows, ...]}``; each entry is a dict of labels, or null to skip.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not such a file.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"truth must be a JSON file; got {error}, in {path}.") from error
    if not isinstance(values, dict) or not all(isinstance(views, list) for views in values.values()):
        raise ValueError(f"truth must map sample ids to lists, one entry per view; got something else, in {path}.")
    return values
