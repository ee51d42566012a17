"""Galleries: rows of views, one row for each method."""

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
        rows: Title of a row, such as its method -> its views, [H, W, 3] uint8 each, as many in every row.
        title: Heading.
        labels: Names of the views, such as "45°" (see `view_labels`); by default their numbers.
        captions: One line for each view (its prompt), or any number of lines about all rows.
    """

    rows: Mapping[str, Sequence[object]]
    title: str = ""
    labels: Sequence[str] | None = None
    captions: Sequence[str] = ()
    template: ClassVar[str] = "gallery.html"

    def __post_init__(self) -> None:
        if not self.rows:
            raise ValueError(f"Gallery({self.title!r}).rows must hold a row; got none.")
        count = len(next(iter(self.rows.values()))) if self.labels is None else len(self.labels)
        for title, images in self.rows.items():
            if not len(images) or len(images) != count:
                raise ValueError(
                    f"Gallery({self.title!r}).rows[{title!r}] must hold {count or 'some'} images, one for each view; "
                    f"got {len(images)}."
                )

    @property
    def view_labels(self) -> list[str]:
        """Names of the views, given or numbered."""
        num_views = len(next(iter(self.rows.values())))
        return list(self.labels or (f"view {index}" for index in range(num_views)))

    @property
    def pictures(self) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
        """Title of each row, and (label, image) of its views.

        Raises:
            ValueError: An image is no uint8 image of shape [H, W, 3].
        """
        for title, images in self.rows.items():
            name = f"Gallery({self.title!r}).rows[{title!r}]"
            checked = [checked_image(f"{name}[{index}]", image) for index, image in enumerate(images)]
            yield title, list(zip(self.view_labels, checked, strict=True))

    @property
    def prompts(self) -> list[tuple[str, str]]:
        """Label and caption of each view, if there is one caption for each and they differ; else nothing."""
        by_view = len(self.captions) == len(self.view_labels) and len(set(self.captions)) > 1
        return list(zip(self.view_labels, self.captions, strict=True)) if by_view else []


def view_labels(yaw_deg: Sequence[float], pitch_deg: Sequence[float] | None = None) -> list[str]:
    """Name views by where they look; views that look steeply up or down by that alone.

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
