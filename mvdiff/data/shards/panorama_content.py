"""Panoramas as the content of shards: the files of a source, or views that are cut from them."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvdiff.data.panoramas import PanoramaSource, cut_rotations
from mvdiff.data.pictures import views_of_picture
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.panoramas import panorama_json, picture_of
from mvdiff.data.shards.plan import Planned, state_of
from mvdiff.files.stored import StoredFile
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import to_uint8

_NPY_HEADER = 128  # bytes before the values of a small array


class PanoramaFiles:
    """Picture files and captions of panoramas; see `Content`.

    Args:
        sources: Reader of each split.
        source: What the panoramas are, for the manifest.

    Raises:
        ValueError: A reader names no files, or cuts other views from them than the readers of this package.
    """

    kind, what = "panoramas", "images"

    def __init__(self, sources: Mapping[str, PanoramaSource], source: dict[str, Any]) -> None:
        self.sources = sources
        self.source = source | {"panoramas": {split: len(panoramas) for split, panoramas in sources.items()}}
        self.settings: dict[str, Any] = {}
        for panoramas in sources.values():
            _check_cut_from_files(panoramas)

    def counts(self) -> dict[str, int]:
        """Return the number of panoramas of each split."""
        return self.source["panoramas"]

    def planned(self, split: str, index: int) -> Planned:
        """Plan a panorama."""
        panoramas = self.sources[split]
        files, text = _named_files(panoramas, index), panorama_json(panoramas.captions(index))
        sizes = {name: path.stat().st_size for name, path in files.items()}
        return Planned(panoramas.sample_id(index), sizes | {"json": len(text)}, state_of([*files.values()], text))

    def members(self, split: str, index: int) -> dict[str, bytes]:
        """Read the files of a panorama."""
        panoramas = self.sources[split]
        files = {name: path.read_bytes() for name, path in _named_files(panoramas, index).items()}
        return files | {"json": panorama_json(panoramas.captions(index))}

    def files(self) -> dict[str, bytes]:
        """Return no further files."""
        return {}


class PanoramaViews:
    """Views of panoramas, cut and rounded to uint8; see `Content`.

    Args:
        sources: Reader of each split.
        source: What the panoramas are, for the manifest.
        cuts: The cuts.
    """

    kind, what = "panoramas", "views"

    def __init__(self, sources: Mapping[str, PanoramaSource], source: dict[str, Any], cuts: Cuts) -> None:
        self.sources = sources
        self.source = source | {"panoramas": {split: len(panoramas) for split, panoramas in sources.items()}}
        self.cuts = cuts
        self.settings: dict[str, Any] = cuts.to_dict() | {"dtype": "uint8"}

    def counts(self) -> dict[str, int]:
        """Return the number of panoramas of each split."""
        return self.source["panoramas"]

    def planned(self, split: str, index: int) -> Planned:
        """Plan a panorama."""
        panoramas, rig = self.sources[split], self.cuts.rig
        text, size = panorama_json(panoramas.captions(index)), _NPY_HEADER + 3 * rig.num_views * rig.height * rig.width
        sizes = {f"{name}.npy": size for name, _, _ in self.cuts} | {"json": len(text)}
        return Planned(panoramas.sample_id(index), sizes, state_of(picture_files_of(panoramas, index), text))

    def members(self, split: str, index: int) -> dict[str, bytes]:
        """Cut the views of a panorama."""
        panoramas, rig = self.sources[split], self.cuts.rig
        K, _ = rig.cameras()
        members = {"json": panorama_json(panoramas.captions(index))}
        for name, yaw, mirrored in self.cuts:
            R = cut_rotations(rig, yaw, mirrored)
            content = BytesIO()
            np.save(content, to_uint8(panoramas.views(index, K, R, rig.height, rig.width)).numpy(), allow_pickle=False)
            members[f"{name}.npy"] = content.getvalue()
        return members

    def files(self) -> dict[str, bytes]:
        """Return no further files."""
        return {}


def picture_files_of(panoramas: PanoramaSource, index: int) -> list[Path]:
    """Return the picture files of a panorama; a reader of a user's own may name none."""
    return panoramas.picture_files(index) if hasattr(panoramas, "picture_files") else []


def _named_files(panoramas: PanoramaSource, index: int) -> dict[str, Path]:
    """Return the picture files of a panorama by the names of their members."""
    paths = panoramas.picture_files(index)
    stems = ["panorama"] if len(paths) == 1 else [f"face{number}" for number in range(len(paths))]
    return {f"{stem}{path.suffix.lower()}": path for stem, path in zip(stems, paths, strict=True)}


def _check_cut_from_files(panoramas: PanoramaSource) -> None:
    """Cut small views of the first panorama as shards will."""
    name = type(panoramas).__name__
    if not hasattr(panoramas, "picture_files"):
        raise ValueError(f"--what images needs picture_files of {name}, which has none. Use --what views.")
    rig = RingRig(height=16, width=16)
    K, R = rig.cameras()
    files = [StoredFile(name, path.read_bytes()) for name, path in _named_files(panoramas, 0).items()]
    how = (K, R, rig.height, rig.width)
    if not torch.equal(views_of_picture(picture_of(files), *how), panoramas.views(0, *how)):
        raise ValueError(
            f"--what images needs views that are cut from picture_files; {name} makes others. Use --what views."
        )
