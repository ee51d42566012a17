"""Write another method's pictures as sample folders; a rerun skips samples that are complete."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mvdiff.data.importing.cubemap import CubemapReader
from mvdiff.data.importing.equirectangular import EquirectangularReader
from mvdiff.data.importing.pictures import FoundPictures, Kind, SamplePictures
from mvdiff.data.importing.prompts import expanded_prompts, prompts_beside
from mvdiff.data.importing.reading import PictureReader, rig_of
from mvdiff.data.importing.views import ViewsReader
from mvdiff.data.loader import BatchLoader, Reported
from mvdiff.files.images import CHECK
from mvdiff.files.paths import expanded, ignores_case
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.pipelines.prompt_files import PromptEntry
from mvdiff.pipelines.sample_folders import library_versions
from mvdiff.samples import SampleRecord, is_complete, read_sample, sample_folder, scan_samples, write_sample
from mvdiff.samples.ids import check_ids

_UNREADABLE = (ValueError, FileNotFoundError, IsADirectoryError, PermissionError)
_SETTINGS = {"method": "method", "imported": "pictures"}
"""Settings of a sample that must be equal for it to be skipped, and what they mean."""
Progress = Callable[[int, int], None]


@dataclass
class ImportReport:
    """What became of the pictures of a folder.

    Attributes:
        written: Number of samples written.
        skipped: Number of samples that were complete.
        left_out: Reason by file (the first one of a sample), of what could not be imported.
        doubts: Sentence by sample id, of faces that fit together badly; the samples are written.
        without_prompt: Ids of samples with empty prompts.
        unused_prompts: Ids of prompts without pictures.
        older: Complete sample folders of the root that are not from these pictures, relative to the root; they stay.
    """

    written: int = 0
    skipped: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    without_prompt: list[str] = field(default_factory=list)
    unused_prompts: list[str] = field(default_factory=list)
    older: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Outcome:
    """What became of one sample; sent between processes."""

    state: str
    """"written", "complete" or "left out" """
    reason: str = ""
    doubt: str = ""
    has_prompt: bool = True


def picture_reader(
    kind: Kind,
    root: Path,
    rig: Rig | None = None,
    cameras: dict[str, Any] | None = None,
    max_pixels: int | None = None,
) -> PictureReader:
    """Return the reader of a kind of pictures.

    Args:
        kind: Kind of the pictures.
        root: Their folder.
        rig: Views to cut, or the cameras of views; None: the paper's ring of 8, 512 x 512 pixels, or at the size of the
            views.
        cameras: Cameras of views one by one, see `SampleRecord.cameras`; None: `rig`.
        max_pixels: Largest width x height of a picture.

    Raises:
        ValueError: Single cameras are given for panoramas, from which a rig is cut.
    """
    if kind == "views":
        return ViewsReader(root, rig, cameras, max_pixels)
    if cameras is not None:
        raise ValueError("--rig must be a rig (views of yaw, pitch and fov) for panoramas; got single cameras.")
    reader = {"erp": EquirectangularReader, "cubemap": CubemapReader}[kind]
    return reader(root, rig or RingRig(), max_pixels)


def import_samples(
    found: FoundPictures,
    reader: PictureReader,
    out: str | Path,
    *,
    prompts: Sequence[PromptEntry] | None = None,
    method: str = "imported",
    overwrite: bool = False,
    num_workers: int = 0,
    progress: Progress | None = None,
) -> ImportReport:
    """Write the samples of a folder, each with its views, `panorama.png` (of panoramas) and `sample.json`.

    Args:
        found: Pictures, from `mvdiff.data.importing.pictures.find_pictures`.
        reader: Their reader, from `picture_reader`.
        out: Root of the sample folders.
        prompts: Prompts by sample id; numbers match with or without leading zeros. None: those beside the pictures.
        method: Name of the method, for `settings` in `sample.json`.
        overwrite: Import samples again that are complete.
        num_workers: Processes; 0 imports in this one.
        progress: Called with the numbers of samples done and in all.

    Returns:
        What was written, skipped and left out, and what else is in `out`.

    Raises:
        ValueError: No prompt has the id of a sample, or two ids would share a folder.
        OSError: A folder cannot be written; complete samples stay.
    """
    report = ImportReport(left_out=dict(found.left_out))
    check_ids(((one.sample_id, one.name) for one in found.samples), partial(ignores_case, Path(out)))
    by_id = None if prompts is None else _matched(found.samples, prompts, report)
    one = _ImportOne(reader, Path(out), by_id, method, overwrite)
    generator = torch.Generator()  # the loader draws a seed; keep it off the global generator
    options = {"sampler": found.samples, "num_workers": num_workers, "collate_fn": _unchanged, "generator": generator}
    outcomes = BatchLoader(Reported(one), batch_size=None, **options)
    own = set()
    for number, (pictures, outcome) in enumerate(zip(found.samples, outcomes, strict=True), start=1):
        report.written += outcome.state == "written"
        report.skipped += outcome.state == "complete"
        if outcome.state == "left out":
            report.left_out[pictures.name] = outcome.reason
        else:
            own.add(sample_folder(out, pictures.sample_id).name)
            report.without_prompt += [] if outcome.has_prompt else [pictures.sample_id]
        if outcome.doubt:
            report.doubts[pictures.sample_id] = outcome.doubt
        if progress is not None:
            progress(number, len(found.samples))
    complete = scan_samples(out)[0] if Path(out).is_dir() else []
    report.older = [name for one in complete if (name := one.relative_to(expanded(out)).as_posix()) not in own]
    return report


class _ImportOne:
    """Import one sample: read its pictures, write its folder."""

    def __init__(
        self,
        reader: PictureReader,
        out: Path,
        prompts: Mapping[str, PromptEntry] | None,
        method: str,
        overwrite: bool,
    ) -> None:
        self.reader, self.out, self.prompts, self.method, self.overwrite = reader, out, prompts, method, overwrite

    def __call__(self, pictures: SamplePictures) -> _Outcome:
        folder = sample_folder(self.out, pictures.sample_id)
        try:
            record = self._record(pictures)
            has_prompt = any(record.prompts)
            if not self.overwrite and _is_done(folder, record):
                return _Outcome("complete", has_prompt=has_prompt)
            imported = self.reader.read(pictures)
        except _UNREADABLE as error:
            return _Outcome("left out", str(error).removesuffix(CHECK).strip())
        if imported.covered is not None:
            shares = imported.covered.double().mean(dim=(1, 2)).tolist()
            record = replace(record, settings=record.settings | {"covered": [round(share, 4) for share in shares]})
        write_sample(folder, record, imported.images, imported.panorama, overwrite=self.overwrite, given=imported.given)
        return _Outcome("written", doubt=imported.doubt, has_prompt=has_prompt)

    def _record(self, pictures: SamplePictures) -> SampleRecord:
        cameras = self.reader.cameras(pictures)
        num_views = len(next(iter(cameras.values()))["views"])
        if self.prompts is None:
            prompts = prompts_beside(self.reader.root, pictures, rig_of(cameras), num_views) or [""] * num_views
        elif pictures.sample_id in self.prompts:
            prompt = self.prompts[pictures.sample_id].prompt
            prompts = [prompt] if isinstance(prompt, str) else list(prompt)
            prompts = expanded_prompts(prompts, num_views, f"the prompts of {pictures.sample_id!r}")
        else:
            raise ValueError(f"--prompts has no prompt for id {pictures.sample_id!r}.")
        files = {path.as_posix(): _file_hash(self.reader.root / path) for path in pictures.files.values()}
        settings = {"method": self.method, "imported": files}
        return SampleRecord(pictures.sample_id, prompts, **cameras, settings=settings, versions=library_versions())


def _is_done(folder: Path, record: SampleRecord) -> bool:
    """Return True if a folder has the complete sample that is to be written.

    Raises:
        ValueError: It has another one.
    """
    if not is_complete(folder):
        return False
    written = read_sample(folder).record
    names = "sample_id", "prompts", "rig", "cameras"
    other = [name for name in names if getattr(written, name) != getattr(record, name)]
    other += [what for name, what in _SETTINGS.items() if written.settings.get(name) != record.settings[name]]
    if other:
        raise ValueError(
            f"{folder} is a complete sample with other {', '.join(other)}. Write to another folder, or pass "
            "--overwrite."
        )
    return True


def _matched(
    samples: Sequence[SamplePictures], prompts: Sequence[PromptEntry], report: ImportReport
) -> dict[str, PromptEntry]:
    """Return the prompts by sample id; record the ids of prompts without pictures."""
    entries = {entry.sample_id: entry for entry in prompts}
    numbers = {int(entry.sample_id): entry for entry in prompts if entry.sample_id.isdecimal()}
    by_id = {}
    for sample_id in (one.sample_id for one in samples):
        entry = entries.get(sample_id) or (numbers.get(int(sample_id)) if sample_id.isdecimal() else None)
        if entry is not None:
            by_id[sample_id] = entry
    if samples and not by_id:
        ids = f"{prompts[0].sample_id!r} and {samples[0].sample_id!r}"
        raise ValueError(f"--prompts must have the ids of the pictures; got none of them, such as {ids}. See --ids.")
    used = {entry.sample_id for entry in by_id.values()}
    report.unused_prompts = [name for name in entries if name not in used]
    return by_id


def _file_hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unchanged(value: Any) -> Any:
    return value
