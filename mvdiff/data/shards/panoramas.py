"""Panoramas of shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mvdiff.data.counts import check_counts
from mvdiff.data.matterport3d import decode_faces, panorama_of_faces
from mvdiff.data.panorama_files import read_panorama
from mvdiff.data.panoramas import Captions
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.reading import Recent, ShardSplit
from mvdiff.files.images import StoredFile
from mvdiff.files.text import parse_json
from mvdiff.geometry.panorama import perspective_from_equirectangular, perspective_from_skybox
from mvdiff.samples import from_uint8


class ShardedPanoramas:
    """Panoramas of one split of a set of shards; see `ShardPanoramas` and `ShardViews`.

    Args:
        samples: Samples of the split.
        max_pixels: Largest width x height of a picture; None: `mvdiff.files.images.MAX_PIXELS`.
    """

    def __init__(self, samples: ShardSplit, max_pixels: int | None = None) -> None:
        check_counts(max_pixels=max_pixels)
        self.samples = samples
        self.max_pixels = max_pixels
        self._recent: Recent[dict[str, Any]] = Recent(2)

    def __len__(self) -> int:
        return len(self.samples)

    def sample_id(self, index: int) -> str:
        """Return the id that the panorama has in its source."""
        return self.samples.sample_id(index)

    def captions(self, index: int) -> Captions:
        """Return the captions."""
        values = self._values(index)["captions"]
        return {key if key in ("up", "down") else int(key): caption for key, caption in values.items()}

    def _values(self, index: int) -> dict[str, Any]:
        """Return the content of the sample's `json`."""
        return self._recent.fetch(index, lambda: self._parsed(index, self.samples.sample(index, ("json",))["json"]))

    def _parsed(self, index: int, content: bytes) -> dict[str, Any]:
        """Return the content of the sample's `json`, which was read, and keep it."""
        return self._recent.fetch(index, lambda: parse_json(content.decode(), self.samples.place(index, "json")))


class ShardPanoramas(ShardedPanoramas):
    """Panoramas of shards of images: the same samples as from the files they were made of."""

    def panorama(self, index: int) -> Tensor:
        """Return a whole panorama as uint8 [3, H, 2 H], as the reader of its source does."""
        files = self._files(index)
        if len(files) == 1:
            return read_panorama(files[0], self.max_pixels)
        return panorama_of_faces(decode_faces(files, self.max_pixels))

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Cut views [V, 3, H, W] in [-1, 1] with [V, 3, 3] intrinsics and world-from-camera rotations."""
        return views_of(self._files(index), K, R, height, width, self.max_pixels)

    def _files(self, index: int) -> list[StoredFile]:
        members = self.samples.sample(index)
        names = sorted(name for name in members if name.startswith(("face", "panorama")))
        return [StoredFile(self.samples.place(index, name), members[name]) for name in names]


class ShardViews(ShardedPanoramas):
    """Views that were cut before the shards were written, as uint8.

    Args:
        samples: Samples of the split.
        cuts: The cuts that they have.
    """

    def __init__(self, samples: ShardSplit, cuts: Cuts) -> None:
        super().__init__(samples)
        self.cuts = cuts

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Return views [V, 3, H, W] in [-1, 1].

        Raises:
            ValueError: The shards have no views of these cameras.
        """
        name = f"{self.cuts.name_of(K, R, height, width)}.npy"
        content = self.samples.sample(index, (name,))[name]
        try:
            views = torch.from_numpy(np.load(BytesIO(content), allow_pickle=False))
        except ValueError as error:
            raise ValueError(f"{self.samples.place(index, name)} must be a numpy array ({error}).") from error
        return from_uint8(views)


def views_of(
    files: Sequence[StoredFile], K: Tensor, R: Tensor, height: int, width: int, max_pixels: int | None = None
) -> Tensor:
    """Cut views [V, 3, H, W] in [-1, 1] from one equirectangular image, or from six faces in skybox order."""
    if len(files) == 1:
        return from_uint8(perspective_from_equirectangular(read_panorama(files[0], max_pixels), K, R, height, width))
    return from_uint8(perspective_from_skybox(decode_faces(files, max_pixels), K, R, height, width))


def panorama_json(captions: Captions, **further: Any) -> bytes:
    """Return the `json` member of a panorama: its captions, and what else is known of it."""
    values = {"captions": {str(key): caption for key, caption in captions.items()}} | further
    return json.dumps(values, ensure_ascii=False).encode()
