"""Agreement of a recording's depths, poses and colours; where they disagree, the likely cause and what mends it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace

from mvdiff.data.recorded_frames import Recording, ReducedFrames, SceneFrames
from mvdiff.data.recordings import RecordingSource
from mvdiff.files.images import stored_size
from mvdiff.geometry.causes import Cause, likely_cause
from mvdiff.geometry.consistency import MAX_USUAL_DEPTH, MIN_USUAL_DEPTH, Consistency, check_consistency

DISAGREE = "depths and poses disagree"
NOT_REGISTERED = "colour is not registered to depth"
MISSING = "hardly any depth"
COLOURS_DISAGREE = "colours do not fit depths and poses"
DOUBTFUL_DEPTH, DOUBTFUL_COLOUR = "doubtful depth", "doubtful colour"
NUM_PAIRS = 16
"""Most pairs of frames to compare in a scene."""
_MAX_ASPECT_DIFFERENCE = 0.03  # ScanNet's 1296x968 beside 640x480 differ by 0.4 %, 5:4 beside 4:3 by 6 %
_UNIT_SCALES = (10, 1 / 10, 2, 1 / 2, 4, 1 / 4, 5, 1 / 5, 5 / 4, 4 / 5)
"""Scales of depth images in units of 0.1, 0.2, 0.25, 0.5 or 1 mm read as another of these."""


@dataclass(frozen=True)
class Agreement:
    """Result of `measure_agreement`.

    Attributes:
        consistency: Measurements.
        problems: Kind and details of what is wrong: `DISAGREE`, `NOT_REGISTERED` (aspect ratios), `MISSING` or
            `COLOURS_DISAGREE`.
        warnings: Kind and details of what may be wrong: `DOUBTFUL_DEPTH` or `DOUBTFUL_COLOUR`.
    """

    consistency: Consistency
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    @property
    def problem(self) -> str:
        """All problems in one text; "" if there is none."""
        return "; ".join(f"{kind} ({details})" for kind, details in self.problems)

    @property
    def warning_texts(self) -> list[str]:
        """Warnings without their kinds."""
        return [details for _, details in self.warnings]

    def with_doubtful_colours(self) -> Agreement:
        """Return the same with colours that disagree as a warning."""
        colours = [(DOUBTFUL_COLOUR, details) for kind, details in self.problems if kind == COLOURS_DISAGREE]
        problems = [problem for problem in self.problems if problem[0] != COLOURS_DISAGREE]
        return replace(self, problems=problems, warnings=self.warnings + colours)


def scene_agreement(scene: RecordingSource, numbers: list[int] | None = None, num_pairs: int = NUM_PAIRS) -> Agreement:
    """Measure the agreement of a recording's usable frames, or of some of them.

    Raises:
        FileNotFoundError: A file of a frame is missing.
        ValueError: A file is broken, or there is no usable frame.
    """
    return measure_agreement(SceneFrames(scene, numbers), scene, num_pairs=num_pairs)


def measure_agreement(
    frames: Recording, scene: RecordingSource | None = None, real_colours: bool = True, num_pairs: int = NUM_PAIRS
) -> Agreement:
    """Compare pairs of frames, and look for the cause if they disagree.

    Args:
        frames: The frames; they are compared at a reduced size.
        scene: Recording that they come from, which knows what mends a wrong unit; None for generated samples.
        real_colours: Judge colours, too; False for generated images.
        num_pairs: Most pairs of frames to compare.

    Raises:
        FileNotFoundError: A file of a frame is missing.
        ValueError: A file is broken.
    """
    reduced, poses = ReducedFrames(frames), frames.poses()
    found = check_consistency(reduced, poses, num_pairs)
    problems, warnings = [], []
    aspects = registration_problem(scene) if scene is not None and real_colours else None
    cause = None
    if wrong := found.depth_problem():
        if found.lacks_depth:
            problems.append((MISSING, wrong))
        else:
            cause = likely_cause(reduced, poses)
            problems.append((DISAGREE, f"{wrong}; {_explained(cause, found, scene)}"))
    if aspects:
        problems.append((NOT_REGISTERED, aspects))
    elif real_colours and not wrong and (colours := found.colour_problem()):
        problems.append((COLOURS_DISAGREE, f"{colours}; warp one to the camera of the other"))
    elif real_colours and not wrong and (colours := found.colour_warning()):
        warnings.append((DOUBTFUL_COLOUR, colours))
    if (unusual := found.unusual_depth()) and cause is None:
        unit = "" if scene is None else f" (read as {scene.depth_units_per_metre:g} units a metre)"
        warnings.append((DOUBTFUL_DEPTH, f"{unusual}; is the unit of its depth images right{unit}?"))
    return Agreement(found, problems, warnings)


def registration_problem(scene: RecordingSource) -> str | None:
    """Describe colour images of another aspect ratio than the depth images; None if they have the same.

    Only the first readable colour image is looked at.
    """
    for number in scene.frames[:3]:
        with suppress(ValueError, FileNotFoundError):
            try:
                width, height = stored_size(scene.file("color", number))
            except (ValueError, FileNotFoundError):  # a layout may hold its images otherwise
                height, width = scene.load_image(number).shape[1:]
            depth_height, depth_width = scene.depth_size
            ratio = width * depth_height / (height * depth_width)
            if abs(ratio - 1) <= _MAX_ASPECT_DIFFERENCE:
                return None
            return (
                f"colour is {width}x{height}, depth is {depth_width}x{depth_height}: their aspect ratios differ, so "
                "they do not show the same part of the scene"
            )
    return None


def _explained(cause: Cause | None, found: Consistency, scene: RecordingSource | None) -> str:
    """Describe a cause and what mends it."""
    if cause is None:
        return (
            "no other axes, inverse or unit of its poses makes them agree: poses may be of other frames, or intrinsics "
            "of another image size"
        )
    texts, remedies = [], []
    if cause.convention:
        text, remedy = _of_poses(cause.convention, "OpenCV" if scene is None else scene.stored_axes)
        texts.append(text)
        remedies.append(remedy)
    if cause.scale != 1:
        text, remedy = _of_units(cause.scale, found.median_depth, scene)
        texts.append(text)
        remedies.append(remedy)
    return (
        f"likely cause: {' and '.join(texts)} (agreement is then {cause.consistency.agreement:.3f}); "
        f"{' and '.join(remedies)}"
    )


def _of_poses(convention: str, stored_axes: str) -> tuple[str, str]:
    """Return the mistake in the poses and its remedy, for files whose cameras should have the stored axes."""
    other = "OpenGL" if stored_axes == "OpenCV" else "OpenCV"
    turn = " @ diag(1, -1, -1, 1)"
    if convention == "opengl":
        return f"its poses have {other} axes, not {stored_axes}'s", f"replace each pose by pose{turn}"
    if convention == "scalar_first":
        return "its quaternions are (qw, qx, qy, qz)", "store them as (qx, qy, qz, qw)"
    if convention == "transposed":
        return "the rotations of its poses are transposed", "transpose them"
    # the reader of OpenGL poses turns them before they are inverted here, so the two inverses change places
    turned = (convention == "inverse_opengl") == (stored_axes == "OpenCV")
    axes = f" in {other} axes" if turned else ""
    return f"its poses are camera-from-world{axes}", f"replace each pose by inv(pose){turn if turned else ''}"


def _of_units(scale: float, median_depth: float, scene: RecordingSource | None) -> tuple[str, str]:
    """Return the unit that is wrong and its remedy, if translations are too small by `scale` relative to depths.

    The depths are blamed for the common ratios of their units, and where they lie too far or too near for a room.
    """
    usual = MIN_USUAL_DEPTH <= median_depth <= MAX_USUAL_DEPTH
    corrected = MIN_USUAL_DEPTH <= median_depth / scale <= MAX_USUAL_DEPTH
    if scale in _UNIT_SCALES if usual == corrected else corrected:
        if scene is None:
            return f"its depths are {scale:g} times too far", f"divide them by {scale:g}"
        read = scene.depth_units_per_metre
        text = f"its depth images have units of {1000 / (read * scale):g} mm and are read as {1000 / read:g} mm"
        return text, scene.depth_unit_advice(read * scale)
    unit = {1000: "kilometres", 1 / 1000: "millimetres", 1 / 100: "centimetres"}.get(scale)
    text = f"in {unit}" if unit else f"{scale:g} times too small" if scale > 1 else f"{1 / scale:g} times too large"
    advice = f"multiply them by {scale:g}" if scene is None else scene.translation_advice(scale)
    return f"the translations of its poses are {text}", advice
