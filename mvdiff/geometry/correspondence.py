"""Correspondences between views that share a camera centre, by homography.

Conventions: see `mvdiff.geometry`. Axes: V views, U other view, N neighbours of a view, T tokens (cells in row-major
order), P taps around the corresponding position. Everything is computed in float64, which autocast and TF32 leave
alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mvdiff.geometry.sampling import cell_centres, cell_from_pixel, inside_image, pixel_from_cell
from mvdiff.shapes import check_shapes

MIN_DEPTH = 1e-6
"""A ray is in front of a camera if its z exceeds this, in units of the source ray's z."""


def homography(K_source: Tensor, R_source: Tensor, K_target: Tensor, R_target: Tensor) -> Tensor:
    """Return the homography `pixel_target_from_pixel_source = K_t R_t^T R_s K_s^-1` between views that share a centre.

    Source: paper section 4. The matrix is not rescaled: the third coordinate of `H @ (x, y, 1)` is the target depth
    of the point at depth 1 in the source camera, so it is positive in front of the target camera.

    Args:
        K_source: [..., 3, 3] intrinsics in pixels.
        R_source: [..., 3, 3] world-from-camera.
        K_target: [..., 3, 3] intrinsics in pixels.
        R_target: [..., 3, 3] world-from-camera.

    Returns:
        [..., 3, 3] homography of pixel coordinates, in the dtype of `K_source`.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=5, width=5).cameras()
        >>> H = homography(K[0], R[0], K[1], R[1])  # view 1 looks 45 degrees to the right of view 0
        >>> xy, visible = apply_homography(H, torch.tensor([[4.5, 2.0], [-0.5, 2.0]]), 5, 5)
        >>> xy[0].round(decimals=3).tolist(), visible.tolist()  # view 0's right edge is view 1's centre
        ([2.0, 2.0], [True, False])
    """
    check_shapes(
        K_source=(K_source, "... 3 3"),
        R_source=(R_source, "... 3 3"),
        K_target=(K_target, "... 3 3"),
        R_target=(R_target, "... 3 3"),
    )
    target_from_source = R_target.double().mT @ R_source.double()
    return (K_target.double() @ target_from_source @ torch.linalg.inv(K_source.double())).to(K_source.dtype)


def apply_homography(H: Tensor, xy: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Map pixel coordinates by a homography and mark those visible in the target image.

    Args:
        H: [..., 3, 3] `pixel_target_from_pixel_source` from `homography`, not rescaled. Its leading axes broadcast
            with those of `xy`: for H [V, 3, 3] and points [V, M, 2] pass `H[:, None]`.
        xy: [..., 2] (x, y) source pixel coordinates.
        height: Height of the target image in pixels.
        width: Width of the target image in pixels.

    Returns:
        [..., 2] target pixel coordinates, always finite (0 behind the camera), and [...] bool `visible`: in front of
        the target camera and inside its image, [-0.5, W - 0.5] x [-0.5, H - 0.5].
    """
    xy_target, in_front = _project(H, xy)
    return xy_target, in_front & inside_image(xy_target, height, width)


def overlapping_neighbours(K: Tensor, R: Tensor, height: int, width: int, min_overlap: float = 0.01) -> Tensor:
    """List the neighbours of each view: the views that overlap it by at least `min_overlap`.

    The overlap of two views is the share of one view's pixels visible in the other, taken in the direction where it is
    larger, so a narrow view inside a wide one counts for both (own derivation). This rule is for views that share a
    centre; for frames with depth see `mvdiff.geometry.depth_overlap.overlap_neighbours`.

    Args:
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera.
        height: Image height of all views in pixels.
        width: Image width of all views in pixels.
        min_overlap: Smallest overlap of neighbours, in [0, 1].

    Returns:
        [V, N] long, padded with -1 at the end of rows; N is the largest number of neighbours, at least 1. Rows are
        sorted by signed circular index offset, so view i - 1 comes before view i + 1.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, fov_deg=90.0, height=64, width=64).cameras()
        >>> overlapping_neighbours(K, R, 64, 64)[:3].tolist()
        [[7, 1], [0, 2], [1, 3]]
    """
    V = check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"))["V"]
    stride = max(1, min(height, width) // 32)
    xy = cell_centres(height, width, stride, device=K.device).reshape(-1, 2)
    K, R = K.double(), R.double()
    pairs_VU = homography(K[:, None], R[:, None], K[None], R[None])
    _, visible_VUT = apply_homography(pairs_VU[:, :, None], xy, height, width)
    overlap_VU = visible_VUT.double().mean(dim=-1)
    overlap_VU = torch.maximum(overlap_VU, overlap_VU.mT)
    rows = []
    for view in range(V):
        offsets = [offset for offset in range(-(V // 2), V - V // 2) if offset != 0]
        others = [(view + offset) % V for offset in offsets]
        rows.append([other for other in others if overlap_VU[view, other] >= min_overlap])
    return neighbour_table(rows, V).to(K.device)


def neighbour_table(neighbours: Sequence[Sequence[int]], num_views: int) -> Tensor:
    """Turn one list of neighbours per view into the padded tensor that `tap_geometry` takes.

    Args:
        neighbours: For each view, the indices of the views it attends to; may be empty.
        num_views: Number of views V.

    Returns:
        [V, N] long, padded with -1 at the end of rows; N is the length of the longest list, at least 1.

    Raises:
        ValueError: The number of lists is not V, or a list names its own view, a view twice, or a view that does not
            exist.

    Example:
        >>> neighbour_table([[1, 2], [0], []], num_views=3).tolist()
        [[1, 2], [0, -1], [-1, -1]]
    """
    if len(neighbours) != num_views:
        raise ValueError(
            f"neighbours must have one list per view ({num_views}); got {len(neighbours)} lists. "
            "Use [] for a view without neighbours, or omit neighbours to select overlapping views."
        )
    for view, row in enumerate(neighbours):
        others = [other for other in range(num_views) if other != view]
        if not set(row) <= set(others) or len(set(row)) < len(row):
            raise ValueError(
                f"neighbours of view {view} must be other views from 0 to {num_views - 1}, each at most once; "
                f"got {list(row)}."
            )
    N = max([1, *(len(row) for row in neighbours)])
    return torch.tensor([[*row, *[-1] * (N - len(row))] for row in neighbours], dtype=torch.long).reshape(-1, N)


@dataclass(frozen=True, eq=False)
class TapGeometry:
    """Positions of every token in its neighbour views: all that CAA needs to know about cameras.

    Axes: V views, N neighbours of a view, T = height * width tokens (cells in row-major order), P = kernel_size**2
    taps. Taps are ordered by x displacement, then by y displacement, both ascending: tap (dx, dy) of kernel size k has
    index `(dx + k // 2) * k + (dy + k // 2)`, and the middle tap is the corresponding position t^l itself.

    Attributes:
        neighbours: [V, N] long, index of the neighbour view; -1 is padding.
        taps_xy: [V, N, T, P, 2] float32, (x, y) cell coordinates in the neighbour's map; 0 where invisible.
        visible: [V, N, T, P] bool; False for padding.
        displacement: [V, N, T, P, 2] float32, s* - s in source cells, where s* is the tap projected back into the
            source view (paper section 4); 0 where invisible.
        height: Height of the maps in cells.
        width: Width of the maps in cells.
    """

    neighbours: Tensor
    taps_xy: Tensor
    visible: Tensor
    displacement: Tensor
    height: int
    width: int

    def to(self, device: torch.device | str) -> "TapGeometry":
        """Return the geometry on another device."""
        return replace(
            self,
            neighbours=self.neighbours.to(device),
            taps_xy=self.taps_xy.to(device),
            visible=self.visible.to(device),
            displacement=self.displacement.to(device),
        )


@torch.no_grad()
def tap_geometry(
    K: Tensor,
    R: Tensor,
    height: int,
    width: int,
    stride: int,
    neighbours: Tensor | None = None,
    kernel_size: int = 3,
) -> TapGeometry:
    """Compute the taps of correspondence-aware attention for views that share a centre.

    Source: paper section 4, equations 1 and 2. The homography maps token s of a view to t^l in its neighbour l. The
    taps are t^l plus integer displacements in cells, and the reverse homography maps each tap back to s*. A tap is
    visible if t^l is in front of the neighbour, the tap is inside the neighbour's image, and s* is in front of the
    source view.

    Args:
        K: [V, 3, 3] intrinsics in pixels of the image.
        R: [V, 3, 3] world-from-camera.
        height: Image height in pixels.
        width: Image width in pixels.
        stride: Pixels per cell of the feature maps.
        neighbours: [V, N] long, padded with -1. None uses `overlapping_neighbours`.
        kernel_size: Side length of the square of taps, odd.

    Returns:
        The geometry for maps of ceil(height / stride) x ceil(width / stride) cells, on the device of `K`.

    Raises:
        ValueError: `kernel_size` is even, `stride` is below 1, or a neighbour is not a view index.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=64, width=64).cameras()
        >>> taps = tap_geometry(K, R, 64, 64, stride=8)
        >>> taps.taps_xy.shape  # [V, N, T, P, 2]
        torch.Size([8, 2, 64, 9, 2])
    """
    check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"))
    if neighbours is None:
        neighbours = overlapping_neighbours(K, R, height, width)
    neighbours = neighbours.to(K.device)
    check_shapes(K=(K, "V 3 3"), neighbours=(neighbours, "V N"))
    check_taps(neighbours, stride, kernel_size)
    K, R = K.double(), R.double()
    present_VN = neighbours >= 0
    others_VN = neighbours.clamp(min=0)
    forward = homography(K[:, None], R[:, None], K[others_VN], R[others_VN])[:, :, None]
    backward = homography(K[others_VN], R[others_VN], K[:, None], R[:, None])[:, :, None, None]

    centres = cell_centres(height, width, stride, device=K.device)
    s = centres.reshape(-1, 2)
    t, t_in_front = _project(forward, s)
    taps = cell_from_pixel(t, stride)[..., None, :] + tap_displacements(kernel_size, K.device)
    taps_pixel = pixel_from_cell(taps, stride)
    s_star, s_star_in_front = _project(backward, taps_pixel)
    visible = t_in_front[..., None] & inside_image(taps_pixel, height, width) & s_star_in_front
    visible = visible & present_VN[..., None, None]
    displacement = (s_star - s[:, None]) / stride
    return TapGeometry(
        neighbours=neighbours,
        taps_xy=taps.masked_fill(~visible[..., None], 0).float(),
        visible=visible,
        displacement=displacement.masked_fill(~visible[..., None], 0).float(),
        height=centres.shape[0],
        width=centres.shape[1],
    )


def check_taps(neighbours: Tensor, stride: int, kernel_size: int) -> None:
    """Validate the arguments shared by all tap geometries; see `tap_geometry`.

    Raises:
        ValueError: `kernel_size` is even, `stride` is below 1, or a neighbour is not a view index.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive; got {kernel_size}. Use 1, 3 or 5.")
    if stride < 1:
        raise ValueError(f"stride must be at least 1 pixel per cell; got {stride}.")
    V = len(neighbours)
    if neighbours.numel() and (int(neighbours.min()) < -1 or int(neighbours.max()) >= V):
        raise ValueError(
            f"neighbours must be view indices from 0 to {V - 1}, or -1 as padding; got values from "
            f"{int(neighbours.min())} to {int(neighbours.max())}."
        )


def tap_displacements(kernel_size: int, device: torch.device) -> Tensor:
    """Return the [P, 2] integer displacements (dx, dy) in cells, ordered by x, then y."""
    steps = torch.arange(kernel_size, dtype=torch.float64, device=device) - kernel_size // 2
    return torch.cartesian_prod(steps, steps).reshape(-1, 2)


def _project(H: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Map [..., 2] points by [..., 3, 3] homographies; also return [...] bool `in_front`. Points behind become 0."""
    x, y = xy.unbind(dim=-1)
    u, v, depth = (H[..., row, 0] * x + H[..., row, 1] * y + H[..., row, 2] for row in range(3))
    in_front = depth > MIN_DEPTH
    scale = torch.where(in_front, 1 / torch.where(in_front, depth, 1), 0)
    return torch.stack([u * scale, v * scale], dim=-1), in_front
