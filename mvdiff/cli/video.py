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
    """a sample folder, or a folder of them"""
    out: Path | None = None
    """the .mp4 file; with several samples, a folder (default: NAME.mp4 beside each sample folder NAME)"""
    seconds: float = 12.0
    """duration of the turn in seconds, for panoramas"""
    fps: float | None = None
    """frames per second (default: 30 for panoramas, 8 for scenes)"""
    fov: float = 90.0
    """horizontal field of view of the camera in degrees, for panoramas"""
    pitch: float = 0.0
    """pitch of the camera in degrees upwards, for panoramas"""
    yaw: float = 0.0
    """direction in which the turn begins, in degrees to the right of view 0, for panoramas"""
    height: int | None = None
    """height in pixels, an even number (default: 360 for panoramas, the frames' own for scenes)"""
    width: int | None = None
    """width in pixels, an even number (default: 640 for panoramas, the frames' own for scenes)"""
    rig: Path | None = None
    """JSON file with the cameras, in the format of the entry "rig" in sample.json; needed for sample folders of the
    2023 release, which store no cameras"""

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
    from mvdiff.files.writing import check_apart
    from mvdiff.report.video import require_av
    from mvdiff.samples import read_sample, scan_samples

    require_av()
    options.check()
    if options.out is not None:
        check_apart("--out", options.out, {"DIR": options.dir, "--rig": options.rig}, around=False)
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
        for sample, path in zip(samples, [out] if single else _paths(samples, out), strict=True):
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


def _paths(samples: list, out: Path | None) -> list[Path]:
    """Return a video file for each sample, named after its folder, in `out` or else beside the folder."""
    from mvdiff.files.paths import own_name

    folders: dict[Path, Path] = {}
    for sample in samples:
        path = (out or sample.folder.absolute().parent) / f"{own_name(sample.folder)}.mp4"
        if path in folders:
            raise ValueError(
                f"sample folders must have different names for videos in one --out; got {folders[path]} and "
                f"{sample.folder}. Leave --out out, or rename one."
            )
        folders[path] = sample.folder
    return list(folders)


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
        summary="a camera that turns in a panorama, or the frames of a scene, as MP4",
        description="Write one MP4 per sample. A panorama becomes a video of a camera that turns once to the right and "
        "ends where it began; a scene becomes its frames in order. Exits with 3 if a sample is left out.",
        example="mvdiff video out/0000 --out video.mp4",
        settings=(VideoOptions,),
        run=run,
    ),
)
