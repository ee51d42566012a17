"""Make shards of what a run of panoramas cuts: `mvdiff data shard --what views`."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mvdiff.data.datamodule import PanoramaDataModule
from mvdiff.data.keyed_datamodule import MultiViewDataModule
from mvdiff.data.matterport3d import layout_root
from mvdiff.data.panoramas import PanoramaSource
from mvdiff.data.prepare.shard import SPLITS, listed_splits
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.panorama_content import PanoramaViews
from mvdiff.data.shards.plan import Content
from mvdiff.data.shards.reading import ShardSet, holds_shards
from mvdiff.files.paths import own_name

_log = logging.getLogger(__name__)


def view_content(data: MultiViewDataModule) -> Content:
    """Return the views that a run of panoramas cuts as the content of shards.

    Args:
        data: Data module of the run; its `yaw` is a list.

    Raises:
        FileNotFoundError: The data or a file of them do not exist.
        ValueError: The data module has no panoramas, or random yaws.
    """
    sources, about, cuts = panoramas_of_run(data)
    return PanoramaViews(sources, about, cuts)


def panoramas_of_run(data: MultiViewDataModule) -> tuple[dict[str, PanoramaSource], dict[str, Any], Cuts]:
    """Return the panoramas of a run by split, what they are, and how it cuts them; raise like `view_content`."""
    if not isinstance(data, PanoramaDataModule):
        raise ValueError(f"data must be a PanoramaDataModule to cut views; got {type(data).__name__}.")
    cuts = Cuts.of_training(data.rig, data.yaw, data.mirror)
    sources, splits = {"train": data.source("train")}, _splits(data)
    for split in SPLITS[1:]:
        if split in splits:
            sources[split] = data.source(split)
        else:
            _log.warning("%s has no split %r", data.root, split)
    return sources, {"name": own_name(Path(data.root)), "layout": type(sources["train"]).__name__}, cuts


def _splits(data: PanoramaDataModule) -> Collection[str]:
    """Return the splits that the data have; both for a user's own layout without lists."""
    if holds_shards(data.root):
        return ShardSet(data.root, data.shards).manifest.splits
    return listed_splits(data.root) or listed_splits(layout_root(data.root)) or SPLITS
