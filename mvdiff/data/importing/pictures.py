"""Find the pictures of a folder and sort them into samples by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mvdiff.data.matterport3d import identity
from mvdiff.data.panorama_files import not_read
from mvdiff.files.images import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from mvdiff.files.paths import expanded, same_name, walk
from mvdiff.samples.ids import check_id

Kind = Literal["erp", "cubemap", "views"]
"""Equirectangular panoramas, faces of cubes, or perspective views."""
KINDS: tuple[Kind, ...] = ("erp", "cubemap", "views")

WHOLE = ""
"""Part of a sample of one picture: a panorama, or all faces of a cube in one."""
FACES = ("up", "left", "front", "right", "back", "down")
"""Names of the faces in the order of a skybox (convention 7): up, yaw 270, 0, 90, 180, down."""
FACE_WORDS = {
    **{face: face for face in FACES},
    **{face[0]: face for face in FACES},
    **{"top": "up", "bottom": "down", "t": "up"},
    **{"posx": "right", "negx": "left", "posy": "up", "negy": "down", "posz": "front", "negz": "back"},
    **{"px": "right", "nx": "left", "py": "up", "ny": "down", "pz": "front", "nz": "back"},
}
"""Names of faces in files, in lower case. Numbers from 0 to 5 count them as Matterport3D does, in skybox order."""
_BEFORE_PART = r"(?P<id>.+?)[/_.\s-]+"
_SKYBOX = re.compile(r"(?P<id>.+?)_skybox(?P<part>[0-5])(_sami|_small)?")
_FACE = re.compile(rf"{_BEFORE_PART}(?P<part>[0-5]|{'|'.join(FACE_WORDS)})", re.IGNORECASE)
_VIEW = re.compile(rf"{_BEFORE_PART}(?P<part>\d+)")
_MATTERPORT_FOLDER = "matterport_skybox_images"


@dataclass(frozen=True)
class SamplePictures:
    """The files of one sample.

    Attributes:
        sample_id: Its id, in NFC.
        files: Paths relative to the root of the import, by part: `WHOLE`, a face as its file calls it (in lower case),
            or the number of a view.
    """

    sample_id: str
    files: Mapping[str, Path]

    @property
    def name(self) -> str:
        """Its first file, relative to the root, as people see it."""
        return next(iter(self.files.values())).as_posix()


@dataclass
class FoundPictures:
    """Samples and other files of a folder.

    Attributes:
        root: The folder.
        samples: Samples in the order of their ids.
        left_out: Reason by file, of files that belong to no sample.
        unmatched: Files whose names the caller's expression does not match.
    """

    root: Path
    samples: list[SamplePictures] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)


def find_pictures(root: str | Path, kind: Kind, ids: str | None = None) -> FoundPictures:
    """Find the pictures at and below a folder and sort them into samples; decode nothing.

    The name of a picture is its path below the folder without the ending, such as `scene/0001`. It is the id of a
    panorama. The name of a view is `<id>_<number>` or `<id>/<number>`; that of a face ends in a word, a letter or a
    number (`FACE_WORDS`).

    Args:
        root: The folder.
        kind: Kind of the pictures.
        ids: Regular expression that is searched in each name; its group `id`, or the first one, is the sample's id; its
            group `view` or `face`, or the second one, is the number of a view or the name of a face.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no picture, or the expression is wrong or matches none.
    """
    root = expanded(root)
    if not root.is_dir():
        raise FileNotFoundError(f"DIR must be a folder of pictures; got {root}, which is none.")
    pattern = None if ids is None else _compiled(ids, kind)
    found, groups, above = FoundPictures(root), {}, "/".join(root.absolute().parts[-2:])
    for path in _pictures(root, found.left_out):
        name = same_name(path.with_suffix("").as_posix())
        matched = _parts(name, kind, above) if pattern is None else _searched(name, pattern, kind)
        if matched is None and pattern is not None:
            found.unmatched.append(path.as_posix())
        elif matched is None:
            found.left_out[path.as_posix()] = _HOW_NAMED[kind]
        else:
            groups.setdefault(matched[0], []).append((matched[1], path))
    if not groups and not found.left_out:
        what = "no picture" if pattern is None else f"none that --ids {ids!r} matches"
        shown = f" of {len(found.unmatched)} ({found.unmatched[0]}, ...)" if found.unmatched else ""
        raise ValueError(f"DIR must hold pictures ({', '.join(IMAGE_SUFFIXES)}); got {what}{shown}, in {root}.")
    for sample_id in sorted(groups):
        _add(found, sample_id, groups[sample_id])
    return found


_HOW_NAMED = {
    "cubemap": "its name must end in that of a face, such as <id>_front or <id>_skybox2. Say how ids and faces are "
    "named with --ids.",
    "views": "its name must be <id>_<view> or <id>/<view> with the number of a view. Say how ids and views are named "
    "with --ids.",
}


def _pictures(root: Path, left_out: dict[str, str]) -> list[Path]:
    pictures = []
    for folder, _, names in walk(root):
        for path in (folder.relative_to(root) / name for name in names):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                pictures.append(path)
            elif path.suffix.lower() in OTHER_IMAGE_SUFFIXES:
                left_out[path.as_posix()] = not_read(path)
    return sorted(pictures)


def _parts(name: str, kind: Kind, above: str) -> tuple[str, str] | None:
    """Split the name of a picture into sample id and part (face or view); None if the name has no such part.

    In Matterport3D's folders the id is the data module's, `<scene>_<panorama>`, of folders that may lie above the root.
    """
    if kind == "erp":
        return name, WHOLE
    if kind == "views":
        match = _VIEW.fullmatch(name)
        return match and (match["id"], match["part"])
    match = _SKYBOX.fullmatch(name)
    if match is not None:
        whole = f"{above}/{name}"
        in_matterport = whole.split("/")[-2] == _MATTERPORT_FOLDER
        return ("_".join(identity([whole])) if in_matterport else match["id"]), match["part"]
    match = _FACE.fullmatch(name)
    return (match["id"], match["part"].lower()) if match else (name, WHOLE)


def _searched(name: str, pattern: re.Pattern[str], kind: Kind) -> tuple[str, str] | None:
    match = pattern.search(name)
    if match is None:
        return None
    named = match.groupdict()
    unnamed = iter(text for number, text in enumerate(match.groups(), 1) if number not in pattern.groupindex.values())
    sample_id = named["id"] if "id" in named else next(unnamed, None)
    part = next((named[one] for one in ("view", "face") if one in named), None)
    part = next(unnamed, None) if part is None and kind != "erp" else part
    if not sample_id or (kind == "views" and not (part or "").isdecimal()):
        return None
    return same_name(sample_id), "" if kind == "erp" else (part or WHOLE).lower()


def _compiled(ids: str, kind: Kind) -> re.Pattern[str]:
    try:
        pattern = re.compile(ids)
    except re.error as error:
        raise ValueError(f"--ids must be a regular expression; got {ids!r} ({error}).") from error
    needed = {"erp": 1, "cubemap": 1, "views": 2}[kind]
    if pattern.groups < needed:
        parts = "for the id" if needed == 1 else "for the id and one for the number of the view"
        raise ValueError(f"--ids must have a group {parts}, such as (?P<id>.+)_(?P<view>\\d+); got {ids!r}.")
    return pattern


def _add(found: FoundPictures, sample_id: str, parts: list[tuple[str, Path]]) -> None:
    """Add a sample, or leave out its files where the id cannot name a folder or two files are the same part."""
    try:
        check_id(sample_id)
        files = _one_each(sample_id, parts)
    except ValueError as error:
        found.left_out |= {path.as_posix(): str(error) for _, path in parts}
        return
    found.samples.append(SamplePictures(sample_id, files))


def _one_each(sample_id: str, parts: list[tuple[str, Path]]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for part, path in sorted(parts, key=lambda one: (int(one[0]) if one[0].isdecimal() else -1, one)):
        name = str(int(part)) if part.isdecimal() else part
        if name in files:
            what = f"part {name!r} of sample {sample_id!r}" if name else f"sample {sample_id!r}"
            raise ValueError(f"{what} must be one picture; got {files[name].as_posix()} and {path.as_posix()}.")
        files[name] = path
    return files
