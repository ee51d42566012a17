"""`MultiViewBatch`: the common batch type of data, pipelines, tasks, training and sample folders.

Shapes: B samples, V views, H x W image. Samples with different numbers of views share a batch by padding: `view_valid`
is False for a padded view, which attention and losses ignore.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from mvdiff.keyed import keyed_int
from mvdiff.shapes import check_shapes

_PER_VIEW = ("images", "K", "R", "t", "depths", "known", "latents", "text", "picture_R")
_LISTS = ("view_names", "notes", "pictures")


@dataclass
class MultiViewBatch:
    """A batch of multi-view samples with their cameras and prompts.

    Attributes:
        images: [B, V, 3, H, W] float in [-1, 1].
        K: [B, V, 3, 3] intrinsics in pixels of `images`.
        R: [B, V, 3, 3] world-from-camera rotations. The world frame turns with the sample: view 0 of a ring is at yaw 0
            whatever yaw of the panorama it was cut from, so all samples of a rig share their cameras.
        t: [B, V, 3] camera centres in the world, metres; zeros for views that share a centre.
        prompts: B lists of V prompts, without the model's prefix (see `mvdiff.models.prompts`).
        sample_id: B names, unique within their split; `mvdiff.samples.sample_folder` maps them to folder names.
        sample_index: [B] long, index in the split. Together with `epoch` it keys all randomness of a sample.
        epoch: Epoch of the batch.
        view_valid: [B, V] bool, False for padding.
        depths: [B, V, H, W] z-depth in metres, 0 where unknown; or None.
        known: [B, V, 1, H, W] float, 1 for given pixels and 0 for pixels to generate; or None.
        yaw_deg: [B] float, yaw in degrees at which the sample was cut from its panorama; or None.
        mirrored: [B] bool, True if the scene was mirrored left to right; or None.
        view_names: B lists of V names that key the noise of views, such as frame numbers; None uses 0, 1, ...
        latents: [B, V, C, h, w] latents of the images, where the data have them (shards of latents); or None. `images`
            are then blank (`blank_images`).
        text: [B, V, L, D] embeddings of the prompts, with the model's prefix, likewise; or None.
        pictures: B panoramas, uint8, from which the views are cut on the device (`mvdiff.data.pictures`); or None.
            `images` are blank until then.
        picture_R: [B, V, 3, 3] rotations with which they are cut, world-from-camera; or None.
        notes: B mappings with further entries for `settings` in `sample.json`; or None.
        is_copy: [B] bool, True for samples that another device has, too, so that all devices evaluate equally many;
            copies count for nothing. None: there are none.
    """

    images: Tensor
    K: Tensor
    R: Tensor
    t: Tensor
    prompts: list[list[str]]
    sample_id: list[str]
    sample_index: Tensor
    epoch: int
    view_valid: Tensor
    depths: Tensor | None = None
    known: Tensor | None = None
    yaw_deg: Tensor | None = None
    mirrored: Tensor | None = None
    latents: Tensor | None = None
    text: Tensor | None = None
    pictures: list[Tensor] | None = None
    picture_R: Tensor | None = None
    view_names: list[list[int | str]] | None = None
    notes: list[dict[str, Any]] | None = None
    is_copy: Tensor | None = None

    @classmethod
    def from_cameras(
        cls,
        K: Tensor,
        R: Tensor,
        height: int,
        width: int,
        t: Tensor | None = None,
        depths: Tensor | None = None,
        view_valid: Tensor | None = None,
    ) -> MultiViewBatch:
        """Make a batch with cameras and blank images, from which to compute correspondences.

        Args:
            K: [B, V, 3, 3], or [V, 3, 3] for one sample.
            R: [B, V, 3, 3], or [V, 3, 3] for one sample.
            height: Image height in pixels.
            width: Image width in pixels.
            t: [B, V, 3]; None: zeros.
            depths: [B, V, H, W], or None.
            view_valid: [B, V]; None: all valid.
        """
        K, R = (value if value.ndim == 4 else value[None] for value in (K, R))
        shape = K.shape[:2]
        return cls(
            images=blank_images(*shape, 3, height, width),
            K=K,
            R=R,
            t=K.new_zeros(*shape, 3) if t is None else t,
            prompts=[[""] * shape[1]] * shape[0],
            sample_id=[str(index) for index in range(shape[0])],
            sample_index=torch.arange(shape[0]),
            epoch=0,
            view_valid=torch.ones(shape, dtype=torch.bool) if view_valid is None else view_valid,
            depths=depths,
        )

    @property
    def batch_size(self) -> int:
        """Number of samples B."""
        return self.images.shape[0]

    @property
    def num_views(self) -> int:
        """Number of views V, padding included."""
        return self.images.shape[1]

    def names_of(self, index: int) -> list[int | str]:
        """Return the names of a sample's views."""
        return list(range(self.num_views)) if self.view_names is None else list(self.view_names[index])

    def view_keys(self) -> list[int]:
        """Return the `view_key` of each of the B x V views."""
        return [view_key(int(index), view) for index in self.sample_index for view in range(self.num_views)]

    def rows(self, indices: Sequence[int]) -> MultiViewBatch:
        """Return a batch of the samples at `indices`."""

        def select(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[list(indices)]
            return [value[i] for i in indices] if isinstance(value, list) else value

        return replace(self, **{field.name: select(getattr(self, field.name)) for field in fields(self)})

    @property
    def is_original(self) -> list[bool]:
        """For each sample, False if it is a copy (`is_copy`)."""
        return [True] * self.batch_size if self.is_copy is None else (~self.is_copy).tolist()

    def originals(self) -> MultiViewBatch | None:
        """Return the batch without copies (`is_copy`); None if nothing is left."""
        kept = [index for index, is_original in enumerate(self.is_original) if is_original]
        if len(kept) == self.batch_size:
            return self
        return self.rows(kept) if kept else None

    def one_view(self, view: int) -> MultiViewBatch:
        """Return a batch of one view of each sample; the view keeps its name, which keys its noise."""
        one = slice(view, view + 1)
        values = {name: getattr(self, name) for name in (*_PER_VIEW, "view_valid")}
        cut = {name: value[:, one] for name, value in values.items() if value is not None}
        names = [self.names_of(index)[one] for index in range(self.batch_size)]
        return replace(self, **cut, prompts=[texts[one] for texts in self.prompts], view_names=names)

    def check(self) -> MultiViewBatch:
        """Check shapes, dtypes and ranges; return the batch itself.

        Raises:
            ValueError: A field has a wrong shape, dtype or range.
        """
        named = {
            "images": (self.images, "B V 3 H W"),
            "K": (self.K, "B V 3 3"),
            "R": (self.R, "B V 3 3"),
            "t": (self.t, "B V 3"),
            "sample_index": (self.sample_index, "B"),
            "view_valid": (self.view_valid, "B V"),
        }
        optional = {"depths": "B V H W", "known": "B V 1 H W", "yaw_deg": "B", "mirrored": "B", "is_copy": "B"}
        optional |= {"latents": "B V C h w", "text": "B V L D", "picture_R": "B V 3 3"}
        named |= {
            name: (getattr(self, name), shape) for name, shape in optional.items() if getattr(self, name) is not None
        }
        sizes = check_shapes(**named)
        if not self.images.is_floating_point():
            raise ValueError(f"images must be floating point in [-1, 1]; got {self.images.dtype}. Use 2 * x / 255 - 1.")
        low, high = (self.images[0, 0] if _is_blank(self.images) else self.images).detach().aminmax()
        if not (low >= -1.001 and high <= 1.001):
            raise ValueError(f"images must lie in [-1, 1]; got [{low:.4g}, {high:.4g}].")
        if self.view_valid.dtype != torch.bool:
            raise ValueError(f"view_valid must be bool; got {self.view_valid.dtype}. Use mask.bool().")
        if len(self.sample_id) != sizes["B"]:
            raise ValueError(f"sample_id must have one name per sample ({sizes['B']}); got {len(self.sample_id)}.")
        counts = [len(prompts) for prompts in self.prompts]
        if counts != [sizes["V"]] * sizes["B"]:
            raise ValueError(
                f"prompts must be {sizes['B']} lists of {sizes['V']} texts, one per view; got lists of {counts} texts."
            )
        if self.view_names is not None and [len(names) for names in self.view_names] != counts:
            raise ValueError(f"view_names must be {sizes['B']} lists of {sizes['V']} names; got {self.view_names}.")
        return self

    def to(self, device: torch.device | str, non_blocking: bool = False) -> MultiViewBatch:
        """Return the batch with every tensor on `device`; dtypes do not change."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> MultiViewBatch:
        """Return the batch in page-locked memory; `DataLoader` calls this."""
        return self._map(Tensor.pin_memory)

    def _map(self, change) -> MultiViewBatch:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {name: _changed(value, change) for name, value in values.items() if isinstance(value, Tensor)}
        if self.pictures is not None:
            changed["pictures"] = list(map(change, self.pictures))
        return replace(self, **changed)

    @staticmethod
    def collate(samples: Sequence[Mapping[str, Any] | MultiViewBatch]) -> MultiViewBatch:
        """Join samples into a batch; samples with fewer views are padded, see `pad_views`.

        Args:
            samples: One `MultiViewBatch` of one sample each, or one mapping each with the fields of `MultiViewBatch`
                without the batch axis: `images` [V, 3, H, W], `K`, `R`, `prompts`, `sample_id`, `sample_index`,
                `epoch`; optionally `t`, `view_valid`, `depths`, `known`, `yaw_deg`, `mirrored`, `latents`, `text`,
                `pictures`, `picture_R`, `view_names`, `notes`, `is_copy`.

        Returns:
            The batch, validated by `check`.

        Raises:
            ValueError: Samples differ in image size, epoch or optional fields.
        """
        if not samples:
            raise ValueError("samples must be a non-empty list; got [].")
        items = [_unbatched(sample) if isinstance(sample, MultiViewBatch) else dict(sample) for sample in samples]
        num_views = max(item["images"].shape[0] for item in items)
        items = [pad_views(item, num_views) for item in items]
        first = items[0]
        for item in items[1:]:
            if item["epoch"] != first["epoch"]:
                raise ValueError(f"cannot batch samples of different epochs ({first['epoch']}, {item['epoch']}).")
            if item.keys() != first.keys():
                differing = ", ".join(sorted(item.keys() ^ first.keys()))
                raise ValueError(
                    f"samples must all have the same fields; {first['sample_id']} and {item['sample_id']} differ in "
                    f"{differing}."
                )
            if item["images"].shape != first["images"].shape:
                raise ValueError(
                    f"samples must have images of one size; got {list(first['images'].shape)} in {first['sample_id']} "
                    f"and {list(item['images'].shape)} in {item['sample_id']}."
                )
        batch = {name: _stacked([item[name] for item in items]) for name in first if name in _STACKED}
        return MultiViewBatch(
            **batch,
            prompts=[item["prompts"] for item in items],
            sample_id=[item["sample_id"] for item in items],
            sample_index=torch.tensor([item["sample_index"] for item in items], dtype=torch.long),
            epoch=int(first["epoch"]),
            **{name: [item[name] for item in items] for name in _LISTS if name in first},
            **{
                name: torch.tensor([item[name] for item in items], dtype=dtype)
                for name, dtype in (("yaw_deg", torch.float32), ("mirrored", torch.bool), ("is_copy", torch.bool))
                if name in first
            },
        ).check()


_STACKED = (*_PER_VIEW, "view_valid")


def blank_images(*shape: int) -> Tensor:
    """Return zeros of a shape that take the memory of one number, also when a batch of them travels."""
    return torch.zeros(()).expand(*shape)


def _is_blank(values: Tensor) -> bool:
    return values.ndim > 0 and values.numel() > 0 and not any(values.stride())


def _changed(values: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    if _is_blank(values):
        return change(values[(0,) * values.ndim]).expand(values.shape)
    return change(values)


def _stacked(values: Sequence[Tensor]) -> Tensor:
    if all(map(_is_blank, values)) and len({value.shape for value in values}) == 1:
        return values[0].expand(len(values), *values[0].shape)
    return torch.stack(list(values))


def _unbatched(batch: MultiViewBatch) -> dict[str, Any]:
    if batch.batch_size != 1:
        raise ValueError(f"samples must be batches of one sample; got a batch of {batch.batch_size}.")
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    sample = {name: value[0] for name, value in values.items() if value is not None and name != "epoch"}
    for name in ("sample_index", "yaw_deg", "mirrored", "is_copy"):
        if name in sample:
            sample[name] = sample[name].item()
    return sample | {"epoch": batch.epoch}


def pad_views(sample: Mapping[str, Any], num_views: int) -> dict[str, Any]:
    """Fill in a sample's default `t` and `view_valid`, and pad it with invalid views to `num_views`.

    Added views have zero images, identity cameras and empty prompts.

    Args:
        sample: Mapping without the batch axis, see `MultiViewBatch.collate`.
        num_views: Number of views of the result; at least that of the sample.
    """
    missing = num_views - sample["images"].shape[0]
    sample = {name: value for name, value in sample.items() if value is not None}
    sample.setdefault("t", torch.zeros_like(sample["R"][:, :, 0]))
    sample.setdefault("view_valid", torch.ones(len(sample["images"]), dtype=torch.bool))
    if missing:
        eye = torch.eye(3).expand(missing, 3, 3)
        for name in _STACKED:
            if name in sample:
                value = sample[name]
                padding = eye.to(value) if name in ("K", "R") else value.new_zeros((missing, *value.shape[1:]))
                sample[name] = torch.cat([value, padding])
        sample["prompts"] = list(sample["prompts"]) + [""] * missing
        if "view_names" in sample:
            names = list(sample["view_names"])
            sample["view_names"] = names + [f"padding {view}" for view in range(len(names), num_views)]
    return sample | {"prompts": list(sample["prompts"])}


def view_key(sample_index: int, view: int) -> int:
    """Return the randomness key of a view, from the index of its sample and its index within the sample."""
    return keyed_int("view", sample_index, view)
