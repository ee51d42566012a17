"""Make videos of samples: a camera turning in a panorama, or the frames of a recording in order.

Legend: H W panorama, h w frame of the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mvdiff.files.writing import whole_file
from mvdiff.geometry.cameras import intrinsics_from_fov, rotation_from_yaw_pitch
from mvdiff.geometry.panorama import perspective_from_equirectangular
from mvdiff.report.images import paint_uncovered
from mvdiff.report.pictures import panorama_of
from mvdiff.samples import Sample
from mvdiff.samples.pixels import read_png

QUALITY = 17
"""Constant rate factor of x264: lower is better; the loss at 17 and below is invisible."""
_FASTSTART = {"movflags": "faststart"}
_BT709 = 1  # ITU-T H.273: primaries, transfer and matrix of HDTV, which players assume by default


def turning_frames(
    panorama: np.ndarray,
    num_frames: int,
    height: int,
    width: int,
    fov_deg: float = 90.0,
    pitch_deg: float = 0.0,
    yaw_deg: float = 0.0,
) -> Iterator[np.ndarray]:
    """Yield the frames [h, w, 3] uint8 of a camera that turns once to the right in a panorama; they form a loop.

    Args:
        panorama: [H, 2 H, 3] uint8.
        num_frames: Number of frames of the full turn.
        height: Height of a frame in pixels.
        width: Width of a frame in pixels.
        fov_deg: Horizontal field of view in degrees, in (0, 180).
        pitch_deg: Pitch in degrees, in [-90, 90], positive upwards.
        yaw_deg: Yaw of the first frame in degrees, positive to the right.

    Raises:
        ValueError: The field of view, the pitch or the number of frames is out of range.
    """
    if num_frames < 1:
        raise ValueError(f"num_frames must be at least 1; got {num_frames}. Use more seconds or frames per second.")
    if not -90 <= pitch_deg <= 90:
        raise ValueError(f"pitch_deg must lie between -90 and 90 degrees; got {pitch_deg}.")
    source = torch.from_numpy(np.ascontiguousarray(panorama)).permute(2, 0, 1)
    K = intrinsics_from_fov(float(fov_deg), height, width)[None]
    for i in range(num_frames):
        R = rotation_from_yaw_pitch(yaw_deg + 360.0 * i / num_frames, pitch_deg)[None]
        frame = perspective_from_equirectangular(source, K, R, height, width)[0]
        yield frame.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()


def panorama_picture(sample: Sample) -> np.ndarray:
    """Return a sample's panorama [H, 2 H, 3] uint8, stored or stitched, grey where no view sees it."""
    panorama = panorama_of(sample)
    return paint_uncovered(*panorama) if isinstance(panorama, tuple) else panorama


def recorded_frames(sample: Sample, height: int | None = None, width: int | None = None) -> Iterator[np.ndarray]:
    """Yield the frames [h, w, 3] uint8 of a recording in order.

    Args:
        sample: Sample of a recording.
        height: Height of the video in pixels; default: that of the frames, rounded up to an even number.
        width: Width of the video in pixels; default: that of the frames, rounded up to an even number.

    Raises:
        ValueError: An image cannot be read, or differs in size from the first.
    """
    size = None
    for path in sample.view_paths:
        frame = read_png(path).permute(1, 2, 0).numpy()
        size = size or frame.shape
        if frame.shape != size:
            raise ValueError(
                f"frames of a video must have the same size; got {frame.shape[1]} x {frame.shape[0]} and "
                f"{size[1]} x {size[0]} pixels, in {path}."
            )
        if height is None and width is None:
            yield np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        else:
            wanted = (width or size[1] + size[1] % 2, height or size[0] + size[0] % 2)
            yield np.asarray(Image.fromarray(frame).resize(wanted, Image.Resampling.BICUBIC))


def require_av():
    """Import and return PyAV.

    Raises:
        ModuleNotFoundError: PyAV is not installed; the message says how to install it.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'videos need the package av, which is not installed. Install it with: pip install "mvdiff[video]"'
        ) from error
    return av


def write_video(path: str | Path, frames: Iterable[np.ndarray], fps: float = 30.0) -> int:
    """Write an MP4 (H.264, yuv420p, BT.709) that browsers can play.

    An existing file is replaced; after an error no partial file is left.

    Args:
        path: Output file.
        frames: [h, w, 3] uint8 each, of the same, even size.
        fps: Frames per second.

    Returns:
        Number of frames.

    Raises:
        ValueError: A side is odd, sizes differ, there are no frames, or `fps` is not positive.
        ModuleNotFoundError: PyAV is not installed.
        OSError: The file cannot be written.
    """
    av = require_av()
    path = Path(path)
    if not fps > 0:
        raise ValueError(f"fps must be above 0; got {fps}.")
    size, count = None, 0
    try:
        # by name: FFmpeg reads the file again to move its index to the front
        with whole_file(path) as file, av.open(file.name, "w", format="mp4", options=_FASTSTART) as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            for frame in frames:
                if size is None:
                    size = frame.shape
                    _describe(stream, *size[:2])
                if frame.shape != size:
                    raise ValueError(f"frames must have the same size; got {frame.shape} and {size}.")
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace="ITU709")))
                count += 1
            if not count:
                raise ValueError(f"frames must not be empty; got no frame, for {path}.")
            container.mux(stream.encode())
    except OSError as error:
        raise OSError(f"--out must be a writable file; got {path} ({error.strerror or error}).") from error
    return count


def _describe(stream, height: int, width: int) -> None:
    """Set size, pixel format, quality and colour space of a stream; yuv420p requires even sides."""
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise ValueError(f"height and width of a video must be even; got {height} and {width}.")
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.options = {"crf": str(QUALITY), "preset": "medium"}
    context = stream.codec_context
    context.color_primaries = context.color_trc = context.colorspace = _BT709
    context.color_range = 1  # limited range, 16 .. 235
