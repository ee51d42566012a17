"""Fuse depth and colour into a sparse truncated signed distance function (TSDF).

Source: Curless and Levoy 1996 (weighted averages of projective signed distances), with blocks of voxels near surfaces,
looked up by integer position, after Niessner et al. 2013. The local planes and the weights are our own derivation.

Voxel (i, j, k) is centred at `voxel_size * (i, j, k)` in the world, so the grid does not depend on the recording.
Distances are positive in front of a surface, in units of the truncation, at most 1. Voxels hold plain sums, so the
order of frames and the batching of blocks do not matter (up to rounding).
"""

from collections.abc import Callable
from typing import Any

from mvdiff.data.recorded_frames import checked
from mvdiff.geometry.consistency import Frames
from mvdiff.mesh.volume import DEFAULT_MAX_DEPTH, DEFAULT_MAX_MEMORY, TsdfVolume

DEFAULT_VOXEL_SIZE = 0.02
LENGTHS = 1e-6, 1e6
"""Range of lengths in settings, metres; beyond it, volumes overflow or underflow floats."""


def check_settings(
    voxel_size: float = DEFAULT_VOXEL_SIZE,
    truncation: float | None = None,
    max_depth: float = DEFAULT_MAX_DEPTH,
    max_memory: float = DEFAULT_MAX_MEMORY,
) -> None:
    """Check the settings of `fuse` before any frame is read.

    Raises:
        ValueError: A length is outside `LENGTHS`, `truncation` is below `voxel_size`, or `max_memory` is not positive.
    """
    shortest, longest = LENGTHS
    length = f"a length from {shortest:g} to {longest:g} metres"
    for name, value, least, requirement in (
        ("voxel_size", voxel_size, shortest, length),
        ("truncation", truncation, voxel_size, f"at least a voxel, {voxel_size:g} m, and at most {longest:g} m"),
        ("max_depth", max_depth, shortest, length),
    ):
        if value is not None and not least <= value <= longest:
            raise ValueError(f"{name} must be {requirement}; got {value:g}.")
    if not max_memory > 0:
        raise ValueError(f"max_memory must be a positive number of GiB, or inf; got {max_memory:g}.")


def fuse(
    frames: Frames,
    voxel_size: float = DEFAULT_VOXEL_SIZE,
    truncation: float | None = None,
    max_depth: float = DEFAULT_MAX_DEPTH,
    max_memory: float = DEFAULT_MAX_MEMORY,
    progress: Callable[[], Any] = lambda: None,
) -> TsdfVolume:
    """Fuse frames into a volume.

    Args:
        frames: Frames; each is read once and not held in memory.
        voxel_size: Voxel size in metres.
        truncation: Distance in metres, in front of and behind a surface, within which distances are stored; None:
            3 voxels.
        max_depth: Largest depth to use, in metres.
        max_memory: Largest size of the volume in GiB.
        progress: Called after each of the V frames.

    Raises:
        ValueError: A setting is out of range, the volume would exceed `max_memory`, or no frame has a depth.
    """
    check_settings(voxel_size, truncation, max_depth, max_memory)
    volume = TsdfVolume(voxel_size, 3 * voxel_size if truncation is None else truncation, max_memory)
    for index in range(len(frames)):
        volume.integrate(checked(frames[index]), max_depth)
        progress()
    if not len(volume.keys):
        where = f", such as {frames[0].name}" if len(frames) else ""
        raise ValueError(
            f"frames must have depths within max_depth ({max_depth:g} m); got none in {len(frames)} frames{where}. "
            "Check the depth images (uint16, millimetres), or raise max_depth."
        )
    volume.carve()
    return volume
