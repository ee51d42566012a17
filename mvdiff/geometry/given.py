"""Projection of given pictures into the views of a rig, by homography.

Conventions: see `mvdiff.geometry`. Axes: V views of H x W pixels; a given picture of h x w pixels that shares their
camera centre.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mvdiff.geometry.correspondence import apply_homography, homography
from mvdiff.geometry.mipmaps import at_mip_level, mip_level
from mvdiff.geometry.sampling import cell_centres, normalized_from_pixel, pixel_from_normalized, sample_bilinear
from mvdiff.shapes import check_shapes

_WHOLE = 0.999  # a pixel is given if the interpolated mask exceeds this; interpolating ones rounds


def views_of_given(
    K_given: Tensor, R_given: Tensor, h: int, w: int, K: Tensor, R: Tensor, height: int, width: int
) -> Tensor:
    """Mark the view pixels that a given picture covers: those whose centres it shows (own derivation).

    Args:
        K_given: [3, 3] intrinsics of the picture, in pixels.
        R_given: [3, 3] world-from-camera.
        h: Height of the picture in pixels.
        w: Width of the picture in pixels.
        K: [V, 3, 3] intrinsics of the views, in pixels.
        R: [V, 3, 3] world-from-camera.
        height: Height H of the views in pixels.
        width: Width W of the views in pixels.

    Returns:
        [V, 1, H, W] float32 `known`, 1 where the picture covers the view and 0 elsewhere.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=4, height=4, width=4).cameras()  # 90 degrees each: they touch
        >>> views_of_given(K[1], R[1], 4, 4, K, R, 4, 4).mean(dim=(1, 2, 3)).tolist()
        [0.0, 1.0, 0.0, 0.0]
    """
    return _visible(K_given, R_given, h, w, K, R, height, width)[1][:, None].float()


def warp_given(
    image: Tensor,
    K_given: Tensor,
    R_given: Tensor,
    K: Tensor,
    R: Tensor,
    height: int,
    width: int,
    shown: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Warp a given picture into every view that it covers, by homography (own derivation).

    A picture finer than the view is halved first (`mvdiff.geometry.mipmaps`) so that it does not alias. A view with the
    picture's own camera and size gets the picture's pixels unchanged.

    Args:
        image: [C, h, w] float picture.
        K_given: [3, 3] intrinsics of the picture, in pixels.
        R_given: [3, 3] world-from-camera.
        K: [V, 3, 3] intrinsics of the views, in pixels.
        R: [V, 3, 3] world-from-camera.
        height: Height H of the views in pixels.
        width: Width W of the views in pixels.
        shown: [1, h, w] mask, 1 for valid picture pixels, 0 for cut-out ones; None: all valid. A view pixel is known
            only if every picture pixel it is interpolated from is valid.

    Returns:
        [V, C, H, W] float32 images, 0 where the picture does not reach, and [V, 1, H, W] float32 `known`, 0 or 1.

    Example:
        >>> from mvdiff.geometry.cameras import RingRig
        >>> K, R = RingRig(num_views=8, height=4, width=4).cameras()
        >>> images, known = warp_given(torch.ones(3, 4, 4), K[0], R[0], K, R, 4, 4)
        >>> known.mean(dim=(1, 2, 3)).round(decimals=1).tolist()  # view 0 whole, half of its neighbours
        [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5]
    """
    V = check_shapes(K=(K, "V 3 3"), R=(R, "V 3 3"))["V"]
    sizes = check_shapes(image=(image, "C h w"), **({} if shown is None else {"shown": (shown, "1 h w")}))
    h, w = sizes["h"], sizes["w"]
    layers = image.float() if shown is None else torch.cat([image.float() * shown, shown.float()])
    xy, visible = _visible(K_given, R_given, h, w, K, R, height, width)
    images, levels = image.new_zeros(V, sizes["C"], height, width, dtype=torch.float32), {}
    for view in range(V):
        if not bool(visible[view].any()):
            continue
        level = mip_level(float(K_given[0, 0]), float(K[view, 0, 0]))
        if level not in levels:
            levels[level] = at_mip_level(layers[None], level)
        source = levels[level]
        source_xy = pixel_from_normalized(normalized_from_pixel(xy[view], h, w), *source.shape[-2:])
        sampled = sample_bilinear(source, source_xy[None], padding="border")[0]
        if shown is not None:
            visible[view] &= sampled[-1] > _WHOLE
        images[view] = torch.where(visible[view], sampled[: sizes["C"]], 0.0)
    return images, visible[:, None].float()


def overlay_given(layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Combine several warped pictures; where they overlap, the first one wins.

    Args:
        layers: ([V, C, H, W] images, [V, 1, H, W] known) of each picture from `warp_given`, at least one.

    Returns:
        Combined images [V, C, H, W] and `known` [V, 1, H, W].
    """
    images, known = (value.clone() for value in layers[0])
    for next_images, next_known in layers[1:]:
        images = torch.where(known > 0, images, next_images)
        known = torch.maximum(known, next_known)
    return images, known


def _visible(K_given, R_given, h, w, K, R, height, width) -> tuple[Tensor, Tensor]:
    """Return the picture positions of the views' pixels, [V, H, W, 2] float64 (x, y), and their visibility, bool."""
    check_shapes(K_given=(K_given, "3 3"), R_given=(R_given, "3 3"), K=(K, "V 3 3"), R=(R, "V 3 3"))
    given_from_view = homography(K.double(), R.double(), K_given.double()[None], R_given.double()[None])
    centres = cell_centres(height, width, stride=1, device=K.device)
    return apply_homography(given_from_view[:, None, None], centres, h, w)
