"""Galleries: rows of views, one row per method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mvdiff.report.blocks import Block
from mvdiff.report.images import checked_image


@dataclass(frozen=True)
class Gallery(Block):
    """Views of one sample in rows, aligned by view.

    Attributes:
        rows: Maps the title of each row, such as the method, to its views, [H, W, 3] uint8 each; all rows have equally
            many.
        title: Heading.
        labels: Names of the views, such as "45°" (see `view_labels`); default: "view 0", "view 1", ...
        captions: One line per view (its prompt), or any number of lines about all rows.
    """

    rows: Mapping[str, Sequence[object]]
    title: str = ""
    labels: Sequence[str] | None = None
    captions: Sequence[str] = ()
    template: ClassVar[str] = "gallery.html"

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError(f"Gallery({self.title!r}).rows must have at least one row; got none.")
        count = len(next(iter(self.rows.values()))) if self.labels is None else len(self.labels)
        for title, images in self.rows.items():
            if not len(images) or len(images) != count:
                raise ValueError(
                    f"Gallery({self.title!r}).rows[{title!r}] must have one image per view ({count or 'at least 1'}); "
                    f"got {len(images)}."
                )

    @property
    def view_labels(self) -> list[str]:
        """Names of the views: `labels`, or numbers."""
        num_views = len(next(iter(self.rows.values())))
        return list(self.labels or (f"view {index}" for index in range(num_views)))

    @property
    def pictures(self) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
        """Title of each row, and (label, image) of its views.

        Raises:
            ValueError: An image is not a uint8 array [H, W, 3].
        """
        for title, images in self.rows.items():
            name = f"Gallery({self.title!r}).rows[{title!r}]"
            checked = [checked_image(f"{name}[{index}]", image) for index, image in enumerate(images)]
            yield title, list(zip(self.view_labels, checked, strict=True))

    @property
    def prompts(self) -> list[tuple[str, str]]:
        """(label, caption) of each view; empty unless there is one caption per view and they differ."""
        by_view = len(self.captions) == len(self.view_labels) and len(set(self.captions)) > 1
        return list(zip(self.view_labels, self.captions, strict=True)) if by_view else []


def view_labels(yaw_deg: Sequence[float], pitch_deg: Sequence[float] | None = None) -> list[str]:
    """Name views by their direction in degrees; views with a pitch beyond 60 degrees are "up" or "down".

    >>> view_labels([0, 45, 0], [0, 0, 90])
    ['0°', '45°', 'up']
    """
    labels = []
    for index, yaw in enumerate(yaw_deg):
        pitch = 0.0 if pitch_deg is None else float(pitch_deg[index])
        if abs(pitch) > 60:
            labels.append("up" if pitch > 0 else "down")
        else:
            labels.append(f"{float(yaw):g}°" + (f", {pitch:+g}°" if pitch else ""))
    return labels
