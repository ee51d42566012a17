"""Panoramas of shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mvdiff.data.counts import check_counts
from mvdiff.data.matterport3d import decode_faces, panorama_of_faces
from mvdiff.data.panorama_files import read_panorama
from mvdiff.data.panoramas import Captions
from mvdiff.data.pictures import views_of_picture
from mvdiff.data.shards.cuts import Cuts
from mvdiff.data.shards.reading import Recent, ShardSplit
from mvdiff.files.arrays import read_npy
from mvdiff.files.stored import StoredFile
from mvdiff.files.text import parse_json
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
        picture = self.picture(index)
        return panorama_of_faces(picture) if picture.ndim == 4 else picture

    def picture(self, index: int) -> Tensor:
        """Decode a panorama; see `picture_of`."""
        members = self.samples.sample(index)
        names = sorted(name for name in members if name.startswith(("face", "panorama")))
        files = [StoredFile(self.samples.place(index, name), members[name]) for name in names]
        return picture_of(files, self.max_pixels)

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Cut views [V, 3, H, W] in [-1, 1] with [V, 3, 3] intrinsics and world-from-camera rotations."""
        return views_of_picture(self.picture(index), K, R, height, width)


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
            WrongSettings: The shards have no views of these cameras.
        """
        name = f"{self.cuts.name_of(K, R, height, width)}.npy"
        file = StoredFile(self.samples.place(index, name), self.samples.sample(index, (name,))[name])
        return from_uint8(torch.from_numpy(read_npy(file)))


def picture_of(files: Sequence[StoredFile], max_pixels: int | None = None) -> Tensor:
    """Decode one equirectangular image, uint8 [3, H, 2 H], or six faces in skybox order, [6, 3, S, S]."""
    return read_panorama(files[0], max_pixels) if len(files) == 1 else decode_faces(files, max_pixels)


def panorama_json(captions: Captions, **further: Any) -> bytes:
    """Return the `json` member of a panorama: its captions, and what else is known of it."""
    values = {"captions": {str(key): caption for key, caption in captions.items()}} | further
    return json.dumps(values, ensure_ascii=False).encode()
