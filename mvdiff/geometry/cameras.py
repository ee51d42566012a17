"""Cameras: intrinsics, rotations, and rigs of views that share a centre.

Conventions: see `mvdiff.geometry`.
"""

import reprlib
from collections.abc import Sequence
from math import isfinite
from operator import index as whole_number
from typing import Any

import torch
from torch import Tensor

from mvdiff.geometry.sampling import pixel_from_cell
from mvdiff.shapes import check_shapes

MAX_SIDE = 1 << 16
"""Most pixels along a side of a view."""


def intrinsics_from_fov(fov_deg: float | Tensor, height: int, width: int) -> Tensor:
    """Return pinhole intrinsics for a horizontal field of view, with square pixels and a centred principal point.

    `f = width / (2 tan(fov / 2))`, `cx = (width - 1) / 2`, `cy = (height - 1) / 2` (paper section 4;
    convention 4 of `mvdiff.geometry`).

    Args:
        fov_deg: [...] horizontal field of view in degrees, in (0, 180).
        height: Image height in pixels.
        width: Image width in pixels.

    Returns:
        [..., 3, 3] K in pixels; float64 if `fov_deg` is a float64 tensor, else float32.

    Raises:
        ValueError: A field of view is outside (0, 180) degrees.

    Example:
        >>> intrinsics_from_fov(90.0, height=4, width=8)
        tensor([[4.0000, 0.0000, 3.5000],
                [0.0000, 4.0000, 1.5000],
                [0.0000, 0.0000, 1.0000]])
    """
    fov, dtype = _angles(fov_deg)
    if not bool(((fov > 0) & (fov < 180)).all()):
        raise ValueError(
            f"fov_deg must lie between 0 and 180 degrees; got {fov_deg}. Use the horizontal field of view."
        )
    K = torch.zeros(*fov.shape, 3, 3, dtype=torch.float64, device=fov.device)
    focal = width / (2 * torch.tan(torch.deg2rad(fov) / 2))
    K[..., 0, 0] = focal
    K[..., 1, 1] = focal
    K[..., 0, 2] = (width - 1) / 2
    K[..., 1, 2] = (height - 1) / 2
    K[..., 2, 2] = 1
    return K.to(dtype)


def rotation_from_yaw_pitch(yaw_deg: float | Tensor, pitch_deg: float | Tensor) -> Tensor:
    """Return `R = R_y(yaw) R_x(pitch)`, world-from-camera (paper section 4; convention 3).

    Positive yaw turns the camera right, positive pitch tilts it up. Pitch is applied in the yawed frame, so the horizon
    stays level.

    Args:
        yaw_deg: [...] yaw in degrees.
        pitch_deg: [...] pitch in degrees, broadcast with `yaw_deg`.

    Returns:
        [..., 3, 3] world-from-camera rotation; its last column is the viewing direction. float64 if an angle is a
        float64 tensor, else float32.

    Example:
        >>> (rotation_from_yaw_pitch(90.0, 0.0)[0, 2] == 1).item()  # turned right: looks along world x
        True
        >>> (rotation_from_yaw_pitch(0.0, 30.0)[1, 2] < 0).item()  # pitched up: y points down, so y < 0
        True
    """
    yaw, yaw_dtype = _angles(yaw_deg)
    pitch, pitch_dtype = _angles(pitch_deg)
    yaw, pitch = torch.broadcast_tensors(torch.deg2rad(yaw), torch.deg2rad(pitch))
    sin_y, cos_y, sin_p, cos_p = yaw.sin(), yaw.cos(), pitch.sin(), pitch.cos()
    rows = [
        [cos_y, sin_y * sin_p, sin_y * cos_p],
        [torch.zeros_like(yaw), cos_p, -sin_p],
        [-sin_y, cos_y * sin_p, cos_y * cos_p],
    ]
    R = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    return R.to(torch.promote_types(yaw_dtype, pitch_dtype))


def resize_intrinsics(K: Tensor, scale_x: float, scale_y: float) -> Tensor:
    """Return the intrinsics of an image after resizing (convention 4).

    Focal lengths scale by s, and the principal point maps like any pixel coordinate: x to `s (x + 0.5) - 0.5`.

    Args:
        K: [..., 3, 3] intrinsics in pixels.
        scale_x: New width divided by old width.
        scale_y: New height divided by old height.

    Returns:
        [..., 3, 3] intrinsics in pixels of the resized image.

    Example:
        >>> resized = resize_intrinsics(intrinsics_from_fov(90.0, 4, 8), scale_x=0.5, scale_y=0.5)
        >>> torch.equal(resized, intrinsics_from_fov(90.0, 2, 4))
        True
    """
    check_shapes(K=(K, "... 3 3"))
    resized = K.clone()
    for row, scale in enumerate((scale_x, scale_y)):
        resized[..., row, :2] *= scale
        resized[..., row, 2] = pixel_from_cell(K[..., row, 2], stride=scale)
    return resized


class Rig:
    """A fixed set of views that share a camera centre and an image size.

    Each view has its own yaw, pitch and field of view. Rigs are immutable and hashable; they compare by value, also
    across subclasses.

    Args:
        views: (yaw, pitch, horizontal field of view) of each view, in degrees.
        height: Image height in pixels.
        width: Image width in pixels.

    Raises:
        ValueError: `views` is empty, a view is not three numbers, a field of view is outside (0, 180), or the image is
            empty.

    Example:
        >>> rig = Rig([(0, 0, 90), (45, 20, 60)], height=64, width=96)
        >>> K, R = rig.cameras()
        >>> K.shape, rig.num_views, rig == Rig.from_dict(rig.to_dict())
        (torch.Size([2, 3, 3]), 2, True)
    """

    def __init__(self, views: Sequence[tuple[float, float, float]], height: int = 512, width: int = 512):
        if len(views) == 0:
            raise ValueError("views must hold at least one (yaw, pitch, fov) triple; got none.")
        self._views = tuple(_view(number, view) for number, view in enumerate(views))
        self._height = _side("height", height)
        self._width = _side("width", width)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rig) and self._value() == other._value()

    def __hash__(self) -> int:
        return hash(self._value())

    def __repr__(self) -> str:
        return f"Rig(views={self.views}, height={self.height}, width={self.width})"

    def _value(self) -> tuple[Any, ...]:
        return self._views, self._height, self._width

    @property
    def views(self) -> tuple[tuple[float, float, float], ...]:
        """(yaw, pitch, horizontal field of view) of each view, in degrees."""
        return self._views

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return self._height

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return self._width

    @property
    def num_views(self) -> int:
        """Number of views V."""
        return len(self.views)

    @property
    def yaw_deg(self) -> list[float]:
        """Yaw of each view in degrees, positive to the right."""
        return [yaw for yaw, _, _ in self.views]

    @property
    def pitch_deg(self) -> list[float]:
        """Pitch of each view in degrees, positive upwards."""
        return [pitch for _, pitch, _ in self.views]

    @property
    def fov_deg(self) -> list[float]:
        """Horizontal field of view of each view in degrees."""
        return [fov for _, _, fov in self.views]

    def cameras(self, yaw_offset_deg: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the cameras of all views.

        Args:
            yaw_offset_deg: Degrees by which to turn the whole rig to the right.

        Returns:
            K [V, 3, 3] in pixels and R [V, 3, 3] world-from-camera, float32.
        """
        yaw, pitch, fov = torch.tensor(self.views, dtype=torch.float64).unbind(dim=-1)
        K = intrinsics_from_fov(fov, self.height, self.width)
        R = rotation_from_yaw_pitch(yaw + yaw_offset_deg, pitch)
        return K.float(), R.float()

    def resized(self, height: int, width: int) -> "Rig":
        """Return the same rig at another image size.

        The horizontal field of view stays; the aspect ratio sets the vertical one.
        """
        return Rig(self.views, height, width)

    def to_dict(self) -> dict[str, Any]:
        """Return the rig as plain numbers and lists, for JSON."""
        return {"views": [list(view) for view in self.views], "height": self.height, "width": self.width}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Rig":
        """Build a rig from the output of `to_dict`.

        Raises:
            ValueError: Keys are missing or unknown, or the rig is invalid.
        """
        if not isinstance(values, dict) or set(values) != {"views", "height", "width"}:
            got = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ValueError(f"rig must have the keys views, height, width; got {got}.")
        if not isinstance(values["views"], list | tuple):
            raise ValueError(f"views must be a list of (yaw, pitch, fov); got {reprlib.repr(values['views'])}.")
        return Rig(values["views"], values["height"], values["width"])


class RingRig(Rig):
    """A full turn of evenly spaced views at one pitch, from yaw 0 to the right.

    The defaults are the paper's (section 4): 8 views of 90 degrees, 45 degrees apart.

    Args:
        num_views: Number of views V.
        fov_deg: Horizontal field of view in degrees.
        pitch_deg: Pitch of every view in degrees.
        height: Image height in pixels.
        width: Image width in pixels.

    Example:
        >>> RingRig(num_views=4).yaw_deg
        [0.0, 90.0, 180.0, 270.0]
    """

    def __init__(
        self, num_views: int = 8, fov_deg: float = 90.0, pitch_deg: float = 0.0, height: int = 512, width: int = 512
    ):
        super().__init__(_ring(num_views, fov_deg, pitch_deg), height, width)


class RingAndPolesRig(Rig):
    """A ring of views, followed by one view straight up and one straight down, both at yaw 0.

    Args:
        num_views: Number of views in the ring (V = num_views + 2).
        fov_deg: Horizontal field of view of the ring's views in degrees.
        pitch_deg: Pitch of the ring's views in degrees.
        pole_fov_deg: Horizontal field of view of the two pole views in degrees.
        height: Image height in pixels.
        width: Image width in pixels.

    Example:
        >>> RingAndPolesRig(num_views=4).pitch_deg
        [0.0, 0.0, 0.0, 0.0, 90.0, -90.0]
    """

    def __init__(
        self,
        num_views: int = 8,
        fov_deg: float = 90.0,
        pitch_deg: float = 0.0,
        pole_fov_deg: float = 90.0,
        height: int = 512,
        width: int = 512,
    ):
        poles = [(0.0, 90.0, pole_fov_deg), (0.0, -90.0, pole_fov_deg)]
        super().__init__(_ring(num_views, fov_deg, pitch_deg) + poles, height, width)


def _view(number: int, view: Sequence[float]) -> tuple[float, float, float]:
    try:
        yaw, pitch, fov = map(float, view)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"views must be (yaw, pitch, fov) triples in degrees; got {reprlib.repr(view)} for view {number}."
        ) from error
    if not (isfinite(yaw) and isfinite(pitch)):
        raise ValueError(f"yaw and pitch must be finite; got {yaw} and {pitch} for view {number}.")
    if not 0 < fov < 180:
        raise ValueError(
            f"fov must lie between 0 and 180 degrees; got {view[2]} for view {number}. "
            "Use the horizontal field of view."
        )
    return yaw, pitch, fov


def _side(name: str, pixels: int) -> int:
    try:
        side = whole_number(pixels)
    except TypeError as error:
        raise ValueError(f"{name} must be a whole number of pixels; got {reprlib.repr(pixels)}.") from error
    if not 1 <= side <= MAX_SIDE:
        raise ValueError(f"{name} must be at least 1 pixel and at most {MAX_SIDE}; got {side}.")
    return side


def _ring(num_views: int, fov_deg: float, pitch_deg: float) -> list[tuple[float, float, float]]:
    if num_views < 1:
        raise ValueError(f"num_views must be at least 1; got {num_views}.")
    return [(360.0 * view / num_views, pitch_deg, fov_deg) for view in range(num_views)]


def _angles(angle_deg: float | Tensor | Sequence[float]) -> tuple[Tensor, torch.dtype]:
    """Return angles in float64, and the dtype for results computed from them."""
    if isinstance(angle_deg, Tensor):
        return angle_deg.double(), torch.float64 if angle_deg.dtype == torch.float64 else torch.float32
    return torch.as_tensor(angle_deg, dtype=torch.float64), torch.float32
