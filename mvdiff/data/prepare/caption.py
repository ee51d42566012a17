"""Caption data sets of any layout with an image captioning model (paper: BLIP-2): `mvdiff data caption`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mvdiff.data.captions import EmptyCaptionError, read_caption
from mvdiff.data.counts import check_counts
from mvdiff.data.equirectangular import list_images, prompts_file, read_prompts
from mvdiff.data.layouts import Source, open_recording
from mvdiff.data.matterport3d import CAPTION_DEGREES, caption_path, read_faces, read_split, split_lists
from mvdiff.data.panorama_files import not_read, read_panorama, unread_images
from mvdiff.data.prepare.captioner import Captioner
from mvdiff.data.prepare.layout import find_layouts, find_skyboxes
from mvdiff.files.writing import whole_file
from mvdiff.geometry.cameras import RingRig
from mvdiff.geometry.panorama import perspective_from_equirectangular, perspective_from_skybox
from mvdiff.samples import write_json


class _Job(NamedTuple):  # pictures of one panorama or frame to caption
    target: Path  # file of the captions, or of the first one
    count: int
    images: Callable[[], list[Tensor]]  # [3, H, W] uint8 each
    write: Callable[[list[str]], None]


@dataclass
class CaptionReport:
    """Result of `caption_folder`."""

    written: int = 0  # captions written
    kept: int = 0  # existing captions left unchanged
    failed: list[str] = field(default_factory=list)  # reasons why something was not captioned


def caption_folder(
    root: str | Path,
    captioner: Captioner,
    every: int | None = None,
    batch_size: int = 8,
    view_size: int = 512,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    source: Source | None = None,
    max_pixels: int | None = None,
) -> CaptionReport:
    """Caption the panoramas of a data set every 45 degrees, and its scenes at their key frames.

    Existing captions are kept. Broken panoramas and scenes are reported and skipped.

    Args:
        root: Folder of the data set, in any layout.
        captioner: Captioning model.
        every: In scenes, caption every `every`-th usable frame instead of the key frames.
        batch_size: Pictures per call of the model.
        view_size: Side in pixels of the 90-degree views of panoramas to caption.
        overwrite: Replace existing captions.
        progress: Called with (captions written, captions to write).
        source: Reader of the scenes; None: layouts are detected.
        max_pixels: Largest width x height of a panorama's images, see `mvdiff.files.images`.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The folder has no known layout, or a setting is out of range.
    """
    check_counts(every=every, batch_size=batch_size, view_size=view_size, max_pixels=max_pixels)
    report, jobs = CaptionReport(), []
    for layout, folder, scenes in find_layouts(root, source):
        if scenes:
            jobs += _recording_jobs(scenes, source, every, overwrite, report)
        elif layout == "matterport3d":
            jobs += _matterport3d_jobs(folder, view_size, overwrite, report, max_pixels)
        else:
            jobs += _equirectangular_jobs(folder, view_size, overwrite, report, max_pixels)
    total = sum(job.count for job in jobs)
    for batch in _batches(jobs, batch_size, report):
        images = [image for _, images in batch for image in images]
        captions: list[str] = []
        for start in range(0, len(images), batch_size):
            captions += captioner(images[start : start + batch_size])
        for job, _ in batch:
            own, captions = captions[: job.count], captions[job.count :]
            if all(own):
                job.write(own)
                report.written += job.count
            else:
                report.failed.append(
                    f"{job.target} needs {job.count} captions; the model returned {own.count('')} empty ones. Try "
                    "another --model or --prompt."
                )
        if progress is not None:
            progress(report.written, total)
    return report


def _batches(jobs: list[_Job], batch_size: int, report: CaptionReport) -> Iterator[list[tuple[_Job, list[Tensor]]]]:
    """Yield batches of jobs with their pictures; a batch is full at `batch_size` captions."""
    batch: list[tuple[_Job, list[Tensor]]] = []
    for job in jobs:
        try:
            batch.append((job, job.images()))
        except (FileNotFoundError, ValueError) as error:
            report.failed.append(str(error))
        if sum(job.count for job, _ in batch) >= batch_size:
            yield batch
            batch = []
    if batch:
        yield batch


def _recording_jobs(
    scenes: Iterable[Path], source: Source | None, every: int | None, overwrite: bool, report: CaptionReport
) -> Iterator[_Job]:
    for path in scenes:
        try:
            scene = open_recording(path, source)
            frames = scene.key_frames if every is None else scene.valid_frames[::every]
        except (FileNotFoundError, ValueError) as error:
            report.failed.append(f"{error} Or use --every N." if every is None else str(error))
            continue
        if not frames:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(scene.unusable.items()))
            report.failed.append(f"{path} must have usable frames; got none ({reasons or 'none is listed'}).")
        for frame in frames:
            target = scene.caption_file(frame)
            if _has_caption(target, overwrite, report):
                continue
            images = partial(lambda scene, frame: [scene.load_image(frame)], scene, frame)
            yield _Job(target, 1, images, partial(_write_texts, [target]))


def _matterport3d_jobs(
    root: Path, view_size: int, overwrite: bool, report: CaptionReport, max_pixels: int | None
) -> Iterator[_Job]:
    lists = split_lists(root)
    rows = dict.fromkeys(row for path in lists for row in read_split(path))
    if not lists:
        scenes, incomplete, _ = find_skyboxes(root)
        rows = dict.fromkeys(row for scene in scenes.values() for row in scene)
        report.failed += [f"{panorama} must have six faces; some are missing." for panorama in incomplete]
    for row in rows:
        paths = {degree: caption_path(root, row[0], degree) for degree in CAPTION_DEGREES}
        wanted = [degree for degree, path in paths.items() if not _has_caption(path, overwrite, report)]
        if wanted:
            read = partial(read_faces, root, row, max_pixels)
            images = partial(_views, perspective_from_skybox, read, view_size, wanted)
            targets = [paths[degree] for degree in wanted]
            yield _Job(targets[0], len(wanted), images, partial(_write_texts, targets))


def _equirectangular_jobs(
    root: Path, view_size: int, overwrite: bool, report: CaptionReport, max_pixels: int | None
) -> Iterator[_Job]:
    panoramas = list_images(root)
    report.failed += [f"{path}: {not_read(path)}." for path in unread_images(root, panoramas)]
    for path in panoramas.values():
        target = prompts_file(path)
        if target.is_file() and not overwrite:
            try:
                report.kept += len(read_prompts(target))
                continue
            except EmptyCaptionError:
                pass
            except ValueError as error:
                report.failed.append(str(error))
                continue
        read = partial(read_panorama, path, max_pixels)
        images = partial(_views, perspective_from_equirectangular, read, view_size)
        yield _Job(target, len(CAPTION_DEGREES), images, partial(_write_json, target))


def _views(
    cut: Callable[..., Tensor], read: Callable[[], Tensor], size: int, degrees: Sequence[int] = CAPTION_DEGREES
) -> list[Tensor]:
    """Cut 90-degree views [3, size, size], uint8, from a panorama at yaws in `CAPTION_DEGREES`."""
    K, R = RingRig(num_views=len(CAPTION_DEGREES), fov_deg=90, height=size, width=size).cameras()
    ring = [CAPTION_DEGREES.index(degree) for degree in degrees]
    return list(cut(read(), K[ring], R[ring], size, size).round().clamp(0, 255).to(torch.uint8))


def _has_caption(path: Path, overwrite: bool, report: CaptionReport) -> bool:
    if overwrite:
        return False
    try:
        read_caption(path)
    except (FileNotFoundError, ValueError):
        return False
    report.kept += 1
    return True


def _write_texts(paths: list[Path], captions: list[str]) -> None:
    for path, caption in zip(paths, captions, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(f"{caption}\n".encode())


def _write_json(path: Path, captions: list[str]) -> None:
    prompts = {str(degree): caption for degree, caption in zip(CAPTION_DEGREES, captions, strict=True)}
    write_json(path, {"prompts": prompts})
