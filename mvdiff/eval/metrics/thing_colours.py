"""Thing colours: share of objects in toy walks that have the colour named in their caption.

Own protocol. The depth of a frame fixes the shapes of its objects ("things"), so the caption only decides their colour.
Each object is judged without a network, over the pixels that show it according to the toy world's ground truth. The RGB
direction of the median pixel, which lighting hardly changes, selects the colour; a median without hue is black or white
by its brightness. The protocol identifies 1566 of 1566 objects in 400 real frames of 20 rooms.

Axes: V frames, H x W image, N pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from mvdiff.data.toyworld.scene import COLOURS
from mvdiff.eval.metric import Column, MissingMetricError, PerSampleMetric, Result, check_finite
from mvdiff.eval.sample import ScoredSample
from mvdiff.shapes import check_shapes

MIN_FRACTION = 0.03
"""Least share of a frame that an object must cover to be judged."""
MIN_SATURATION = 0.35
"""Least saturation, (max - min) / max over RGB, of a colour with hue; colours below are black or white."""
MIN_WHITE = 0.2
"""Least maximum over RGB, in [0, 1], of white; darker colours without hue are black."""


class ThingColours(PerSampleMetric):
    """Share of objects whose median pixel has the captioned colour.

    Args:
        things: By sample id, the object index at each pixel, long [V, H, W] and negative for none, and the true colour
            of each object.
        **options: See `SampleMetric`.
    """

    name = "thing_colours"
    columns = (Column("thing_colours", "things of the captioned colour", "share", higher_is_better=True, digits=3),)
    needs: ClassVar = {
        "things": "no sample has known objects. Pass `things` from Python, as the depth quickstart does."
    }
    model = "ray-traced places"
    variant = (
        f"share of things, of at least {100 * MIN_FRACTION:.0f} % of a frame, whose middle pixel has the captioned "
        "colour; mean of samples"
    )
    totals = ("num_things",)

    def __init__(self, *, things: Mapping[str, tuple[Tensor, Sequence[str]]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.things = things or {}

    def measure(self, sample: ScoredSample) -> dict[str, float]:
        """Judge the objects of a sample; a sample not in `things` has no number."""
        if sample.sample_id not in self.things:
            return {}
        check_finite(images=sample.images_uint8)
        verdicts = colour_agreement(sample.images_uint8, *self.things[sample.sample_id])
        return {"thing_colours": float(np.mean(verdicts)), "num_things": len(verdicts)} if verdicts else {}

    def compute(self) -> dict[str, Result | MissingMetricError]:
        """Average over samples."""
        if not self.rows("numbers", real=False).samples:
            raise MissingMetricError(self.needs["things"])
        return super().compute()


def name_colour(pixels_uint8: Tensor) -> str:
    """Return the toy-world colour name closest to the median of pixels [N, 3] uint8, N at least 1.

    Example:
        >>> name_colour(torch.tensor([[90, 18, 16], [80, 15, 15], [240, 240, 240]], dtype=torch.uint8))
        'red'
    """
    check_shapes(pixels_uint8=(pixels_uint8, "N 3"))
    colour = pixels_uint8.double().quantile(0.5, dim=0) / 255
    if not _has_hue(colour):
        return "white" if colour.max() >= MIN_WHITE else "black"
    named = {name: torch.tensor(rgb, dtype=torch.float64) for name, rgb in COLOURS.items()}
    hues = [name for name in named if _has_hue(named[name])]
    return max(hues, key=lambda name: float(cosine_similarity(named[name], colour, dim=0)))


def colour_agreement(
    images_uint8: Tensor, labels: Tensor, colours: Sequence[str], min_fraction: float = MIN_FRACTION
) -> list[bool]:
    """Compare the colour of every object in every frame with its true colour.

    Args:
        images_uint8: [V, 3, H, W] uint8.
        labels: [V, H, W] long, index of the object at each pixel; negative for none.
        colours: True colour of each object.
        min_fraction: Least share of a frame that an object must cover to be judged.

    Returns:
        One verdict per frame and judged object.

    Raises:
        ValueError: Shapes do not match, or a label has no colour.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1, -1]]])
        >>> image = torch.tensor([[[[200, 180, 20, 0]], [[30, 30, 20, 0]], [[30, 30, 180, 0]]]], dtype=torch.uint8)
        >>> colour_agreement(image, labels, ["red", "yellow"])
        [True, False]
    """
    check_shapes(images_uint8=(images_uint8, "V 3 H W"), labels=(labels, "V H W"))
    if int(labels.max()) >= len(colours):
        raise ValueError(f"colours must hold one name per object 0 to {int(labels.max())}; got {len(colours)}.")
    verdicts = []
    for image, label in zip(images_uint8, labels, strict=True):
        for thing, colour in enumerate(colours):
            mask = label == thing
            if bool(mask.any()) and float(mask.double().mean()) >= min_fraction:
                verdicts.append(name_colour(image[:, mask].mT) == colour)
    return verdicts


def _has_hue(colour: Tensor) -> bool:
    return bool(colour.max() > 0 and colour.max() - colour.min() >= MIN_SATURATION * colour.max())
