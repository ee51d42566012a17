"""Values of 16-bit depth images."""

from __future__ import annotations

import numpy as np

SATURATED = 65535
"""Largest value of 16 bits. Recordings in the manner of NYU, Redwood and Kinect's SDK store it where there is no depth,
and sensors where a depth is out of range; it is read as 0, no depth."""


def known_values(values: np.ndarray) -> np.ndarray:
    """Replace `SATURATED` by 0, the value of pixels without depth.

    Example:
        >>> known_values(np.array([0, 1500, 65535], np.uint16)).tolist()
        [0, 1500, 0]
    """
    return np.where(values == SATURATED, 0, values)
