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
from mvdiff.geometry.sampling import cell_centres, sample_bilinear

MIN_AGREEMENT = 0.8
"""Least agreement of an acceptable recording. Measured with `python benchmarks/mesh.py poses`: a real kitchen (Kinect)
0.96, the toy world 0.97; the kitchen with transposed rotations 0.30, with OpenGL axes 0.20, with poses 30 frames late
0.42 and 6 frames late 0.77, with focal lengths 1.3 times too long 0.50 (but 1.1 times: 0.88)."""
MIN_GAIN = 1 / 3
"""Least gain in colour correlation from using the poses, relative to the largest possible gain (from the correlation
without poses up to 1). Measured: the kitchen 0.93, the toy world 0.95; with mirrored images 0.01 and below 0."""
MIN_LACKING = 0.1
"""Colours are judged only if they correlate to less than 1 - this without poses; otherwise hardly anything moved."""
MIN_SHARED = 0.01
"""Least share of pixels in compared frames that must have a depth, and that must be visible in the other frame."""
MIN_TURN_DEG, MIN_WAY = 15.0, 0.3
"""Least rotation in degrees, or distance in metres, between compared frames; closer frames agree whatever the poses."""

_HALF_A_GREY_LEVEL = 1 / 2


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
    colour: float  # correlation of brightness between points and their projections, averaged over pairs
    colour_unmoved: float  # the same against the same pixel of the other frame, as if the camera stood still: chance
    shared: float  # share of all pixels that project into the other frame, where it has a depth
    num_pairs: int
    with_depth: float = 1.0  # share of pixels in the compared frames that have a depth

    @property
    def lacks_depth(self) -> bool:
        """Too little depth to judge poses and intrinsics."""
        return self.num_pairs > 0 and self.with_depth < MIN_SHARED

    def __str__(self) -> str:
        if not self.num_pairs:
            return "only one frame, nothing to compare"
        if self.lacks_depth:
            return f"depth at {self.with_depth:.1%} of the pixels in {self.num_pairs} pairs, nothing to compare"
        return (
            f"depth agreement {self.agreement:.3f}, colour correlation {self.colour:.3f} (without poses "
            f"{self.colour_unmoved:.3f}) in {self.num_pairs} pairs that share {self.shared:.0%} of their pixels"
        )

    def problem(self, real_colours: bool) -> str | None:
        """Describe what is wrong with the recording; None if nothing is.

        Args:
            real_colours: True for photographs. Colours of generated images are not judged, since they may differ even
                with correct poses.
        """
        if not self.num_pairs:
            return None
        if self.lacks_depth:
            return f"its depth is missing (only {self.with_depth:.1%} of the pixels in the compared frames have one)"
        if self.shared < MIN_SHARED:
            return f"its frames do not overlap (they share {self.shared:.1%} of their pixels)"
        if not self.agreement >= MIN_AGREEMENT:
            return f"its depths contradict each other (agreement {self.agreement:.3f}, needed {MIN_AGREEMENT})"
        lacking = 1 - self.colour_unmoved
        if real_colours and lacking > MIN_LACKING and self.colour - self.colour_unmoved < MIN_GAIN * lacking:
            return (
                f"its poses do not align the colours (correlation {self.colour:.3f} with poses, "
                f"{self.colour_unmoved:.3f} without)"
            )
        return None


@torch.no_grad()
def check_consistency(
    frames: Frames,
    poses: tuple[Tensor, Tensor] | None = None,
    num_pairs: int = 16,
    tolerance: DepthTolerance = DEFAULT_DEPTH_TOLERANCE,
) -> Consistency:
    """Compare pairs of frames spread over the recording.

    Args:
        frames: Images, depths and cameras.
        poses: (R [V, 3, 3], t [V, 3]) of the frames. None reads every frame to get them.
        num_pairs: Largest number of pairs to compare.
        tolerance: Largest difference between depths that agree.
    """
    if poses is None:
        cameras = [frames[index] for index in range(len(frames))]
        poses = torch.stack([one.R for one in cameras]), torch.stack([one.t for one in cameras])
    pairs = frame_pairs(*poses, num_pairs)
    counts, colours, known_and_all = np.zeros(4), [], np.zeros(2)
    for source, target in pairs:
        pair = frames[source], frames[target]
        count, colour = compare(*pair, tolerance)
        counts += count
        for one in pair:
            known_and_all += float(known_depths(one.depth)[1].sum()), one.depth.numel()
        colours.append(colour)
    agree, through, shared, pixels = counts.tolist()
    judged = agree + through
    known = np.array([pair for pair in colours if np.isfinite(pair).all()]).reshape(-1, 2)
    colour, unmoved = known.mean(axis=0).tolist() if len(known) else (float("nan"), float("nan"))
    agreement = agree / judged if judged else float("nan")
    with_depth = known_and_all[0] / max(1, known_and_all[1])
    return Consistency(agreement, colour, unmoved, shared / pixels if pixels else 0.0, len(pairs), with_depth)


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
    R, t, pairs = R.double(), t.double(), []
    for first in np.unique(np.linspace(0, max(len(R) - 2, 0), num_pairs).round().astype(int)).tolist():
        cosine = ((R[first] * R[first + 1 :]).sum(dim=(1, 2)) - 1) / 2
        turned = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
        far = (turned >= MIN_TURN_DEG) | ((t[first + 1 :] - t[first]).norm(dim=1) >= MIN_WAY)
        if bool(far.any()):
            pairs.append((first, first + 1 + int(far.int().argmax())))
    return pairs or ([(0, len(R) - 1)] if len(R) > 1 else [])


def compare(source: Frame, target: Frame, tolerance: DepthTolerance) -> tuple[np.ndarray, tuple[float, float]]:
    """Compare the pixels of a source frame with a target frame.

    Returns:
        [4] counts of source pixels: whose point agrees with the target's depth; whose point the target looks through;
        whose point projects to a target pixel with a depth; all. Then two correlations of brightness over the pixels
        that agree: with their projections in the target, and with the same pixels of the target. A correlation is NaN
        if no pixel agrees or the brightness is constant.
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
    source_grey, target_grey = (frame.image.double().mean(dim=-1) for frame in (source, target))
    moved = sample_bilinear(target_grey[None, None], xy[agree][None], padding="border")[0, 0]
    unmoved = target_grey[agree] if target_grey.shape == source_grey.shape else torch.zeros_like(moved)
    return counts, (_correlation(source_grey[agree], moved), _correlation(source_grey[agree], unmoved))


def _correlation(a: Tensor, b: Tensor) -> float:
    """Correlate two [M] brightness vectors in [0, 255]; NaN if one varies by no more than half a grey level."""
    if not len(a):
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    spread = a.square().mean().sqrt(), b.square().mean().sqrt()
    return float((a * b).mean() / (spread[0] * spread[1])) if float(min(spread)) > _HALF_A_GREY_LEVEL else float("nan")
