"""ScoredSample: one sample, as passed to metrics.

Axes: V views, H x W image.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from mvdiff.eval.image_hashes import geometry_hash, pixel_hash
from mvdiff.keyed import keyed_int
from mvdiff.samples.folders import PANORAMA_NAME

Truth = Sequence[Mapping[str, str] | None]


@dataclass(frozen=True)
class ScoredSample:
    """One sample, as passed to metrics.

    Attributes:
        sample_id: Name that generated and reference samples share.
        images_uint8: uint8 [V, 3, H, W].
        K: [V, 3, 3] intrinsics at H x W, in pixels.
        R: [V, 3, 3] world-from-camera rotations.
        prompts: V prompts, without the model's prefix.
        truth: True labels of each view, or None.
        t: [V, 3] camera centres in the world, metres; None if all views share one.
        depths: [V, H, W] z-depth in metres, 0 where unknown; or None.
        given: Given pixels, uint8 [V, 3, H, W], and `known`, float [V, 1, H, W]; or None.
        pasted_back: True if given pixels were pasted back into the views.
        seed: Seed of the noise; None for images that were not sampled.
        settings: Settings that made the images, as `sample.json` records them.
        covered: [V, 1, H, W] bool, the pixels that a partial panorama shows; None: all.
        read_panorama: Reads the panorama of the sample, see `panorama_uint8`; None if it has none.
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
    seed: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    covered: Tensor | None = None
    read_panorama: Callable[[], Tensor | None] | None = None
    _shared: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: Hashable, measure: Callable[[], Any]) -> Any:
        """Return `measure()`, called only the first time for this sample and name: metrics share work through it."""
        if name not in self._shared:
            self._shared[name] = measure()
        return self._shared[name]

    def whole_views(self) -> ScoredSample | None:
        """Return the sample with the views that are covered wholly; None if there are none."""
        if self.covered is None:
            return self
        whole = self.is_whole
        if not bool(whole.any()):
            return None
        tensors = {name: getattr(self, name) for name in ("images_uint8", "K", "R", "t", "depths")}
        lists = {name: getattr(self, name) for name in ("prompts", "truth")}
        return replace(
            self,
            **{name: None if value is None else value[whole] for name, value in tensors.items()},
            **{name: value and list(compress(value, whole)) for name, value in lists.items()},
            given=self.given and tuple(part[whole] for part in self.given),
            covered=None,
            read_panorama=_refuse_partial,  # it is black where it shows nothing
        )

    @property
    def is_whole(self) -> Tensor:
        """[V] bool, True for views that are covered wholly."""
        every = torch.ones(len(self.images_uint8), dtype=torch.bool)
        return every if self.covered is None else self.covered.flatten(1).all(dim=1)

    @property
    def key(self) -> int:
        """Hash of the sample id, shared by generated and real samples of that id."""
        return keyed_sample(self.sample_id)

    @cached_property
    def pixel_hashes(self) -> list[str]:
        """Hash of the pixels of every view, see `mvdiff.eval.image_hashes`."""
        return [pixel_hash(image) for image in self.images_uint8]

    @property
    def geometry_hash(self) -> str:
        """Hash of cameras, depths and the covered part, see `mvdiff.eval.image_hashes`."""
        covered = None if self.covered is None or bool(self.covered.all()) else self.covered
        return geometry_hash(self.K, self.R, self.t, self.depths, covered)

    @property
    def panorama_hash(self) -> str | None:
        """Hash of the panorama's pixels; None if no metric has asked for it."""
        return pixel_hash(self.panorama_uint8) if "panorama_uint8" in vars(self) else None

    @cached_property
    def panorama_uint8(self) -> Tensor:
        """The panorama as it is stored, uint8 [3, H, 2 H]; read when a metric first asks for it.

        Raises:
            ValueError: The sample has no panorama, or it is broken or not twice as wide as high.
        """
        panorama = self.read_panorama() if self.read_panorama else None
        if panorama is None:
            raise ValueError(f"panorama must be stored as {PANORAMA_NAME} in the sample's folder; got none.")
        height, width = panorama.shape[-2:]
        if width != 2 * height:
            raise ValueError(f"panorama must be twice as wide as high; got {width} x {height} (width x height).")
        return panorama


def keyed_sample(sample_id: str) -> int:
    """Return the hash of a sample id, see `ScoredSample.key`."""
    return keyed_int("sample", sample_id)


def _refuse_partial() -> None:
    raise ValueError("panorama must show the whole sphere; this one shows a part of it.")
