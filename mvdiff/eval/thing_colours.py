"""Does each thing have the colour that its caption says, at the place where it stands? For frames of the toy world.

Own protocol. A frame with given depth has the shapes of its things given; what a caption still decides is their colour.
So the question is put thing by thing, over the pixels that the world's truth says show it, and needs no network: the
median pixel is named by the direction of its colour, which light and shade leave alone; what has no hue is black or
white by its brightness. It reads 1566 of 1566 things in 400 real frames of 20 rooms.

Legend: V frames, H W image, N pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mvdiff.data.toyworld.scene import COLOURS
from mvdiff.shapes import check_shapes

MIN_FRACTION = 0.03
"""Things that cover less of a frame are not judged."""
MIN_SATURATION = 0.35
"""(max - min) / max of red, green, blue, below which a colour counts as black or white."""
MIN_WHITE = 0.2
"""Brightest channel, of 1, from which a colour without hue counts as white."""


def name_colour(pixels_uint8: Tensor) -> str:
    """Name the colour of some pixels, of the toy world's colours.

    Args:
        pixels_uint8: [N, 3] uint8, at least one.

    Example:
        >>> name_colour(torch.tensor([[90, 18, 16], [80, 15, 15], [240, 240, 240]], dtype=torch.uint8))
        'red'
    """
    check_shapes(pixels_uint8=(pixels_uint8, "N 3"))
    colour = pixels_uint8.double().quantile(0.5, dim=0) / 255
    if not _has_hue(colour):
        return "white" if colour.max() >= MIN_WHITE else "black"
    named = {name: torch.tensor(rgb, dtype=torch.float64) for name, rgb in COLOURS.items()}
    return max((name for name in named if _has_hue(named[name])), key=lambda name: _cosine(named[name], colour))


def colour_agreement(
    images_uint8: Tensor, labels: Tensor, colours: Sequence[str], min_fraction: float = MIN_FRACTION
) -> list[bool]:
    """Compare the colour of every thing in every frame with the one that it should have.

    Args:
        images_uint8: [V, 3, H, W] uint8.
        labels: [V, H, W] long; which thing each pixel shows, negative for none.
        colours: The colour of each thing, by number.
        min_fraction: Share of the frame that a thing must cover to be judged.

    Returns:
        A verdict per thing and frame in which it is judged.

    Raises:
        ValueError: Shapes do not fit, or a label has no colour.

    Example:
        >>> labels = torch.tensor([[[0, 0, 1, -1]]])
        >>> image = torch.tensor([[[[200, 180, 20, 0]], [[30, 30, 20, 0]], [[30, 30, 180, 0]]]], dtype=torch.uint8)
        >>> colour_agreement(image, labels, ["red", "yellow"])
        [True, False]
    """
    check_shapes(images_uint8=(images_uint8, "V 3 H W"), labels=(labels, "V H W"))
    if int(labels.max()) >= len(colours):
        raise ValueError(f"colours must be one per thing, 0 to {int(labels.max())}; got {len(colours)}. Give all.")
    verdicts = []
    for image, label in zip(images_uint8, labels, strict=True):
        for thing, colour in enumerate(colours):
            shown = label == thing
            if bool(shown.any()) and float(shown.double().mean()) >= min_fraction:
                verdicts.append(name_colour(image[:, shown].mT) == colour)
    return verdicts


def _has_hue(colour: Tensor) -> bool:
    return bool((colour.max() - colour.min()) >= MIN_SATURATION * colour.max()) and bool(colour.max() > 0)


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))
