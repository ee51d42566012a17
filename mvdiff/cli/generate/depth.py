"""`mvdiff generate depth`: frames of scenes whose depth and poses are known."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from mvdiff.cli.command import Command, done, plural, typed
from mvdiff.cli.generate.options import OutputOptions, check_places, check_prompts
from mvdiff.cli.opening import DataReader, MemoryOptions, MethodOptions, open_method
from mvdiff.cli.out_files import check_sample_inputs, make_folder
from mvdiff.files.paths import ignores_case, own_name
from mvdiff.settings import Sampling


@dataclass(frozen=True, kw_only=True)
class SceneOptions(DataReader):
    """Scenes and their frames."""

    scene: tuple[Path, ...]
    """one or more scenes: a folder each, in any supported layout (docs/data.md)"""
    mode: Literal["keyframes", "interval", "full"] = "keyframes"
    """frames to generate; keyframes: the key frames; interval: every N-th usable frame (see --interval); full: the key
    frames, then the frames between them"""
    interval: int = 20
    """with --mode interval: take every N-th usable frame"""
    full_interval: int | None = None
    """with --mode full: generate only every N-th frame between two key frames, counted by frame number from the earlier
    one (default: all; 2023 release: 20)"""
    resizing: Literal["exact", "released"] = "exact"
    """pixel convention for resizing depths and intrinsics: exact (pixel centres), or released (as in the 2023 release,
    for models converted from it; see docs/checkpoints.md)"""
    max_between: int | None = None
    """with --mode full: generate at most this many frames between two key frames, evenly spaced (default: all)"""
    max_frames: int | None = None
    """use only the first N frames, and of these none after the last key frame (default: all)"""
    prompt: list[str] | None = None
    """one prompt for all frames, in place of their captions"""
    height: int | None = None
    """height of the frames in pixels, a multiple of the autoencoder's stride, which is 8 for Stable Diffusion (default:
    the model's)"""
    width: int | None = None
    """width of the frames in pixels, a multiple of the same stride (default: the model's)"""
    num_views: int = 12
    """window size: maximum number of frames generated together, including known ones; at least 3 for --mode full
    (paper: 12)"""
    window_overlap: int = 1
    """number of key frames that consecutive windows share, less than --num_views; needs a model trained with
    image_condition; 0: independent windows"""
    batch_size: int = 1
    """with --mode full: number of gaps between key frames that are filled in parallel"""
    reference: Path | None = None
    """write the real frames into this folder, for mvdiff evaluate --reference (default: not written)"""

    def __post_init__(self) -> None:
        check_prompts(self.prompt)
        if self.prompt is not None and len(self.prompt) > 1:
            raise ValueError(
                f"--prompt must be one text for all frames; got {len(self.prompt)}. To prompt each frame, put captions "
                "into the scene's prompt/ folder."
            )
        for name in ("height", "width", "interval", "full_interval"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1; got {value}.")
        names = [own_name(scene) for scene in self.scene]
        if len({name.casefold() for name in names}) < len(names):
            raise ValueError(
                f"--scene must give folders with different names; got {', '.join(names)}. Run one scene at a "
                "time, each with its own --out."
            )

    @property
    def text(self) -> str | None:
        """The prompt for all frames, None where they have captions."""
        return None if self.prompt is None else self.prompt[0]


def run(
    options: SceneOptions, output: OutputOptions, sampling: Sampling, model: MethodOptions, memory: MemoryOptions
) -> int:
    """Generate; return the exit status."""
    from mvdiff.cli.progress import progress_bar
    from mvdiff.files.writing import check_apart
    from mvdiff.methods.model import ModelMethod
    from mvdiff.pipelines.sequence_folders import generate_sequence_folder, write_real_sequence
    from mvdiff.samples.ids import check_ids
    from mvdiff.tasks.depth import DepthTask

    check_places(output.out, model, options.reference)
    scenes = [_scene(path, options) for path in options.scene]  # all are looked at before the model is loaded
    ids = [(scene.name, f"--scene {path}") for scene, path in zip(scenes, options.scene, strict=True)]
    check_ids(ids, partial(ignores_case, output.out))
    for option, root in (("--out", output.out), ("--reference", options.reference)):
        if root is not None:
            check_apart(option, root, {"--scene": options.scene}, around=False)
            check_sample_inputs(root, [scene.name for scene in scenes], {"--scene": options.scene}, option)
    make_folder(output.out)
    method = open_method(model, memory, DepthTask(), output.no_caa)
    for one in method.pipelines:
        one.set_progress_bar_config(disable=True)
    sequences = [_sequence(scene, options, *_size(options, method)) for scene in scenes]
    how = output.arguments(sampling) | {
        "num_views": options.num_views,
        "window_overlap": options.window_overlap,
        "batch_size": options.batch_size,
        "prompt": options.text,
        "settings": {"mode": options.mode},
    }
    pipeline = None
    if isinstance(method, ModelMethod):
        pipeline, how["controls"] = method.pipeline, method.controls
    else:
        how["method"] = method
    with progress_bar() as bar:
        for sequence in sequences:
            task = bar.add_task(sequence.name, total=len(sequence))
            counts = generate_sequence_folder(
                pipeline, sequence, output.out, progress=lambda frame, task=task: bar.advance(task), **how
            )
            bar.remove_task(task)
            if options.reference is not None:
                write_real_sequence(sequence, options.reference, overwrite=output.overwrite, prompt=options.text)
            state = "written" if counts.written else "complete before, skipped"
            print(f"{sequence.name}: {_described(sequence, options.text)}; {state}")
    done(
        f"{output.out}: {plural(len(sequences), 'scene')}",
        typed("mvdiff", "mesh", output.out / sequences[0].name, "--out", "mesh.glb"),
        typed("mvdiff", "report", output.out),
    )
    return 0


def _size(options: SceneOptions, method) -> tuple[int, int]:
    """Return height and width of the frames: those of the options, else those of the method's model or base."""
    views = next((one.views for one in method.pipelines if {"height", "width"} <= set(one.views)), {})
    size = options.height or views.get("height"), options.width or views.get("width")
    if None in size:
        raise ValueError(f"--height and --width are required: the method {method.name} has no default size.")
    return size


def _scene(path: Path, options: SceneOptions):
    from mvdiff.data.layouts import Source, open_recording

    how = {"on_broken": "skip", "missing_caption": "nearest"}
    scene = open_recording(path, Source.of_option(options.data), options.resizing, **how)
    frames = scene.valid_frames if options.mode == "interval" else scene.key_frames
    if not frames:
        raise ValueError(
            f"{path} must have frames to generate; got none that is usable ({_counted(scene.unusable)}). Run "
            f"`mvdiff data check {path}`."
        )
    if options.prompt is None and not scene.has_captions:
        raise FileNotFoundError(
            f"{path / 'prompt'} must hold a caption of at least one frame; got none. Give --prompt, one text for all "
            f"frames, or run `mvdiff data caption {path}`."
        )
    return scene


def _sequence(scene, options: SceneOptions, height: int, width: int):
    from mvdiff.data.sequences import full_sequence, interval_sequence, key_sequence
    from mvdiff.pipelines.two_stage import first_frames

    if options.mode == "keyframes":
        sequence = key_sequence(scene, height, width)
    elif options.mode == "interval":
        sequence = interval_sequence(scene, height, width, options.interval)
    else:
        sequence = full_sequence(scene, height, width, options.max_between, options.full_interval)
    return sequence if options.max_frames is None else first_frames(sequence, options.max_frames)


def _described(sequence, prompt: str | None) -> str:
    """Describe the frames of a sequence, and those of the scene that are left out."""
    scene, parts = sequence.scene, [plural(len(sequence), "frame")]
    if len(sequence.key_ids) < len(sequence):
        parts[0] += f", {len(sequence.key_ids)} of them key frames"
    if scene.unusable:
        parts.append(f"{plural(scene.unusable.total(), 'unusable frame')} left out ({_counted(scene.unusable)})")
    without = [] if prompt is not None else scene.without_caption(sequence.frame_ids)
    if without:
        parts.append(f"{len(without)} without caption take the nearest frame's")
    return "; ".join(parts)


def _counted(reasons) -> str:
    return ", ".join(f"{count} x {reason}" for reason, count in sorted(reasons.items())) or "none is listed"


COMMAND = Command(
    name="generate depth",
    summary="frames of scenes whose depth and poses are known",
    description="Generate frames of scenes from their depth and poses. Writes a folder per scene into --out: <i>.png "
    "and depth/<i>.png for each frame, and sample.json with poses and prompts, which marks the sample as complete. A "
    "rerun skips complete samples.",
    example="mvdiff generate depth --model mvdiff://toy-depth --scene toy/scannet/test/toy00008 --mode full "
    "--guidance_scale 2 --out out",
    settings=(SceneOptions, OutputOptions, Sampling, MethodOptions, MemoryOptions),
    run=run,
)
