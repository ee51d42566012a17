"""Frames of simple worlds whose depths follow from a formula, for the tests of what is fused from them."""

import numpy as np
import torch

from mvdiff.geometry import intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.mesh import Frame

HEIGHT, WIDTH = 30, 40
EYE = torch.eye(3, dtype=torch.float64)
ORIGIN = torch.zeros(3, dtype=torch.float64)


def camera(yaw=0.0, pitch=0.0, t=(0.0, 0.0, 0.0), fov=90.0, height=HEIGHT, width=WIDTH):
    """K, R, t of a camera, float64."""
    angles = torch.tensor([yaw, pitch], dtype=torch.float64)
    K = intrinsics_from_fov(torch.tensor(fov, dtype=torch.float64), height, width)
    return K, rotation_from_yaw_pitch(*angles), torch.tensor(t, dtype=torch.float64)


def rays(K, R, height, width):
    """World directions [H, W, 3] of pixels, z = 1 in the camera: depth is what they are multiplied with."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(K.numpy()).T @ R.numpy().T


def frame(depth, K, R, t, colour=(200, 100, 50)):
    """A frame of one colour, or of colours [H, W, 3]."""
    image = np.broadcast_to(np.asarray(colour, np.uint8), (*depth.shape, 3)).copy()
    return Frame(torch.from_numpy(image), torch.from_numpy(np.asarray(depth, np.float32)), K, R, t)


def plane_frame(normal, offset, colour=(200, 100, 50), **where):
    """A frame that shows the plane ``normal . x = offset`` wherever a ray meets it in front."""
    K, R, t = camera(**where)
    height, width = where.get("height", HEIGHT), where.get("width", WIDTH)
    towards = rays(K, R, height, width) @ np.asarray(normal, float)
    depth = (offset - t.numpy() @ np.asarray(normal, float)) / np.where(np.abs(towards) < 1e-9, 1e-9, towards)
    return frame(np.where(depth > 0, depth, 0), K, R, t, colour)


def ball_frame(centre, radius, **where):
    """A frame that shows a ball and nothing else, coloured by where on it the pixel lies: [0, 255] from -r to r."""
    K, R, t = camera(**where)
    directions = rays(K, R, where.get("height", HEIGHT), where.get("width", WIDTH))
    away = t.numpy() - np.asarray(centre)
    a, b, c = (directions**2).sum(-1), directions @ away, away @ away - radius**2
    root = b * b - a * c
    depth = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, 0)
    return frame(depth, K, R, t, ball_colours(t.numpy() + depth[..., None] * directions, centre, radius))


def ball_colours(points, centre, radius):
    """Colours [..., 3] uint8 of points on a ball."""
    return np.round((np.clip((points - np.asarray(centre)) / radius, -1, 1) + 1) * 127.5).astype(np.uint8)


def around(centre, distance, count=20, **size):
    """Cameras all around a point, looking at it: arguments of a frame."""
    for i in range(count):  # a spiral on the sphere
        y = 1 - 2 * (i + 0.5) / count
        yaw, pitch = 180 * (3 - 5**0.5) * i, np.rad2deg(np.arcsin(y))
        R = rotation_from_yaw_pitch(float(yaw), float(pitch)).numpy()
        yield {"yaw": yaw, "pitch": pitch, "t": tuple(np.asarray(centre) - distance * R[:, 2]), **size}
