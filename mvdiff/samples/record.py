"""Content of `sample.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mvdiff.files.paths import same_name
from mvdiff.geometry.cameras import Rig
from mvdiff.samples.record_checks import check_record
from mvdiff.shapes import check_shapes

SCHEMA_VERSION = 1
RECORD_NAME = "sample.json"


@dataclass(frozen=True)
class SampleRecord:
    """Description of one sample: the content of `sample.json`.

    Args:
        sample_id: Name of the sample, unique within its root; brought into NFC.
        prompts: One prompt per view, without the prefix that the model adds.
        rig: `Rig.to_dict()` of the views, or None if `cameras` is set.
        cameras: `{"height", "width", "views": [{"K": 3x3, "R": 3x3}, ...]}`, or None. Views that do not share a centre
            also have `"t": [x, y, z]`, the camera centre in the world, metres.
        seed: Seed of the noise; None for images that were not sampled (ground truth).
        settings: Further settings that shaped the images (steps, guidance, model, ...). Optional entries that
            evaluation and reports read: `"truth"`, labels of each view (a dict or None per view) for caption
            agreement; `"frames"` and `"key_frames"`, numbers or names of a recording's frames; `"covered"`, the share
            of each view that an imported partial panorama shows: a view is unknown where `given/<i>.png` is
            transparent.
        versions: Library versions.
        schema_version: Version of this format.
    """

    sample_id: str
    prompts: list[str]
    rig: dict[str, Any] | None = None
    cameras: dict[str, Any] | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        object.__setattr__(self, "sample_id", same_name(self.sample_id))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = RECORD_NAME) -> SampleRecord:
        """Build a record from parsed JSON.

        Args:
            values: The parsed JSON.
            where: File named in errors.

        Raises:
            ValueError: The schema version differs, a key is unknown or missing, or a field is invalid (see
                `mvdiff.samples.record_checks.check_record`).
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} must hold a JSON object; got {type(values).__name__}.")
        version = values.get("schema_version")
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"schema_version must be {SCHEMA_VERSION}; got {version!r}, in {where}. "
                "Read the sample with the mvdiff version that wrote it, or generate it again."
            )
        known = set(cls.__dataclass_fields__)
        unknown, missing = sorted(set(values) - known), sorted({"sample_id", "prompts"} - set(values))
        if unknown or missing:
            raise ValueError(
                f"sample record must have the keys of schema {SCHEMA_VERSION}; unknown: {unknown}, missing: {missing}, "
                f"in {where}. Generate the sample again."
            )
        check_record(values, where)
        return cls(**values)

    def camera_tensors(self) -> tuple[Tensor, Tensor, int, int]:
        """Return the sample's cameras.

        Returns:
            `(K, R, height, width)`: [V, 3, 3] intrinsics in pixels and [V, 3, 3] world-from-camera rotations, both
            float32, and the image size in pixels to which K refers.

        Raises:
            ValueError: The record has neither a rig nor cameras.
        """
        if self.cameras is not None:
            K = torch.tensor([view["K"] for view in self.cameras["views"]], dtype=torch.float32)
            R = torch.tensor([view["R"] for view in self.cameras["views"]], dtype=torch.float32)
            return K, R, int(self.cameras["height"]), int(self.cameras["width"])
        if self.rig is not None:
            rig = Rig.from_dict(self.rig)
            return *rig.cameras(), rig.height, rig.width
        raise ValueError(
            f"sample {self.sample_id!r} must have a rig or cameras; got neither. Pass a rig when reading it."
        )

    def first_view(self) -> tuple[float, float]:
        """Return yaw and pitch of view 0 in degrees; without a rig 0, 0."""
        return (0.0, 0.0) if self.rig is None else tuple(self.rig["views"][0][:2])

    def translations(self) -> Tensor | None:
        """Return the camera centres in the world, [V, 3] float32 in metres; None if all views share one.

        Raises:
            ValueError: Only some views have a centre.
        """
        views = [] if self.cameras is None else self.cameras["views"]
        centres = [view["t"] for view in views if view.get("t") is not None]
        if not centres:
            return None
        if len(centres) != len(views):
            raise ValueError(
                f"cameras must have t for every view or for none; got {len(centres)} of {len(views)}, in sample "
                f"{self.sample_id!r}. Generate the sample again."
            )
        return torch.tensor(centres, dtype=torch.float32)


def camera_record(K: Tensor, R: Tensor, t: Tensor, height: int, width: int) -> dict[str, Any]:
    """Convert camera tensors to the value of `SampleRecord.cameras`.

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera.
        t: [V, 3] camera centres in the world, metres.
        height: Image height in pixels.
        width: Image width in pixels.

    Example:
        >>> camera_record(torch.eye(3)[None], torch.eye(3)[None], torch.zeros(1, 3), 6, 8)["views"][0]["t"]
        [0.0, 0.0, 0.0]
    """
    check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"), t=(t, "V 3"))
    views = [{"K": k, "R": r, "t": c} for k, r, c in zip(K.tolist(), R.tolist(), t.tolist(), strict=True)]
    return {"height": int(height), "width": int(width), "views": views}
