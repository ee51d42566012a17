"""Conversion between pixels, latent cells and grid_sample coordinates: the only module that handles half pixels.

Conventions: see `mvdiff.geometry`. An image of W pixels spans [-0.5, W - 0.5]; cell i of a map with stride s
covers the pixels s*i .. s*i + s - 1, so its centre is at pixel s*i + (s - 1)/2.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.shapes import check_shapes

_TIE = 1e-4  # pixels; positions halfway between two pixels go the same way whatever the rounding


def pixel_from_cell(cell: Tensor | float, stride: float) -> Tensor | float:
    """Return the pixel coordinate of a cell coordinate: `s * cell + (s - 1) / 2` (convention 5).

    Args:
        cell: Cell coordinates (integers at cell centres); tensor, array or number.
        stride: Pixels per cell s; may be fractional.

    Returns:
        Pixel coordinates (integers at pixel centres).

    Example:
        >>> pixel_from_cell(0.0, stride=8), pixel_from_cell(2.0, stride=8)
        (3.5, 19.5)
    """
    return cell * stride + (stride - 1) / 2


def cell_from_pixel(pixel: Tensor | float, stride: float) -> Tensor | float:
    """Return the cell coordinate of a pixel coordinate: the inverse of `pixel_from_cell`.

    Args:
        pixel: Pixel coordinates (integers at pixel centres); tensor, array or number.
        stride: Pixels per cell s.

    Returns:
        Cell coordinates (integers at cell centres).

    Example:
        >>> cell_from_pixel(-0.5, stride=8)  # the image's left edge is the first cell's left edge
        -0.5
    """
    return (pixel - (stride - 1) / 2) / stride


def pixel_from_corner(position: float) -> float:
    """Convert a coordinate measured from the image's corner (COLMAP, nerfstudio) to a pixel coordinate (convention 4).

    Example:
        >>> pixel_from_corner(320.0)  # the middle of 640 pixels
        319.5
    """
    return position - 0.5


def upstream_cell_from_pixel(pixel: Tensor | float, stride: int) -> Tensor | float:
    """Return the cell coordinate of a pixel coordinate in the 2023 release: `pixel / stride - 0.5`.

    It differs from `cell_from_pixel`; see docs/checkpoints.md.

    Example:
        >>> upstream_cell_from_pixel(4.0, stride=8)  # the release centres cell 0 at pixel 4, not 3.5
        0.0
    """
    return pixel / stride - 0.5


def upstream_pixel_from_cell(cell: Tensor | float, stride: int) -> Tensor | float:
    """Return the pixel coordinate of a cell coordinate in the 2023 release: `(cell + 0.5) * stride`.

    Example:
        >>> upstream_pixel_from_cell(0.0, stride=8)
        4.0
    """
    return (cell + 0.5) * stride


def cell_centres(height: int, width: int, stride: int, device: torch.device | str | None = None) -> Tensor:
    """Return the pixel coordinates of the centres of all cells of an image.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        stride: Pixels per cell; a last, partially filled cell counts.
        device: Device of the result.

    Returns:
        [h, w, 2] (x, y) pixel coordinates, h = ceil(height / stride), w = ceil(width / stride), float64.

    Example:
        >>> cell_centres(4, 8, stride=4).tolist()
        [[[1.5, 1.5], [5.5, 1.5]]]
    """
    x = pixel_from_cell(torch.arange(-(-width // stride), dtype=torch.float64, device=device), stride)
    y = pixel_from_cell(torch.arange(-(-height // stride), dtype=torch.float64, device=device), stride)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def normalized_from_pixel(xy: Tensor, height: int, width: int) -> Tensor:
    """Convert pixel coordinates to grid_sample coordinates with `align_corners=False`.

    The image edges, pixels -0.5 and W - 0.5, map to -1 and 1.

    Args:
        xy: [..., 2] (x, y) pixel coordinates.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        [..., 2] coordinates for `torch.nn.functional.grid_sample`.

    Example:
        >>> normalized_from_pixel(torch.tensor([-0.5, 1.5]), height=4, width=8).tolist()
        [-1.0, 0.0]
    """
    check_shapes(xy=(xy, "... 2"))
    return (2 * xy + 1) / xy.new_tensor([width, height]) - 1


def pixel_from_normalized(xy: Tensor, height: int, width: int) -> Tensor:
    """Convert grid_sample coordinates to pixel coordinates: the inverse of `normalized_from_pixel`.

    Args:
        xy: [..., 2] coordinates, -1 and 1 at the image edges.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        [..., 2] (x, y) pixel coordinates.

    Example:
        >>> pixel_from_normalized(torch.tensor([-1.0, 0.0]), height=4, width=8).tolist()
        [-0.5, 1.5]
    """
    check_shapes(xy=(xy, "... 2"))
    return ((xy + 1) * xy.new_tensor([width, height]) - 1) / 2


def inside_image(xy: Tensor, height: int, width: int) -> Tensor:
    """Return [...] bool, True for [..., 2] pixel coordinates inside the image, outer half pixels included.

    Example:
        >>> inside_image(torch.tensor([[-0.5, 3.5], [-0.6, 0.0]]), height=4, width=8).tolist()
        [True, False]
    """
    x, y = xy.unbind(dim=-1)
    return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)


def nearest_pixel(xy: Tensor) -> Tensor:
    """Round [..., 2] positions to the nearest pixel centres; ties, up to rounding errors, go right and down.

    Example:
        >>> nearest_pixel(torch.tensor([0.4, 1.5])).tolist()
        [0.0, 2.0]
    """
    return (xy + (0.5 + _TIE)).floor()


def sample_bilinear(images: Tensor, xy: Tensor, padding: Literal["zeros", "border"] = "zeros") -> Tensor:
    """Sample images at pixel coordinates by bilinear interpolation.

    Args:
        images: [B, C, H, W] floating point.
        xy: [B, ..., 2] (x, y) pixel coordinates, finite.
        padding: Value beyond the outermost pixel centres: "zeros", or "border" for the nearest border pixel.

    Returns:
        [B, C, ...] samples.

    Raises:
        ValueError: Shapes do not match.

    Example:
        >>> row = torch.tensor([0.0, 10.0, 20.0]).view(1, 1, 1, 3)
        >>> sample_bilinear(row, torch.tensor([[[0.25, 0.0], [2.5, 0.0]]])).tolist()
        [[[2.5, 10.0]]]
    """
    sizes = check_shapes(images=(images, "B C H W"), xy=(xy, "... 2"))
    return sample_normalized(images, normalized_from_pixel(xy.to(images.dtype), sizes["H"], sizes["W"]), padding)


def sample_normalized(images: Tensor, xy: Tensor, padding: Literal["zeros", "border"] = "zeros") -> Tensor:
    """Sample images as `sample_bilinear` does, at grid_sample coordinates.

    Args:
        images: [B, C, H, W] floating point.
        xy: [B, ..., 2] of `normalized_from_pixel`, in the dtype of the images.
        padding: See `sample_bilinear`.

    Returns:
        [B, C, ...] samples.

    Raises:
        ValueError: Shapes do not match.
    """
    sizes = check_shapes(images=(images, "B C H W"), xy=(xy, "... 2"))
    if xy.ndim < 2 or xy.shape[0] != sizes["B"]:
        raise ValueError(
            f"xy must have shape [B, ..., 2] with B = {sizes['B']}, the images' batch size; got {list(xy.shape)}."
        )
    grid = xy.reshape(sizes["B"], 1, -1, 2)
    samples = F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return samples.reshape(sizes["B"], sizes["C"], *xy.shape[1:-1])
