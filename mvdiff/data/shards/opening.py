"""Open the panoramas of a set of shards, whatever of them it holds."""

from __future__ import annotations

from pathlib import Path

from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.latents import ShardLatents
from mvdiff.data.shards.panoramas import ShardedPanoramas, ShardPanoramas, ShardViews
from mvdiff.data.shards.reading import ShardSet
from mvdiff.settings import ShardSettings


def open_panoramas(
    root: str | Path, split: str, max_pixels: int | None = None, settings: ShardSettings | None = None
) -> ShardedPanoramas:
    """Open the panoramas of a split of shards.

    Raises:
        FileNotFoundError: There are no shards, or not of this split.
        ValueError: The shards hold something else.
    """
    shard_set = ShardSet(root, settings)
    manifest = shard_set.manifest
    if manifest.kind != "panoramas":
        raise ValueError(f"{root} must hold shards of panoramas; got {manifest.kind}.")
    if manifest.what == "latents":
        return ShardLatents(shard_set, split)
    samples = shard_set.split(split)
    if manifest.what == "views":
        return ShardViews(samples, Cuts.from_dict(manifest.settings))
    return ShardPanoramas(samples, max_pixels)
