"""Settings of the tables, free of torch; the string under a field is its help on the command line."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Size = Literal["toy", "paper"]


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Table."""

    size: Size = "toy"
    """toy: rooms of the toy world and the packaged models, on a processor; paper: the paper's data, models and numbers
    of samples, on a GPU"""
    out: Path = Path("benchmark")
    """folder that receives data, samples, scores and pages; a rerun continues in it, and the tables share it"""
    only: tuple[str, ...] | None = None
    """methods whose rows to make (default: all); rows of other methods are shown if their results exist"""
    imported: tuple[str, ...] = ()
    """METHOD=DIR, one or several: take the samples in DIR, which mvdiff import wrote, for the row of that method; a
    name that the table does not have gets a row of its own"""
    overwrite: bool = False
    """make samples and scores again, also those that are complete"""
    batch_size: int = 4
    """samples generated in parallel; four times as many by methods that make one view of each at a time"""
    num_workers: int = 2
    """processes that draw toy rooms and read images"""
    device: str = "auto"
    """auto (the GPU if there is one), cpu or cuda"""
    data: Path | None = None
    """folder of the data set (default: with --size toy, the protocol's toy world is made)"""
    model: str | None = None
    """trained model: folder, hub id or packaged name (default: with --size toy, the packaged one)"""
    inception_weights: str | None = None
    """weight file of FID's Inception network, with --size paper (default: torch's cache)"""
    clip_weights: str | None = None
    """weight file of the protocol's CLIP model, with --size paper (default: open_clip's cache)"""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            if getattr(self, name) < least:
                raise ArgumentTypeError(f"--{name} must be at least {least}; got {getattr(self, name)}")
        for word in self.imported:
            if not all(word.partition("=")):
                raise ArgumentTypeError(f"--imported must be METHOD=DIR; got {word!r}")

    @property
    def imported_folders(self) -> Mapping[str, Path]:
        """Folders of imported samples by method."""
        return {name: Path(folder) for name, _, folder in (word.partition("=") for word in self.imported)}

    def makes(self, method: str) -> bool:
        """Return True if the samples of a method are to be made: they are asked for and not imported."""
        return method not in self.imported_folders and (self.only is None or method in self.only)


@dataclass(frozen=True, kw_only=True)
class Table1Settings(BenchmarkSettings):
    """Table 1."""

    inpainting_base: str | None = None
    """base of the row inpainting: folder or hub id (default: the packaged one, or Stable Diffusion 2's)"""
    pano_base: str | None = None
    """base of the row sd-pano: folder or hub id of a base that was finetuned on whole panoramas (default: with --size
    toy, the packaged one)"""


@dataclass(frozen=True, kw_only=True)
class Table2Settings(BenchmarkSettings):
    """Table 2."""

    inpainting_base: str | None = None
    """base of the row controlnet-inpainting: folder or hub id (default: the packaged one, or Stable Diffusion 2's)"""
    controlnet: str | None = None
    """depth ControlNet of the row controlnet-inpainting: folder or hub id (default: with --size toy, the packaged
    one)"""


@dataclass(frozen=True, kw_only=True)
class Table3Settings(BenchmarkSettings):
    """Table 3."""

    data: Path | None = None
    """folder of the panoramas (default: with --size toy, the protocol's toy world is made)"""
    model: str | None = None
    """trained panorama model (default: with --size toy, the packaged one)"""
    depth_data: Path | None = None
    """folder of the recordings (default: as for --data)"""
    depth_model: str | None = None
    """trained depth model (default: as for --model)"""
