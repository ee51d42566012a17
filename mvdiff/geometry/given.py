"""Given pictures in the views of a rig: where each view shows them, and what it then shows.

Conventions: see `mvdiff.geometry`. V views, H x W their size, h x w that of a given picture, which shares the
views' centre.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mvdiff.geometry.correspondence import apply_homography, homography
from mvdiff.geometry.mipmaps import at_mip_level, mip_level
from mvdiff.geometry.sampling import cell_centres, normalized_from_pixel, pixel_from_normalized, sample_bilinear
from mvdiff.shapes import check_shapes

_WHOLE = 0.999  # a sample of which so much is given counts as given: interpolation of ones rounds


def views_of_given(
    K_given: Tensor, R_given: Tensor, h: int, w: int, K: Tensor, R: Tensor, height: int, width: int
) -> Tensor:
    """Tell which pixels of views a given picture reaches: those whose centre it shows (own derivation).

    Args:
        K_given: [3, 3] intrinsics of the picture, in its pixels.
        R_given: [3, 3] world-from-camera.
        h: Its height in pixels.
        w: Its width.
        K: [V, 3, 3] intrinsics of the views.
        R: [V, 3, 3] world-from-camera.
        height: Height H of the views.
        width: Width W.

    Returns:
        [V, 1, H, W] float32 `known`, 1 where the picture reaches and 0 elsewhere.

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
    """Show a given picture in every view that it reaches, by homography (own derivation).

    A picture finer than the view is halved first, as panoramas are, so that it does not alias. Given the camera of a
    view and the view's size, the view shows the picture's own pixels.

    Args:
        image: [C, h, w] float.
        K_given: [3, 3] intrinsics in its pixels.
        R_given: [3, 3] world-from-camera.
        K: [V, 3, 3] intrinsics of the views.
        R: [V, 3, 3] world-from-camera.
        height: Height H of the views.
        width: Width W.
        shown: [1, h, w], 1 where the picture shows something, 0 where it is cut out; default: everywhere. A pixel is
            given only where all that it is mixed from is shown.

    Returns:
        [V, C, H, W] float32 images, 0 where the picture does not reach, and [V, 1, H, W] float32 `known`.

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
        place = pixel_from_normalized(normalized_from_pixel(xy[view], h, w), *source.shape[-2:])
        sampled = sample_bilinear(source, place[None], padding="border")[0]
        if shown is not None:
            visible[view] &= sampled[-1] > _WHOLE
        images[view] = torch.where(visible[view], sampled[: sizes["C"]], 0.0)
    return images, visible[:, None].float()


def overlay_given(layers: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join several given pictures, each as `warp_given` shows it: where more than one reaches, the first counts.

    Args:
        layers: ([V, C, H, W] images, [V, 1, H, W] known) of each picture, at least one.

    Returns:
        Images and known of all.
    """
    images, known = (value.clone() for value in layers[0])
    for below, reached in layers[1:]:
        images = torch.where(known > 0, images, below)
        known = torch.maximum(known, reached)
    return images, known


def _visible(K_given, R_given, h, w, K, R, height, width) -> tuple[Tensor, Tensor]:
    """Return where the picture shows the views' pixels: [V, H, W, 2] float64 (x, y) and [V, H, W] bool."""
    check_shapes(K_given=(K_given, "3 3"), R_given=(R_given, "3 3"), K=(K, "V 3 3"), R=(R, "V 3 3"))
    given_from_view = homography(K.double(), R.double(), K_given.double()[None], R_given.double()[None])
    centres = cell_centres(height, width, stride=1, device=K.device)
    return apply_homography(given_from_view[:, None, None], centres, h, w)
