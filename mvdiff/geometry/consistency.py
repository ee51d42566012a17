"""Consistency check of a recording's frames, which reveals wrong poses and intrinsics before fusion.

Own derivation, on correspondences by depth (paper section 4). A pixel with a depth is a point in the world. Where
another frame looks at that point, its depth map either agrees, shows something nearer (the point is hidden, which is
fine), or shows something farther: the frame looks through the point, so one of the two is wrong.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from mvdiff.geometry.depth import (
    DEFAULT_DEPTH_TOLERANCE,
    DepthTolerance,
    depth_at,
    depth_correspondence,
    depths_agree,
    known_depths,
    project_points,
    unproject,
)
from mvdiff.geometry.registration import OTHERS, Placement, colour_correlations, correlation
from mvdiff.geometry.sampling import cell_centres

MIN_AGREEMENT = 0.8
"""Least agreement of an acceptable recording. Measured with `python benchmarks/mesh.py poses`: a real kitchen (Kinect)
0.96, the toy world 0.97; the kitchen with transposed rotations 0.30, with OpenGL axes 0.20, with poses 30 frames late
0.42 and 6 frames late 0.77, with focal lengths 1.3 times too long 0.50 (but 1.1 times: 0.88)."""
MIN_GAIN = 1 / 3
"""Least gain in colour correlation from using the poses, relative to the largest possible gain (from the correlation
without poses up to 1). Measured: the kitchen 0.93, the toy world 0.95; with mirrored images 0.01 and below 0."""
MIN_COLOUR = 0.9
"""Usual colour correlation of colours that are registered to depth. Measured at 160x120: the kitchen 0.95 (stretches of
50 frames 0.85 and more), the toy world 0.98 to 0.99; the kitchen with colours cropped to 16:9 and stretched 0.74 to
0.81, 1.1 times too large 0.83 to 0.86, 5 % of the width beside 0.91 to 0.92. So it decides only with a placement."""
MAX_ERROR_PLACED = 0.6
"""Another placement fits clearly better if it leaves at most this share of the colours' error (1 - correlation).
Measured: whole registered recordings 1.3 and more, stretches of 50 frames 0.72 and more with 16 pairs, 0.50 with 4;
colours of another size, as above, 0.29 to 0.48, the toy world of another size or place 0.20 to 0.44."""
MIN_LACKING = 0.1
"""Colours are judged only if 1 - (their correlation without poses) > MIN_LACKING; otherwise hardly anything moved."""
MIN_COLOUR_PAIRS = 8
"""Least number of pairs with compared colours that suffice to call colours not registered; fewer give a warning."""
MIN_SHARED = 0.01
"""Least share of pixels in compared frames that must have a depth, and that must be visible in the other frame."""
MIN_TURN_DEG, MIN_WAY = 15.0, 0.3
"""Least rotation in degrees, or distance in metres, between compared frames; closer frames agree whatever the poses."""

COMPARED_SIZE = 160
"""Longer side, in pixels, to which callers reduce frames before they compare them: fast, and less noise in colours."""
MIN_USUAL_DEPTH, MAX_USUAL_DEPTH = 0.1, 20.0
"""Range of the median depth in metres; outside of it the unit of the depths is doubtful."""


class Frame(NamedTuple):
    """An image with its depth map and camera."""

    image: Tensor  # [H, W, 3] uint8
    depth: Tensor  # [H, W] z-depth in metres; unknown where not finite and positive
    K: Tensor  # [3, 3] intrinsics in pixels
    R: Tensor  # [3, 3] world-from-camera
    t: Tensor  # [3] camera centre in the world, metres
    name: str = "a frame"  # for error messages


class Frames(Protocol):
    """Frames in recording order: a list, or a lazy reader."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Frame: ...


@dataclass(frozen=True)
class Consistency:
    """Agreement of depths and colours, aggregated over pairs of frames."""

    agreement: float  # points that agree / (points that agree or are looked through), in [0, 1]; NaN without any
    colour: float  # correlation of brightness between points and their projections, averaged over `colour_pairs`
    colour_unmoved: float  # the same against the same pixel of the other frame, as if the camera stood still: chance
    shared: float  # share of all pixels that project into the other frame, where it has a depth
    num_pairs: int
    with_depth: float = 1.0  # share of pixels in the compared frames that have a depth
    colour_placed: float = float("nan")  # highest colour correlation with another placement of the colours
    placement: Placement | None = None  # that placement
    judged: float = float("nan")  # share of all pixels whose points agree or are looked through, not hidden
    median_depth: float = float("nan")  # metres, over the compared frames
    moves: bool = True  # the camera turns or moves far enough for poses to be judged
    colour_pairs: int = 0  # pairs whose brightness varies enough to compare colours

    @property
    def lacks_depth(self) -> bool:
        """Too little depth to judge poses and intrinsics."""
        return self.num_pairs > 0 and self.with_depth < MIN_SHARED

    def __str__(self) -> str:
        if not self.num_pairs:
            return "only one frame, nothing to compare"
        if self.lacks_depth:
            return f"depth at {self.with_depth:.1%} of the pixels in {self.num_pairs} pairs, nothing to compare"
        still = "" if self.moves else "; the camera hardly moves, so its poses are not judged"
        colour = f"colour correlation {self.colour:.3f} (without poses {self.colour_unmoved:.3f})"
        if not np.isfinite(self.colour):
            colour = "brightness varies too little to compare colours,"
        return (
            f"depth agreement {self.agreement:.3f}, {colour} in {self.num_pairs} pairs that share {self.shared:.0%} of "
            f"their pixels{still}"
        )

    def problem(self, real_colours: bool) -> str | None:
        """Describe what is wrong with the recording; None if nothing is.

        Args:
            real_colours: True for photographs. Colours of generated images are not judged, since they may differ even
                with correct poses.
        """
        return self.depth_problem() or (self.colour_problem() if real_colours else None)

    def depth_problem(self) -> str | None:
        """Describe what is wrong with depths, poses or intrinsics; None if nothing is."""
        if not self.num_pairs:
            return None
        if self.lacks_depth:
            return f"its depth is missing (only {self.with_depth:.1%} of the pixels in the compared frames have one)"
        if self.shared < MIN_SHARED:
            return f"its frames do not overlap (they share {self.shared:.1%} of their pixels)"
        if not self.agreement >= MIN_AGREEMENT:
            return f"its depths contradict each other (agreement {self.agreement:.3f}, needed {MIN_AGREEMENT})"
        return None

    def colour_problem(self) -> str | None:
        """Describe what is wrong with the colours of photographs whose depths and poses agree; None if nothing is.

        Colours are not registered if their correlation is below `MIN_COLOUR`, another placement fits clearly better,
        and at least `MIN_COLOUR_PAIRS` pairs were compared. Less evidence gives a `colour_warning`.
        """
        text, is_sure = self._colour_finding()
        return text if is_sure else None

    def colour_warning(self) -> str | None:
        """Describe what may be wrong with the colours; None if nothing is, or if there is a `colour_problem`."""
        text, is_sure = self._colour_finding()
        return None if is_sure else text

    def _colour_finding(self) -> tuple[str | None, bool]:
        """Return what is wrong or may be wrong with the colours, and whether it is sure."""
        lacking = 1 - self.colour_unmoved
        if not lacking > MIN_LACKING:
            return None, False
        if self.colour - self.colour_unmoved < MIN_GAIN * lacking:
            text = f"correlation {self.colour:.3f} with poses, {self.colour_unmoved:.3f} without"
            return f"its poses do not align the colours ({text})", True
        is_better = 1 - self.colour_placed < MAX_ERROR_PLACED * (1 - self.colour)
        better = f", but {self.colour_placed:.3f} if it is taken as {self.placement}" if is_better else ""
        is_low = self.colour < MIN_COLOUR
        if not (is_better or is_low):
            return None, False
        needed = f", needed {MIN_COLOUR}" if is_low else ""
        details = f"colour correlation {self.colour:.3f}{needed}{better}"
        if is_better and is_low and self.colour_pairs >= MIN_COLOUR_PAIRS:
            return f"its colour is not registered to its depth ({details})", True
        return f"its colour may not be registered to its depth ({details}; {self.colour_pairs} pairs compared)", False

    def unusual_depth(self) -> str | None:
        """Describe depths too near or too far for a room; None for usual ones."""
        if not self.num_pairs or not self.with_depth or MIN_USUAL_DEPTH <= self.median_depth <= MAX_USUAL_DEPTH:
            return None
        return f"half of its depths lie {'beyond' if self.median_depth > 1 else 'within'} {self.median_depth:.3g} m"


@torch.no_grad()
def check_consistency(
    frames: Frames,
    poses: tuple[Tensor, Tensor] | None = None,
    num_pairs: int = 16,
    tolerance: DepthTolerance = DEFAULT_DEPTH_TOLERANCE,
    colours: bool = True,
) -> Consistency:
    """Compare pairs of frames spread over the recording.

    Args:
        frames: Images, depths and cameras.
        poses: (R [V, 3, 3], t [V, 3]) of the frames. None reads every frame to get them.
        num_pairs: Largest number of pairs to compare.
        tolerance: Largest difference between depths that agree.
        colours: Compare colours, too, which takes most of the time.
    """
    if poses is None:
        cameras = [frames[index] for index in range(len(frames))]
        poses = torch.stack([one.R for one in cameras]), torch.stack([one.t for one in cameras])
    pairs = frame_pairs(*poses, num_pairs)
    counts, correlations, known_and_all, depths = np.zeros(4), [], np.zeros(2), []
    for source, target in pairs:
        pair = frames[source], frames[target]
        count, colour = compare(*pair, tolerance, colours)
        counts += count
        for one in pair:
            depth, known = known_depths(one.depth)
            known_and_all += float(known.sum()), depth.numel()
            depths.append(depth[known])
        correlations.append(colour)
    agree, through, shared, pixels = counts.tolist()
    judged = agree + through
    known = [values for values in correlations if np.isfinite(values).all()]
    averages = np.mean(known, axis=0) if known else np.full(2 + len(OTHERS), np.nan)
    colour, unmoved, *placed = averages.tolist()
    best = int(np.argmax(placed))
    return Consistency(
        agreement=agree / judged if judged else float("nan"),
        colour=colour,
        colour_unmoved=unmoved,
        shared=shared / pixels if pixels else 0.0,
        num_pairs=len(pairs),
        with_depth=known_and_all[0] / max(1, known_and_all[1]),
        colour_placed=placed[best],
        placement=OTHERS[best],
        judged=judged / pixels if pixels else 0.0,
        median_depth=float(torch.cat(depths).median()) if known_and_all[0] else float("nan"),
        moves=any(bool(_far(*poses, first)[second - first - 1]) for first, second in pairs),
        colour_pairs=len(known),
    )


def frame_pairs(R: Tensor, t: Tensor, num_pairs: int) -> list[tuple[int, int]]:
    """Pair frames with the first later frame from which the camera has turned or moved far enough.

    Far enough is `MIN_TURN_DEG` degrees or `MIN_WAY` metres.

    Args:
        R: [V, 3, 3] world-from-camera.
        t: [V, 3] camera centres, metres.
        num_pairs: Largest number of pairs; their first frames are spread evenly.

    Returns:
        (earlier, later) indices; the first and last frame if the camera never moves far enough, none for one frame.

    Example:
        >>> t = torch.tensor([[0.0, 0, 0], [0.2, 0, 0], [0.4, 0, 0]])
        >>> frame_pairs(torch.eye(3).expand(3, 3, 3), t, num_pairs=5)
        [(0, 2)]
    """
    pairs = []
    for first in np.unique(np.linspace(0, max(len(R) - 2, 0), num_pairs).round().astype(int)).tolist():
        far = _far(R, t, first)
        if bool(far.any()):
            pairs.append((first, first + 1 + int(far.int().argmax())))
    return pairs or ([(0, len(R) - 1)] if len(R) > 1 else [])


def _far(R: Tensor, t: Tensor, first: int) -> Tensor:
    """Return [V - first - 1] bool: the frames after `first` from which the camera has turned or moved far enough."""
    R, t = R.double(), t.double()
    cosine = ((R[first] * R[first + 1 :]).sum(dim=(1, 2)) - 1) / 2
    turned = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    return (turned >= MIN_TURN_DEG) | ((t[first + 1 :] - t[first]).norm(dim=1) >= MIN_WAY)


def compare(
    source: Frame, target: Frame, tolerance: DepthTolerance, colours: bool = True
) -> tuple[np.ndarray, list[float]]:
    """Compare the pixels of a source frame with a target frame.

    Returns:
        [4] counts of source pixels: whose point agrees with the target's depth; whose point the target looks through;
        whose point projects to a target pixel with a depth; all. Then correlations of brightness over the pixels that
        agree: with their projections in the target, with the same pixels of the target, and with their projections for
        each of `registration.OTHERS`. A correlation is NaN if no pixel agrees, brightness varies too little, or
        `colours` is False.
    """
    cameras = (source.K, source.R, source.t), (target.K, target.R, target.t)
    xy, visible = depth_correspondence(source.depth, *cameras[0], target.depth, *cameras[1], tolerance=None)
    points = unproject(cell_centres(*source.depth.shape, 1), known_depths(source.depth)[0], *cameras[0])
    _, z, _ = project_points(points, *cameras[1], *target.depth.shape)
    target_depth = depth_at(target.depth[None], torch.zeros(z.shape, dtype=torch.long), xy).double()
    seen = visible & (target_depth > 0)
    agree = seen & depths_agree(z, target_depth, tolerance)
    through = seen & ~agree & (z < target_depth)
    counts = np.array([float(mask.sum()) for mask in (agree, through, seen)] + [float(seen.numel())])
    if not colours or source.image.shape != target.image.shape:
        return counts, [float("nan")] * (2 + len(OTHERS))
    source_grey, target_grey = (frame.image.double().mean(dim=-1) for frame in (source, target))
    source_xy = cell_centres(*source.depth.shape, 1)[agree].to(xy.dtype)
    moved, *placed = colour_correlations(source_grey, target_grey, source_xy, xy[agree])
    return counts, [moved, correlation(source_grey[agree], target_grey[agree]), *placed]
