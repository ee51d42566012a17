"""Conversion between equirectangular images, skyboxes and perspective views.

Conventions: see `mvdiff.geometry` (6 equirectangular, 7 skybox). Every function gathers: it computes the direction of
each result pixel and samples the source in that direction. A source finer than the result is halved first
(`mvdiff.geometry.mipmaps`) to prevent aliasing.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mvdiff.geometry.cameras import intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.correspondence import MIN_DEPTH
from mvdiff.geometry.cubemap import atlas_from_faces, atlas_grid
from mvdiff.geometry.mipmaps import at_mip_level, mip_level
from mvdiff.geometry.sampling import (
    cell_centres,
    inside_image,
    normalized_from_pixel,
    pixel_from_normalized,
    sample_bilinear,
)
from mvdiff.shapes import check_shapes

SKYBOX_YAW_DEG = (270.0, 270.0, 0.0, 90.0, 180.0, 270.0)
SKYBOX_PITCH_DEG = (90.0, 0.0, 0.0, 0.0, 0.0, -90.0)


def equirectangular_directions(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """Return the world directions of the pixels of an equirectangular image (convention 6).

    Args:
        height: Image height in pixels.
        width: Image width in pixels, 2 * height.
        device: Device of the result.

    Returns:
        [H, W, 3] unit world directions, float32.

    Raises:
        ValueError: The width is not twice the height.

    Example:
        >>> directions = equirectangular_directions(90, 180)
        >>> [round(x, 2) for x in directions[0, 120].tolist()]  # top row, right of the middle: up, a little right
        [0.02, -1.0, 0.01]
    """
    _check_equirectangular("width", height, width)
    relative = normalized_from_pixel(cell_centres(height, width, stride=1, device=device), height, width)
    yaw, pitch = math.pi * relative[:1, :, 0], -math.pi / 2 * relative[:, :1, 1]
    x, y, z = torch.broadcast_tensors(pitch.cos() * yaw.sin(), -pitch.sin(), pitch.cos() * yaw.cos())
    return torch.stack([x, y, z], dim=-1).float()


def pixel_directions(K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
    """Return the world directions `R K^-1 (x, y, 1)` of a view's pixels, normalised.

    Args:
        K: [..., 3, 3] intrinsics in pixels.
        R: [..., 3, 3] world-from-camera.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        [..., H, W, 3] unit world directions, in the dtype of `K`.

    Example:
        >>> K, R = intrinsics_from_fov(90.0, 3, 3), rotation_from_yaw_pitch(90.0, 0.0)
        >>> [round(x, 2) for x in pixel_directions(K, R, 3, 3)[1, 1].tolist()]  # middle pixel, turned right
        [1.0, 0.0, 0.0]
    """
    check_shapes(K=(K, "... 3 3"), R=(R, "... 3 3"))
    rays = torch.stack(_view_rays(K.double(), R.double(), height, width), dim=-1)
    return F.normalize(rays, dim=-1).to(K.dtype)


def project_directions(K: Tensor, R: Tensor, directions: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Project world directions into a view.

    Args:
        K: [3, 3] intrinsics in pixels.
        R: [3, 3] world-from-camera.
        directions: [..., 3] world directions; any non-zero length.
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        [..., 2] (x, y) pixel coordinates, finite (0 behind the camera), and [...] bool `visible`: in front of the
        camera and inside the image.
    """
    check_shapes(K=(K, "3 3"), R=(R, "3 3"), directions=(directions, "... 3"))
    pixel_from_world = (K.double() @ R.double().mT).to(directions.dtype)
    x, y, z = directions.unbind(dim=-1)
    u, v, depth = (row[0] * x + row[1] * y + row[2] * z for row in pixel_from_world)  # no @: autocast would round it
    in_front = depth > MIN_DEPTH
    scale = in_front / torch.where(in_front, depth, 1)
    xy = torch.stack([u * scale, v * scale], dim=-1)
    return xy, in_front & inside_image(xy, height, width)


def perspective_from_equirectangular(image: Tensor, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
    """Render perspective views from an equirectangular image.

    Args:
        image: [C, H, W] float or uint8, W = 2 H.
        K: [V, 3, 3] intrinsics in pixels of the views.
        R: [V, 3, 3] world-from-camera.
        height: Height h of the views in pixels.
        width: Width w of the views in pixels.

    Returns:
        [V, C, h, w] float32 views, in the range of `image`.

    Raises:
        ValueError: W is not 2 H.
    """
    sizes = check_shapes(image=(image, "C H W"), K=(K, "V 3 3"), R=(R, "V 3 3"))
    _check_equirectangular("image width", sizes["H"], sizes["W"])

    def prepare(level: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        source = at_mip_level(image[None], level)
        H, W = source.shape[-2:]
        over_pole = source.roll(W // 2, dims=-1)
        padded = torch.cat([over_pole[..., :1, :], source, over_pole[..., -1:, :]], dim=-2)
        padded = torch.cat([padded[..., -1:], padded, padded[..., :1]], dim=-1)

        def sample(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
            yaw, depression = torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))
            relative = torch.stack([yaw / math.pi, depression / (math.pi / 2)], dim=-1)
            xy = pixel_from_normalized(relative, H, W) + 1  # past the padding
            return sample_bilinear(padded, xy[None])[0]

        return sample

    source_focal = sizes["W"] / (2 * math.pi)
    return _cut_views(prepare, source_focal, sizes["C"], K.to(image.device), R.to(image.device), height, width)


def perspective_from_skybox(faces: Tensor, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
    """Render perspective views from a skybox, without seams between faces.

    Interpolation near a face's edge reads texels of the adjacent face (`mvdiff.geometry.cubemap`).

    Args:
        faces: [6, C, S, S] float or uint8; 0 up, 1..4 yaw 270, 0, 90, 180, 5 down (convention 7, paper section 4).
        K: [V, 3, 3] intrinsics in pixels of the views.
        R: [V, 3, 3] world-from-camera.
        height: Height h of the views in pixels.
        width: Width w of the views in pixels.

    Returns:
        [V, C, h, w] float32 views, in the range of `faces`.

    Example:
        >>> faces = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 8, 8)
        >>> K, R = intrinsics_from_fov(60.0, 1, 1)[None], rotation_from_yaw_pitch(90.0, 0.0)[None]
        >>> perspective_from_skybox(faces, K, R, 1, 1).item()  # turned right by 90 degrees: face 3
        3.0
    """
    sizes = check_shapes(faces=(faces, "6 C S S"), K=(K, "V 3 3"), R=(R, "V 3 3"))

    def prepare(level: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        return _skybox_sampler(at_mip_level(faces, level))

    source_focal = sizes["S"] / 2
    return _cut_views(prepare, source_focal, sizes["C"], K.to(faces.device), R.to(faces.device), height, width)


def skybox_cameras(size: int) -> tuple[Tensor, Tensor]:
    """Return the cameras of the six faces of a skybox (convention 7, paper section 4).

    Args:
        size: Face size S in pixels.

    Returns:
        K [6, 3, 3] in pixels and R [6, 3, 3] world-from-camera, float32.
    """
    yaw, pitch = torch.tensor(SKYBOX_YAW_DEG), torch.tensor(SKYBOX_PITCH_DEG)
    return intrinsics_from_fov(torch.full((6,), 90.0), size, size), rotation_from_yaw_pitch(yaw, pitch)


def equirectangular_from_skybox(faces: Tensor, height: int, width: int) -> Tensor:
    """Convert a skybox to an equirectangular image.

    Args:
        faces: [6, C, S, S] float or uint8, in the order of `perspective_from_skybox`.
        height: Height H of the result in pixels.
        width: Width W of the result in pixels, 2 H.

    Returns:
        [C, H, W] float32, in the range of `faces`.
    """
    sizes = check_shapes(faces=(faces, "6 C S S"))
    directions = equirectangular_directions(height, width, device=faces.device)
    level = mip_level(sizes["S"] / 2, width / (2 * math.pi))
    return _skybox_sampler(at_mip_level(faces, level))(*directions.unbind(dim=-1))


def skybox_from_equirectangular(image: Tensor, size: int) -> Tensor:
    """Convert an equirectangular image to the six faces of a skybox.

    Args:
        image: [C, H, W] float or uint8, W = 2 H.
        size: Face size S in pixels.

    Returns:
        [6, C, S, S] float32 faces in the order of `perspective_from_skybox`, in the range of `image`.
    """
    return perspective_from_equirectangular(image, *skybox_cameras(size), size, size)


def cube_faces(image: Tensor, size: int | None = None) -> dict[str, Tensor]:
    """Turn an equirectangular image into cube faces as 360-degree viewers and game engines take them.

    They are the faces of `skybox_from_equirectangular` by name, with up and down turned by a quarter so that
    they meet the front face and not the left one.

    Args:
        image: [C, H, W] float or uint8, W = 2 H.
        size: Face size S in pixels; None: as dense as the image in the middle of a face, W / pi.

    Returns:
        [C, S, S] float32 front (yaw 0), right, back, left, up and down, in the range of `image`.

    Example:
        >>> cube_faces(torch.zeros(3, 8, 16))["up"].shape
        torch.Size([3, 5, 5])
    """
    up, left, front, right, back, down = skybox_from_equirectangular(image, size or round(image.shape[-1] / math.pi))
    up, down = torch.rot90(up, -1, (1, 2)), torch.rot90(down, 1, (1, 2))
    return {"front": front, "right": right, "back": back, "left": left, "up": up, "down": down}


def covered_rows(covered: Tensor) -> tuple[int, int]:
    """Return the largest range of rows (first, last + 1) that some view shows all around.

    Args:
        covered: [H, W] bool, from `stitch`.

    Raises:
        ValueError: No row is covered all around.

    Example:
        >>> covered_rows(torch.tensor([[False, True], [True, True], [True, True], [False, False]]))
        (1, 3)
    """
    check_shapes(covered=(covered, "H W"))
    whole = F.pad(covered.all(dim=1).int(), (1, 1)).diff()
    starts, ends = (whole == 1).nonzero().flatten(), (whole == -1).nonzero().flatten()
    if not len(starts):
        raise ValueError("covered must have a row that is True all around; got none. Keep the whole panorama.")
    longest = int((ends - starts).argmax())
    return int(starts[longest]), int(ends[longest])


def stitch(images: Tensor, K: Tensor, R: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Blend views that share a centre into one equirectangular panorama (own derivation).

    A view's weight falls linearly from its centre to zero at its borders, which hides the borders. Views are sampled by
    direction, so the wrap-around and the poles need no special case.

    Args:
        images: [V, C, h, w] views, float or uint8.
        K: [V, 3, 3] intrinsics in pixels.
        R: [V, 3, 3] world-from-camera.
        height: Height H of the panorama in pixels.
        width: Width W of the panorama in pixels, 2 H.

    Returns:
        [C, H, W] float32 panorama in the range of `images`, 0 where no view covers it, and [H, W] bool `covered`.

    Raises:
        ValueError: `width` is not twice `height`.

    Example:
        >>> K, R = intrinsics_from_fov(90.0, 4, 8)[None], rotation_from_yaw_pitch(0.0, 0.0)[None]
        >>> panorama, covered = stitch(torch.ones(1, 3, 4, 8), K, R, 16, 32)
        >>> covered[8, [0, 16]].tolist(), panorama[0, 8, [0, 16]].tolist()  # behind, in front
        ([False, True], [0.0, 1.0])
    """
    sizes = check_shapes(images=(images, "V C h w"), K=(K, "V 3 3"), R=(R, "V 3 3"))
    h, w = sizes["h"], sizes["w"]
    directions = equirectangular_directions(height, width, device=images.device)
    total = torch.zeros(sizes["C"], height, width, device=images.device)
    total_weight = torch.zeros(height, width, device=images.device)
    for image, K_view, R_view in zip(images, K.to(images.device), R.to(images.device), strict=True):
        source = at_mip_level(image[None], mip_level(K_view[0, 0].item(), width / (2 * math.pi)))
        xy, visible = project_directions(K_view, R_view, directions, h, w)
        relative = normalized_from_pixel(xy, h, w)  # from -1 to 1 over the view
        weight = (1 - relative.abs()).clamp(min=0).prod(dim=-1) * visible
        samples = F.grid_sample(source, relative[None], padding_mode="border", align_corners=False)[0]
        total += weight * samples
        total_weight += weight
    covered = total_weight > 0
    return total / torch.where(covered, total_weight, 1), covered


def _view_rays(K: Tensor, R: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the components x, y, z [..., H, W] of the rays `R K^-1 (x, y, 1)`, not normalised."""
    world_from_pixel = (R.double() @ torch.linalg.inv(K.double())).to(K.dtype)[..., None, None]
    centres = cell_centres(height, width, stride=1, device=K.device).to(K.dtype)
    x, y = centres[:1, :, 0], centres[:, :1, 1]
    return tuple(
        (world_from_pixel[..., row, 0, :, :] * x + world_from_pixel[..., row, 2, :, :])
        + world_from_pixel[..., row, 1, :, :] * y
        for row in range(3)
    )


def _cut_views(
    prepare: Callable[[int], Callable[[Tensor, Tensor, Tensor], Tensor]],
    source_focal: float,
    num_channels: int,
    K: Tensor,
    R: Tensor,
    height: int,
    width: int,
) -> Tensor:
    """Render views one by one (each fits the cache), each from the mip level that suits its focal length."""
    samplers = {}
    views = torch.empty(len(K), num_channels, height, width, device=K.device)
    for view, K_view, R_view in zip(views, K.float(), R.float(), strict=True):
        level = mip_level(source_focal, K_view[0, 0].item())
        if level not in samplers:
            samplers[level] = prepare(level)
        view.copy_(samplers[level](*_view_rays(K_view, R_view, height, width)))
    return views


def _skybox_sampler(faces: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return a function that samples float faces [6, C, S, S] in directions x, y, z [H, W] -> [C, H, W]."""
    atlas, size = atlas_from_faces(faces), faces.shape[-1]

    def sample(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return F.grid_sample(atlas, atlas_grid(x, y, z, size)[None], mode="bilinear", align_corners=False)[0]

    return sample


def _check_equirectangular(name: str, height: int, width: int) -> None:
    if width != 2 * height:
        raise ValueError(
            f"{name} must be twice the height of an equirectangular image; got {width} x {height} (width x height). "
            "Crop or pad it to the full sphere."
        )
