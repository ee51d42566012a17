"""View strips, and the panoramas that the 360-degree viewer shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from mvdiff.report.images import checked_image, data_uri, is_pixelated, paint_uncovered
from mvdiff.report.markup import Html, tag


@dataclass(frozen=True)
class Strip:
    """The views of one sample in a row.

    Attributes:
        title: What stands left of the row: the method.
        caption_lines: One line for each view (its prompt), or any number of lines about the whole row.
        images: The views, [H, W, 3] uint8 each.
        view_labels: What stands above each view, such as "45°" (see `view_labels`); by default its number.
        group: Consecutive strips of one group stand in one frame, aligned by view, under this heading.
    """

    title: str
    caption_lines: Sequence[str]
    images: Sequence[object]
    view_labels: Sequence[str] | None = None
    group: str = ""

    def __post_init__(self) -> None:
        if not len(self.images):
            raise ValueError(f"Strip({self.title!r}).images must hold an image; got none.")
        if self.view_labels is not None and len(self.view_labels) != len(self.images):
            raise ValueError(
                f"Strip({self.title!r}).view_labels must have one label for each of {len(self.images)} images; "
                f"got {len(self.view_labels)}."
            )

    @property
    def labels(self) -> list[str]:
        """The labels of the views, given or numbered."""
        return list(self.view_labels or (f"view {index}" for index in range(len(self.images))))


@dataclass(frozen=True)
class PanoramaEntry:
    """One scene of the viewer, as several methods made it.

    Attributes:
        title: Name below its thumbnail.
        captions: Its prompts, shown beside the viewer.
        methods: Method name -> panorama: [H, 2 H, 3] uint8 equirectangular (centre yaw 0, yaw grows right, row 0 up),
            or (panorama, covered) with covered [H, 2 H] bool; what is not covered is shown in grey. The first method's
            image is the thumbnail.
    """

    title: str
    captions: Sequence[str]
    methods: Mapping[str, object]

    def __post_init__(self) -> None:
        if not self.methods:
            raise ValueError(f"PanoramaEntry({self.title!r}).methods must hold a panorama; got none.")


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


def _strip_rows(strip: Strip) -> list[Html]:
    row = [tag("div", strip.title, class_="strip-title")]
    for index, (label, image) in enumerate(zip(strip.labels, strip.images, strict=True)):
        array = checked_image(f"Strip({strip.title!r}).images[{index}]", image)
        look = "pixelated" if is_pixelated(array) else None
        alt = f"{strip.title}, {label}"
        size = {"width": array.shape[1], "height": array.shape[0]}
        row.append(tag("img", src=data_uri(array), alt=alt, title=alt, class_=look, loading="lazy", **size))
    return row


def _prompts(strip: Strip) -> Html | None:
    lines = list(strip.caption_lines)
    if len(lines) == len(strip.images) and len(set(lines)) > 1:
        entries = [
            tag("li", tag("b", label), " ", line) for label, line in zip(strip.labels, lines, strict=True)
        ]  # fmt: skip
        return tag("details", tag("summary", f"{len(lines)} prompts, one for each view"), tag("ul", entries))
    return _notes(list(dict.fromkeys(lines)))


def _notes(lines: Sequence[str]) -> Html | None:
    """Write lines as notes, or nothing if there are none."""
    return tag("div", [tag("p", line, class_="note") for line in lines]) if lines else None


def strip_figures(strips: Sequence[Strip]) -> list[Html]:
    """Draw strips, one frame for each run of strips with the same group and the same views.

    Raises:
        ValueError: If an image is no uint8 image of shape [H, W, 3].
    """
    figures = []
    for (group, labels), run in groupby(strips, key=lambda strip: (strip.group, tuple(strip.labels))):
        members = list(run)
        header = [tag("span"), [tag("span", label, class_="view-label") for label in labels]]
        rows = [part for strip in members for part in _strip_rows(strip)]
        captioned = next((strip for strip in members if strip.caption_lines), members[0])
        figures.append(
            tag(
                "figure",
                tag("figcaption", group) if group else None,
                tag(
                    "div",
                    tag("div", header, rows, class_="strips", style=f"--views: {len(labels)}"),
                    class_="scroll",
                    tabindex=0,
                ),
                _prompts(captioned),
                class_="card",
            )
        )
    return figures


def panorama_payload(panoramas: Sequence[PanoramaEntry]) -> str:
    """Write what the viewer needs as JSON that may stand inside a `<script>` element.

    Raises:
        ValueError: If a panorama is no uint8 image [H, 2 H, 3], or its mask has another size.
    """
    entries = []
    for entry in panoramas:
        methods = []
        for method, value in entry.methods.items():
            name = f"PanoramaEntry({entry.title!r}).methods[{method!r}]"
            image, covered = value if isinstance(value, tuple | list) else (value, None)
            array = checked_image(name, image)
            if array.shape[1] != 2 * array.shape[0]:
                raise ValueError(
                    f"{name} must be twice as wide as high; got {array.shape[1]} x {array.shape[0]} pixels."
                )
            painted = paint_uncovered(array, covered, f"{name} covered")
            methods.append({"name": method, "image": data_uri(painted)})
        entries.append({"title": entry.title, "captions": list(entry.captions), "methods": methods})
    return json.dumps(entries).replace("<", "\\u003c")


def viewer_section(panoramas: Sequence[PanoramaEntry]) -> Html:
    """Draw the frame that viewer.js fills, and the panoramas for it."""
    readout = [
        tag("output", class_="readout", aria_live="off"),
        tag("button", "Reset", type="button", data_action="reset", title="Look at yaw 0 again (Home)"),
        tag("button", "Full screen", type="button", data_action="fullscreen"),
    ]
    return tag(
        "div",
        tag(
            "div",
            tag("canvas", tabindex=0, role="img", aria_label="360-degree view; arrow keys turn, plus and minus zoom"),
            tag("div", class_="methods", role="group", aria_label="Method"),
            tag("div", readout, class_="status"),
            class_="stage",
        ),
        tag(
            "div",
            tag("div", tag("img", alt="The whole panorama"), tag("i"), class_="flat", title="Click to look there"),
            tag("div", tag("div", tabindex=0), class_="captions"),
            class_="below",
        ),
        tag("div", class_="thumbnails", role="group", aria_label="Panorama"),
        tag("noscript", tag("p", "The 360-degree viewer needs JavaScript.", class_="note")),
        tag(
            "p",
            "Drag, or use the arrow keys, to look around; wheel, pinch or + and − to zoom; number keys switch the "
            "method without moving the view. Grey: seen by no view.",
            class_="note",
        ),
        tag("script", Html(panorama_payload(panoramas)), type="application/json"),
        class_="viewer card",
        id="viewer",
    )
