"""Prompts that lie beside the pictures of a sample."""

from __future__ import annotations

from pathlib import Path

from mvdiff.data.captions import read_caption
from mvdiff.data.equirectangular import prompts_file, read_prompts
from mvdiff.data.importing.pictures import WHOLE, SamplePictures
from mvdiff.data.matterport3d import caption_files
from mvdiff.data.panoramas import Captions, nearest_caption
from mvdiff.files.paths import existing, kind_of
from mvdiff.files.text import read_json, read_lines
from mvdiff.geometry.cameras import Rig


def prompts_beside(root: Path, pictures: SamplePictures, rig: Rig | None, num_views: int) -> list[str] | None:
    """Read the prompts of a sample's views from the files beside its pictures; None if there are none.

    In this order: `<name>.json` of a panorama (see `mvdiff.data.equirectangular`), Matterport3D's captions, `<id>.txt`,
    and `prompt.txt` in the folder that holds the pictures of only this sample (one line for all views, or one per
    view).

    Raises:
        ValueError: A file is broken, or has neither one prompt nor one per view.
    """
    captions = None if rig is None else _by_yaw(root, pictures)
    if captions is not None:
        directions = zip(rig.yaw_deg, rig.pitch_deg, strict=True)
        return [nearest_caption(captions, yaw, pitch) for yaw, pitch in directions]
    first = root / pictures.name
    places = [existing(first.with_suffix(".txt"))] if WHOLE in pictures.files else []
    if first.parent != root and first.parent.name == pictures.sample_id.rsplit("/", 1)[-1]:
        places.append(first.parent / "prompt.txt")
    places.append(root / f"{pictures.sample_id}.txt")
    for path in places:
        if kind_of(path) == "file":
            return expanded_prompts([line for line in read_lines(path) if line], num_views, str(path))
    return None


def expanded_prompts(prompts: list[str], num_views: int, where: str) -> list[str]:
    """Return one prompt per view.

    Raises:
        ValueError: There is neither one prompt nor one per view.
    """
    if len(prompts) not in (1, num_views):
        raise ValueError(f"prompts must be one, or one per view ({num_views}); got {len(prompts)}, in {where}.")
    return prompts * (num_views if len(prompts) == 1 else 1)


def _by_yaw(root: Path, pictures: SamplePictures) -> Captions | None:
    first = pictures.files.get(WHOLE)
    if first is not None:
        path = prompts_file(root / first)
        if kind_of(path) != "file":
            return None
        content = read_json(path)  # other methods keep other things there, too
        return read_prompts(path) if isinstance(content, dict) and content.keys() & {"prompt", "prompts"} else None
    face = pictures.name
    if "/" not in face:
        return None
    captions = caption_files(root, face)
    found = {key: path for key, path in captions.items() if kind_of(path) == "file"}
    return {key: read_caption(path) for key, path in found.items()} if set(found) & set(range(360)) else None
