"""Decode ScanNet's .sens recordings into the ScanNet layout, frame by frame: `mvdiff data import-sens`.

The format (version 4, little endian): uint32 version; uint64 length and the sensor's name; intrinsics and extrinsics
of colour, then of depth, 4x4 float32 each; int32 compression of colour (0 raw, 1 PNG, 2 JPEG) and of depth (0 raw
uint16, 1 zlib); uint32 colour width and height, depth width and height; float32 depth units per metre; uint64 number of
frames; then per frame a 4x4 float32 world-from-camera pose, uint64 time stamps of colour and depth, uint64 sizes of the
two in bytes, and their bytes. Motion-sensor readings follow, which are not read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mvdiff.data.counts import check_counts
from mvdiff.data.frame_files import numbers_in
from mvdiff.files.depths import known_values
from mvdiff.files.writing import whole_file
from mvdiff.samples.pixels import png_bytes

RAW, PNG, JPEG = 0, 1, 2
RAW_USHORT, ZLIB_USHORT = 0, 1
MAX_SIDE = 1 << 14
"""Most pixels along a side of a frame."""
_FRAME = struct.Struct("<16f4Q")


class TruncatedError(ValueError):
    """Raised if the file ends early or states an impossible size."""


@dataclass(frozen=True)
class SensHeader:
    """Header of a .sens file; sizes are (height, width)."""

    sensor: str
    matrices: dict[str, np.ndarray]  # intrinsic_color, extrinsic_color, intrinsic_depth, extrinsic_depth: 4x4 float32
    color_compression: int  # RAW, PNG or JPEG
    depth_compression: int  # RAW_USHORT or ZLIB_USHORT
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_units: float  # value of a stored depth at one metre
    num_frames: int


@dataclass(frozen=True)
class SensFrame:
    """One frame as stored: its number, 4x4 float32 world-from-camera pose, time stamps, colour and depth bytes."""

    number: int
    pose: np.ndarray
    time_color: int
    time_depth: int
    color: bytes
    depth: bytes


class SensReader:
    """Reader of a .sens file, a context manager that holds one frame in memory at a time.

    Args:
        path: The file.

    Attributes:
        header: Header of the file.
        current: Number of the frame last started.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is a folder, not a .sens file of version 4, or of a compression that is not supported.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            recordings = sorted(self.path.rglob("*.sens"))
            advice = f"; give one of the {len(recordings)} below it, such as {recordings[0]}" if recordings else ""
            below = advice or " without any .sens file below it"
            raise ValueError(f"FILE must be one .sens recording; {self.path} is a folder{below}.")
        if not self.path.is_file():
            raise FileNotFoundError(f"FILE must be a .sens recording; {self.path} does not exist.")
        self.current = 0
        self._size = self.path.stat().st_size
        self._file: BinaryIO = self.path.open("rb")
        try:
            self.header = self._read_header()
            self._first = self._file.tell()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SensReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _check_left(self, count: int) -> None:
        if count > self._size - self._file.tell():
            raise TruncatedError(f"needs {count} bytes at byte {self._file.tell()}, but the file has {self._size}")

    def _read(self, count: int) -> bytes:
        self._check_left(count)
        return self._file.read(count)

    def _unpack(self, form: str) -> tuple:
        return struct.unpack(form, self._read(struct.calcsize(form)))

    def _read_header(self) -> SensHeader:
        try:
            (version,) = self._unpack("<I")
            if version != 4:
                raise ValueError(f"{self.path} must be a .sens file of version 4; got {version}.")
            (length,) = self._unpack("<Q")
            sensor = self._read(length).decode("utf-8", errors="replace")
            names = ("intrinsic_color", "extrinsic_color", "intrinsic_depth", "extrinsic_depth")
            matrices = {name: np.frombuffer(self._read(64), "<f4").reshape(4, 4) for name in names}
            color_compression, depth_compression = self._unpack("<2i")
            color_width, color_height, depth_width, depth_height = self._unpack("<4I")
            depth_units, num_frames = self._unpack("<fQ")
        except TruncatedError as error:
            raise ValueError(
                f"{self.path} must be a complete .sens file; its header is truncated ({error}). Download it again."
            ) from error
        for name, value, known in (
            ("colour", color_compression, {RAW: "raw", PNG: "PNG", JPEG: "JPEG"}),
            ("depth", depth_compression, {RAW_USHORT: "raw", ZLIB_USHORT: "zlib"}),
        ):
            if value not in known:
                options = ", ".join(f"{number} ({text})" for number, text in known.items())
                raise ValueError(f"{name} compression must be one of {options}; got {value}, in {self.path}.")
        if not (depth_units > 0 and isfinite(depth_units)):
            raise ValueError(f"depth units per metre must be positive; got {depth_units}, in {self.path}.")
        for name, side in (
            ("colour width", color_width),
            ("colour height", color_height),
            ("depth width", depth_width),
            ("depth height", depth_height),
        ):
            if not 1 <= side <= MAX_SIDE:
                raise ValueError(f"{name} must be from 1 to {MAX_SIDE} pixels; got {side}, in {self.path}.")
        return SensHeader(
            sensor,
            matrices,
            color_compression,
            depth_compression,
            (color_height, color_width),
            (depth_height, depth_width),
            depth_units,
            num_frames,
        )

    def frames(self, wanted: Callable[[int], bool] = lambda number: True) -> Iterator[SensFrame]:
        """Yield, in order, the frames whose number satisfies `wanted`.

        Raises:
            TruncatedError: The file ends before its last frame; complete frames have been yielded.
        """
        for number, pose, times, (color_size, depth_size) in self.heads():
            if wanted(number):
                yield SensFrame(number, pose, *times, self._read(color_size), self._read(depth_size))

    def heads(self) -> Iterator[tuple[int, np.ndarray, tuple[int, int], tuple[int, int]]]:
        """Yield each frame's number, pose, time stamps, and sizes of colour and depth in bytes, in order.

        Raises:
            TruncatedError: See `frames`.
        """
        self._file.seek(self._first)
        for number in range(self.header.num_frames):
            self.current = number
            *pose, time_color, time_depth, color_size, depth_size = _FRAME.unpack(self._read(_FRAME.size))
            images = self._file.tell()
            self._check_left(color_size + depth_size)
            matrix = np.array(pose, np.float32).reshape(4, 4)
            yield number, matrix, (time_color, time_depth), (color_size, depth_size)
            self._file.seek(images + color_size + depth_size)

    def depth_millimetres(self, frame: SensFrame) -> np.ndarray:
        """Decode a frame's depth as uint16 [H, W] in millimetres, 0 where unknown.

        Raises:
            ValueError: The bytes are damaged or do not match the depth size.
        """
        data = frame.depth
        height, width = self.header.depth_size
        if self.header.depth_compression == ZLIB_USHORT:
            stream = zlib.decompressobj()
            try:
                data = stream.decompress(data, 2 * height * width + 1)  # one byte more shows that it is too long
            except zlib.error as error:
                raise ValueError(f"depth cannot be decompressed ({error})") from error
            if len(data) > 2 * height * width:
                raise ValueError(f"depth is more than 2 x {height} x {width} bytes")
        if len(data) != 2 * height * width:
            raise ValueError(f"depth is {len(data)} bytes, not 2 x {height} x {width}")
        values = known_values(np.frombuffer(data, "<u2").reshape(height, width))
        if self.header.depth_units != 1000:
            values = np.round(values * (1000 / self.header.depth_units)).clip(0, 65535).astype(np.uint16)
        return values


@dataclass(frozen=True)
class SensReport:
    """Result of `import_sens`."""

    saved: int  # frames saved now
    kept: int  # frames saved by an earlier run
    total: int  # frames in the file


def import_sens(
    path: str | Path, folder: str | Path, frame_skip: int = 1, progress: Callable[[int, int], None] | None = None
) -> SensReport:
    """Convert a .sens recording to a scene in the ScanNet layout (color, depth, pose, intrinsic).

    Frames of an earlier run are kept. JPEG and PNG colour is copied unchanged; raw colour becomes PNG.

    Args:
        path: The .sens file.
        folder: Folder of the scene.
        frame_skip: Save every `frame_skip`-th frame, under its original number.
        progress: Called with (frames done, total).

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: A setting is out of range, the file is not a .sens file of version 4, is damaged or truncated
            (frames before the damage are saved), or the folder holds another recording.
    """
    check_counts(frame_skip=frame_skip)
    folder, report = Path(folder), progress or (lambda done, total: None)
    saved = kept = 0
    with SensReader(path) as reader:
        header = reader.header
        _check_same_recording(folder, reader)
        _write_intrinsics(folder, header)
        suffix = _suffix(header)

        def files(number: int) -> list[Path]:
            return [folder / "color" / f"{number}{suffix}", folder / "depth" / f"{number}.png", _pose(folder, number)]

        def wanted(number: int) -> bool:
            nonlocal kept
            report(number, header.num_frames)
            if number % frame_skip:
                return False
            exists = all(file.is_file() for file in files(number))
            kept += exists
            return not exists

        try:
            for frame in reader.frames(wanted):
                _write_frame(files(frame.number), frame, reader)
                saved += 1
        except ValueError as error:
            raise ValueError(
                f"{path} must be a complete .sens file of {header.num_frames} frames; it breaks in frame "
                f"{reader.current}: {error}. {saved} frames were saved now and {kept} before, in {folder}. Download "
                "the file again and rerun: saved frames are kept."
            ) from error
        report(header.num_frames, header.num_frames)
    return SensReport(saved, kept, header.num_frames)


def _pose(folder: Path, number: int) -> Path:
    return folder / "pose" / f"{number}.txt"


def _write_frame(files: list[Path], frame: SensFrame, reader: SensReader) -> None:
    color, depth, pose = files
    millimetres = reader.depth_millimetres(frame)  # decode first, so that nothing of a damaged frame is written
    colour = frame.color
    if reader.header.color_compression == RAW:
        height, width = reader.header.color_size
        if len(colour) != 3 * height * width:
            raise ValueError(f"colour is {len(colour)} bytes, not 3 x {height} x {width}")
        colour = png_bytes(np.frombuffer(colour, np.uint8).reshape(height, width, 3))
    _write(depth, png_bytes(millimetres))
    _write(pose, _text(frame.pose))
    _write(color, colour)


def _check_same_recording(folder: Path, reader: SensReader) -> None:
    """Raise if the matrices, poses or sizes of colour files in a folder differ from the recording's.

    Poses alone do not distinguish recordings of a camera that stands still. No image is read.
    """

    def check(path: Path, is_same: bool) -> None:
        if not is_same:
            raise ValueError(
                f"DIR must be empty or hold frames of {reader.path}; got {folder}, whose "
                f"{path.relative_to(folder).as_posix()} is not of that recording."
            )

    def check_text(path: Path, matrix: np.ndarray) -> None:
        check(path, not path.is_file() or path.read_bytes() == _text(matrix))

    header = reader.header
    for name, matrix in header.matrices.items():
        check_text(folder / "intrinsic" / f"{name}.txt", matrix)
    saved = set(numbers_in(folder / "pose"))
    if not saved:
        return
    check(_pose(folder, max(saved)), max(saved) < header.num_frames)
    with suppress(TruncatedError):  # raised again when the frames are read
        for number, pose, _, (color_size, _) in reader.heads():
            if number in saved:
                check_text(_pose(folder, number), pose)
                color = folder / "color" / f"{number}{_suffix(header)}"
                if header.color_compression != RAW and color.is_file():
                    check(color, color.stat().st_size == color_size)
            if number == max(saved):
                return


def _suffix(header: SensHeader) -> str:
    return ".jpg" if header.color_compression == JPEG else ".png"


def _write_intrinsics(folder: Path, header: SensHeader) -> None:
    """Create the folders of a scene and write the four matrices."""
    for sub in ("color", "depth", "pose", "intrinsic"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for name, matrix in header.matrices.items():
        _write(folder / "intrinsic" / f"{name}.txt", _text(matrix))


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def _text(matrix: np.ndarray) -> bytes:
    """Format float32 numbers so that they can be read back exactly."""
    return "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in matrix.tolist()).encode()
