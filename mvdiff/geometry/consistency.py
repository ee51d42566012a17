"""Agreement of a recording's frames with each other, which reveals wrong poses and intrinsics before frames are fused.

Own derivation, on correspondences by depth (paper, section 4.1). A pixel of one frame is a point in the world; another
frame that looks at it has about its depth there (it agrees), or something nearer (the point is hidden, also with right
poses), or something farther: that frame looks through the point, and one of the two is wrong.
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
"""Recordings below are refused. Measured: a real kitchen (Kinect) 0.96, the toy world 0.97; the kitchen with rotations
transposed 0.30, in OpenGL's axes 0.20, with poses 30 frames late 0.42 and 6 frames late 0.77, with focal lengths 1.3
times as long 0.50 (but 1.1 times: 0.88). `python benchmarks/mesh.py poses`."""
MIN_GAIN = 1 / 3
"""Least share that right poses bring of what the correlation of colours lacks without poses. Measured: the kitchen
0.93, the toy world 0.95, with images mirrored 0.01 and less than 0."""
MIN_LACKING = 0.1
"""Colours are not judged where they correlate to 0.9 without poses: hardly anything moved."""
MIN_SHARED = 0.01
"""Least share of pixels of the compared frames that must have a depth, and that they must see of each other."""
MIN_TURN_DEG, MIN_WAY = 15.0, 0.3
"""Turn in degrees or way in metres between compared frames: nearer ones agree whatever the poses."""

_HALF_A_GREY_LEVEL = 1 / 2


class Frame(NamedTuple):
    """A picture with depth and camera."""

    image: Tensor  # [H, W, 3] uint8
    depth: Tensor  # [H, W] z-depth in metres; none where it is not finite and positive
    K: Tensor  # [3, 3] intrinsics in pixels
    R: Tensor  # [3, 3] world-from-camera
    t: Tensor  # [3] camera centre in the world, metres
    name: str = "a frame"  # in errors


class Frames(Protocol):
    """Frames in the order of the recording: a list, or a reader of one frame at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Frame: ...


@dataclass(frozen=True)
class Consistency:
    """Agreement of frames, over pairs of them."""

    agreement: float  # share of the points that agree among those that agree or are looked through; NaN without any
    colour: float  # correlation of brightness between points and their places in the other frame, mean of pairs
    colour_unmoved: float  # the same with the same pixel of the other frame, as if the camera had stood still: chance
    shared: float  # share of all pixels whose points the other frame may see
    num_pairs: int
    with_depth: float = 1.0  # share of the pixels of the compared frames that have a depth

    @property
    def lacks_depth(self) -> bool:
        """Too little depth to judge poses and intrinsics."""
        return self.num_pairs > 0 and self.with_depth < MIN_SHARED

    def __str__(self) -> str:
        if not self.num_pairs:
            return "one frame only, nothing to compare"
        if self.lacks_depth:
            return f"depth at {self.with_depth:.1%} of the pixels in {self.num_pairs} pairs, nothing to compare"
        return (
            f"depth agreement {self.agreement:.3f}, colour correlation {self.colour:.3f} (unmoved "
            f"{self.colour_unmoved:.3f}) in {self.num_pairs} pairs that share {self.shared:.0%} of their pixels"
        )

    def problem(self, real_colours: bool) -> str | None:
        """Return what is wrong with the recording, or None.

        Args:
            real_colours: The images are photographs; generated ones may disagree though the poses are right.
        """
        if not self.num_pairs:
            return None
        if self.lacks_depth:
            return f"its depth is missing (known at {self.with_depth:.1%} of the pixels of the frames compared)"
        if self.shared < MIN_SHARED:
            return f"its frames see nothing of each other ({self.shared:.1%} of their pixels)"
        if not self.agreement >= MIN_AGREEMENT:
            return f"its depths contradict each other (agreement {self.agreement:.3f}, at least {MIN_AGREEMENT})"
        lacking = 1 - self.colour_unmoved
        if real_colours and lacking > MIN_LACKING and self.colour - self.colour_unmoved < MIN_GAIN * lacking:
            return f"its colours agree at {self.colour:.3f} along the poses, at {self.colour_unmoved:.3f} without them"
        return None


@torch.no_grad()
def check_consistency(
    frames: Frames,
    poses: tuple[Tensor, Tensor] | None = None,
    num_pairs: int = 16,
    tolerance: DepthTolerance = DEFAULT_DEPTH_TOLERANCE,
) -> Consistency:
    """Compare frames with later ones, spread over the recording.

    Args:
        frames: Images, depths and cameras.
        poses: (R [V, 3, 3], t [V, 3]) of the frames; by default the frames are read for them.
        num_pairs: Most pairs that are compared.
        tolerance: Difference up to which depths agree.
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
    """Pair frames with the first later one by which the camera has turned or moved far enough.

    Args:
        R: [V, 3, 3] world-from-camera.
        t: [V, 3] camera centres, metres.
        num_pairs: Most pairs; their first frames are spread evenly.

    Returns:
        (earlier, later) each; the first and the last frame if the camera never moves so far.

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
    """Compare a frame with another.

    Returns:
        [4] counts of the source's pixels: those whose point agrees with the target's depth, is looked through by it,
        may be seen by it at all; and all of them. Then the correlations of brightness over those that agree: with their
        place in the target, and with the same pixel of the target; NaN where they are too few or all alike.
    """
    cameras = (source.K, source.R, source.t), (target.K, target.R, target.t)
    xy, visible = depth_correspondence(source.depth, *cameras[0], target.depth, *cameras[1], tolerance=None)
    points = unproject(cell_centres(*source.depth.shape, 1), known_depths(source.depth)[0], *cameras[0])
    _, z, _ = project_points(points, *cameras[1], *target.depth.shape)
    found = depth_at(target.depth[None], torch.zeros(z.shape, dtype=torch.long), xy).double()
    seen = visible & (found > 0)
    agree = seen & depths_agree(z, found, tolerance)
    through = seen & ~agree & (z < found)
    counts = np.array([float(mask.sum()) for mask in (agree, through, seen)] + [float(seen.numel())])
    here, there = (frame.image.double().mean(dim=-1) for frame in (source, target))
    moved = sample_bilinear(there[None, None], xy[agree][None], padding="border")[0, 0]
    unmoved = there[agree] if there.shape == here.shape else torch.zeros_like(moved)
    return counts, (_correlation(here[agree], moved), _correlation(here[agree], unmoved))


def _correlation(a: Tensor, b: Tensor) -> float:
    """Correlate [M] and [M] of brightness in [0, 255]; NaN if one of them is flat, to half a grey level."""
    if not len(a):
        return float("nan")
    a, b = a - a.mean(), b - b.mean()
    spread = a.square().mean().sqrt(), b.square().mean().sqrt()
    return float((a * b).mean() / (spread[0] * spread[1])) if float(min(spread)) > _HALF_A_GREY_LEVEL else float("nan")
