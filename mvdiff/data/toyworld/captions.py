"""Captions of toy views, and the facts from which they are judged.

A caption names every object ("thing") that covers at least 1.5 % of the view, starting with the one closest to the
middle. The facts name the object in the middle only if it covers at least 3 %, so that judges are asked only what the
image can answer.

`labels` are the [H, W] labels of a view's pixels from `mvdiff.data.toyworld.render.trace`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mvdiff.data.toyworld.render import CEILING, FLOOR, WALL, WINDOW
from mvdiff.data.toyworld.scene import COLOURS, FLOORS, KINDS, WALLS, Scene

NONE = "none"
JUDGED_HEADS: Mapping[str, tuple[str, ...]] = {
    "object": (NONE, *KINDS),
    "colour": (NONE, *COLOURS),
    "walls": tuple(WALLS),
}
NAMED_FRACTION, JUDGED_FRACTION = 0.015, 0.03
MIDDLE = 0.4  # a thing is in the middle if its centroid lies in the middle 40 % of the width


def _places(labels: np.ndarray) -> list[tuple[int, float, float]]:
    """Return (thing index, covered fraction, centroid in [-1, 1]) of each visible thing, middle first."""
    width = labels.shape[1]
    columns = np.broadcast_to((2 * np.arange(width) + 1) / width - 1, labels.shape)
    seen = []
    for index in np.unique(labels[labels >= 0]):
        mask = labels == index
        seen.append((int(index), float(mask.mean()), float(columns[mask].mean())))
    return sorted(seen, key=lambda item: abs(item[2]))


def describe(scene: Scene, labels: np.ndarray) -> str:
    """Return the caption of a level view, which always shows walls and floor."""
    return ", ".join([*_things(scene, labels), f"{scene.wall_colour} walls", f"{scene.floor} floor"])


def describe_steep(scene: Scene, labels: np.ndarray) -> str:
    """Return the caption of a view up or down, which names only visible surfaces."""
    surfaces = ((CEILING, "the ceiling"), (WALL, f"{scene.wall_colour} walls"), (FLOOR, f"{scene.floor} floor"))
    seen = [name for label, name in surfaces if (labels == label).mean() >= NAMED_FRACTION]
    return ", ".join([*_things(scene, labels), *seen])


def _things(scene: Scene, labels: np.ndarray) -> list[str]:
    """Describe the visible things and their positions, middle first, then a window."""
    parts = []
    for index, fraction, where in _places(labels):
        if fraction < NAMED_FRACTION:
            continue
        place = "in the middle" if abs(where) < MIDDLE else ("on the left" if where < 0 else "on the right")
        thing = scene.things[index]
        parts.append(f"a {thing.colour} {thing.kind} {place}")
    if (labels == WINDOW).mean() >= NAMED_FRACTION:
        parts.append("a window")
    return parts


def facts(scene: Scene, labels: np.ndarray) -> dict[str, str]:
    """Return the true labels of a view: kind and colour of the object in the middle, and colour of the walls.

    Returns:
        `{"object": ..., "colour": ..., "walls": ...}`; the first two are `NONE` if no thing is clearly in the middle.
    """
    middle = [p for p in _places(labels) if p[1] >= JUDGED_FRACTION and abs(p[2]) < MIDDLE]
    kind, colour = NONE, NONE
    if middle:
        thing = scene.things[max(middle, key=lambda p: p[1])[0]]
        kind, colour = thing.kind, thing.colour
    return {"object": kind, "colour": colour, "walls": scene.wall_colour}


def vocabulary() -> list[str]:
    """Return all words that captions can contain, for the toy tokenizer."""
    words = "a an the in on middle left right window walls floor ceiling , . this is one view of scene room with and"
    return [*words.split(), *KINDS, *COLOURS, *WALLS, *FLOORS]
