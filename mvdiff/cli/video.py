"""`mvdiff video`: sample folders as MP4."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mvdiff.cli.command import UNFINISHED, Command, done, plural, typed

_RANGES = {"seconds": (0.01, 3600), "fps": (0.1, 240), "fov": (1, 179), "pitch": (-90, 90), "yaw": (-360, 360)}
_SIDES = (2, 16384)  # rows or columns that x264 can encode


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Samples and camera."""

    dir: Path = field(kw_only=False)
    """a sample folder, or a root of them"""
    out: Path | None = None
    """video.mp4; for several samples, a folder (default: beside the samples)"""
    seconds: float = 12.0
    """length of the whole turn"""
    fps: float | None = None
    """frames per second (default: 30; of recordings: 8)"""
    fov: float = 90.0
    """horizontal field of view in degrees"""
    pitch: float = 0.0
    """pitch of the camera, degrees upwards"""
    yaw: float = 0.0
    """where the turn begins, degrees to the right"""
    height: int | None = None
    """rows (default: 360; of recordings: the frames' own)"""
    width: int | None = None
    """columns (default: 640; of recordings: the frames' own)"""
    rig: Path | None = None
    """cameras of sample folders of the 2023 release, which hold none: a JSON file, as `rig` in sample.json"""

    def check(self) -> None:
        """Raise ValueError where a value is out of range."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"--{name} must lie between {low} and {high}; got {value:g}.")
        low, high = _SIDES
        for name in ("height", "width"):
            value = getattr(self, name)
            if value is not None and (value % 2 or not low <= value <= high):
                nearest = min(max(value + value % 2, low), high)
                raise ValueError(f"--{name} must be even, from {low} to {high}; got {value}. Use {nearest}.")


def run(options: VideoOptions) -> int:
    """Check, draw, write; return the exit status, 3 where a sample was left out."""
    from mvdiff.cli.out_files import check_folder, check_out
    from mvdiff.cli.progress import progress_bar
    from mvdiff.cli.rig_files import read_rig
    from mvdiff.report.video import require_av
    from mvdiff.samples import read_sample, scan_samples

    require_av()
    options.check()
    rig = read_rig(options.rig)
    complete, incomplete = scan_samples(options.dir)
    samples, problems = [], [f"{folder}: incomplete, its sample.json is missing" for folder in incomplete]
    for folder in complete:
        try:
            samples.append(read_sample(folder, rig))
        except (ValueError, OSError) as error:
            problems.append(str(error))
    if not samples:
        why = f" ({problems[0]})" if problems else ""
        raise ValueError(f"DIR must hold a complete sample; got none{why}, in {options.dir}.")
    out = options.out
    single = out is not None and (len(complete) == 1 or out.suffix)
    if single:
        check_out(out, ".mp4")
        if len(samples) > 1:
            raise ValueError(f"--out must be a folder where DIR holds several samples ({len(samples)}); got {out}.")
    elif out is not None:
        check_folder(out)
    written: list[Path] = []
    with progress_bar() as bar:
        task = bar.add_task("samples", total=len(samples))
        for sample in samples:
            folder = sample.folder.resolve()
            path = out if single else (out or folder.parent) / f"{folder.name}.mp4"
            try:
                print(f"{path}: {_write(path, sample, options)}")
                written.append(path)
            except (ValueError, OSError) as error:
                if single:
                    raise
                problems.append(str(error))
            bar.advance(task)
    if not written:
        raise ValueError(f"DIR must hold a sample that can be drawn; got none ({problems[0]}).")
    for problem in problems:
        print(f"left out {problem}")
    done(f"{plural(len(written), 'video')} written", typed("xdg-open", written[0]) + " (or open it in any player)")
    return UNFINISHED if problems else 0


def _write(path: Path, sample, options: VideoOptions) -> str:
    from mvdiff.cli.out_files import make_folder
    from mvdiff.report.pictures import is_recording
    from mvdiff.report.video import panorama_picture, recorded_frames, turning_frames, write_video

    if is_recording(sample):
        fps = 8.0 if options.fps is None else options.fps
        frames = recorded_frames(sample, options.height, options.width)
    else:
        fps = 30.0 if options.fps is None else options.fps
        camera = {"fov_deg": options.fov, "pitch_deg": options.pitch, "yaw_deg": options.yaw}
        size = (360 if options.height is None else options.height, 640 if options.width is None else options.width)
        frames = turning_frames(panorama_picture(sample), round(options.seconds * fps), *size, **camera)
    make_folder(path.parent)
    count = write_video(path, frames, fps)
    return f"{count} frames, {count / fps:.1f} s, {path.stat().st_size / 1e6:.1f} MB"


COMMANDS = (
    Command(
        name="video",
        summary="a camera that turns in a panorama, or the frames of a recording, as MP4",
        description="Write an MP4 of each sample, to --out: of a panorama, a camera that turns once around to the "
        "right and ends where it began; of frames of a scene, the frames in order. Exits with 3 if one is left out.",
        example="mvdiff video out/0000 --out video.mp4",
        settings=(VideoOptions,),
        run=run,
    ),
)
