"""A folder of equirectangular panoramas, each with a JSON file of prompts.

```
root/NAME.jpg      W = 2H, the centre is yaw 0 (also .jpeg, .png, .webp, .bmp, .tif, .tiff)
root/NAME.json     {"prompt": "one for all"} or {"prompts": {"0": "...", "90": "...", "up": "..."}} by yaw in degrees
root/train.txt, test.txt    one name per line, with or without suffix (written by `mvdiff data split`)
```
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from mvdiff.data.captions import EmptyCaptionError
from mvdiff.data.counts import check_counts
from mvdiff.data.panorama_files import check_not_frames, not_read, read_panorama, unread_images
from mvdiff.data.panoramas import Captions, OnBroken, whole_entries
from mvdiff.data.pictures import views_of_picture
from mvdiff.files.images import IMAGE_SUFFIXES
from mvdiff.files.paths import existing, expanded, kind_of, lack_of, listed_name, same_name, visible
from mvdiff.files.text import read_json, read_lines


def list_images(root: Path) -> dict[str, Path]:
    """Return the image files of a folder by name without suffix (in NFC), sorted; hidden files are left out.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: Two images differ only in their suffix or in the Unicode form of their names, or the images are
            frames of a recording.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"root must be a folder of panoramas; {root} does not exist.")
    images: dict[str, Path] = {}
    for path in visible(root, *IMAGE_SUFFIXES):
        name = same_name(path.stem)
        if name in images:
            raise ValueError(
                f"{path} must have a unique name; {images[name]} differs only in its suffix or in its Unicode form."
            )
        if kind_of(path) != "folder":  # readers name a broken link
            images[name] = path
    check_not_frames(root, images.values())
    return images


def read_names(path: Path, images: Collection[str] = ()) -> list[str]:
    """Read a split list: names of panoramas or scenes in NFC, one per line.

    Args:
        path: File of the list.
        images: Names of panoramas without suffix; the list may have them with theirs.

    Raises:
        FileNotFoundError: The list does not exist.
        ValueError: The list is empty, repeats a name, or has a name outside its folder.
    """
    path = existing(path)
    make = f"Run `mvdiff data split {path.parent}` to make it."
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. {make}")
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        name = without_suffix(listed_name(line, f"{path}:{number}"), images)
        if name in lines:
            raise ValueError(
                f"{path} must hold each name once; got {name!r} twice, in lines {lines[name]} and {number}. {make}"
            )
        lines[name] = number
    if not lines:
        raise ValueError(f"{path} must hold at least one name; got none. {make}")
    return list(lines)


def without_suffix(name: str, images: Collection[str]) -> str:
    """Return the name of a panorama in `images` for one with an image's suffix; other names are left as they are."""
    stem, suffix = os.path.splitext(name)
    return stem if name not in images and stem in images and suffix.lower() in IMAGE_SUFFIXES else name


def read_prompts(path: Path) -> Captions:
    """Read the prompts of a panorama by yaw; a single "prompt" is returned as that of yaw 0.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not JSON of the form above, or a prompt is empty.
    """
    form = 'Write {"prompt": "..."} or {"prompts": {"0": "...", "90": "...", "up": "..."}}.'
    try:
        content = read_json(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} must hold the prompts; the file does not exist. {form}") from error
    except ValueError as error:
        raise ValueError(f"{error} {form}") from error
    if not isinstance(content, dict) or ("prompt" in content) == ("prompts" in content):
        raise ValueError(f'{path} must have either "prompt" or "prompts"; got {str(content)[:80]}. {form}')
    prompts = content.get("prompts", {"0": content.get("prompt")})
    if not isinstance(prompts, dict):
        raise ValueError(f'{path} must have "prompts" by degree; got {str(prompts)[:80]}. {form}')
    captions: Captions = {}
    for key, prompt in prompts.items():
        if key not in ("up", "down") and not (len(key) <= 3 and key.isdecimal() and int(key) < 360):
            raise ValueError(f'{path} must have degrees from 0 to 359, "up" or "down" as keys; got {key!r}. {form}')
        if not isinstance(prompt, str):
            raise ValueError(f"{path} must have a text as the prompt of {key!r}; got {prompt!r}. {form}")
        if not prompt.strip():
            raise EmptyCaptionError(f"{path} must have a prompt for {key!r}; got an empty one. {form}")
        captions[key if key in ("up", "down") else int(key)] = prompt.strip()
    if not captions.keys() - {"up", "down"}:
        raise ValueError(f"{path} must have a prompt for at least one yaw; got {sorted(prompts)}. {form}")
    return captions


def prompts_file(image: Path) -> Path:
    """Return the file of a panorama's prompts, beside its image; it need not exist."""
    return existing(image.with_suffix(".json"))


class EquirectangularPanoramas:
    """Panoramas of one split of a folder of equirectangular images.

    Args:
        root: The folder.
        split: Name of the list NAME.txt, such as "train" or "test".
        on_broken: "error" stops at a panorama with a missing image or prompt file; "skip" drops it, counts it in
            `num_skipped` and logs a warning.
        max_pixels: Largest width x height of a panorama; None: `mvdiff.files.images.MAX_PIXELS`.

    Raises:
        FileNotFoundError: The folder, the list or, with `on_broken="error"`, a listed file does not exist.
        ValueError: The list is malformed, or no panorama is complete.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        on_broken: OnBroken = "error",
        max_pixels: int | None = None,
    ) -> None:
        self.root = expanded(root)
        check_counts(max_pixels=max_pixels)
        self.max_pixels = max_pixels
        self.split = split
        images = list_images(self.root)
        self._unread = {same_name(path.stem): path for path in unread_images(self.root, images)}
        list_path = existing(self.root / f"{split}.txt")
        names = read_names(list_path, images)
        broken = {row: text for row, name in enumerate(names) if (text := self._problem(name, images.get(name)))}
        self.num_skipped = len(broken)
        self.paths = [images[name] for name in whole_entries(names, broken, list_path, on_broken)]

    def _problem(self, name: str, image: Path | None) -> str | None:
        if image is None:
            other = self._unread.get(name)
            return f"{other}: {not_read(other)}" if other else f"{self.root / name} has no image file"
        if lack := lack_of(image):
            return f"{image} {lack}"
        prompts = prompts_file(image)
        return None if kind_of(prompts) == "file" else f"{prompts} {lack_of(prompts)}"

    def __len__(self) -> int:
        return len(self.paths)

    def sample_id(self, index: int) -> str:
        """Return the name of the image file without its suffix, in NFC."""
        return same_name(self.paths[index].stem)

    def picture_files(self, index: int) -> list[Path]:
        """Return the one file of a panorama."""
        return [self.paths[index]]

    def panorama(self, index: int) -> Tensor:
        """Decode a panorama as uint8 [3, H, 2H]; see `read_panorama`."""
        return read_panorama(self.paths[index], self.max_pixels)

    picture = panorama

    def views(self, index: int, K: Tensor, R: Tensor, height: int, width: int) -> Tensor:
        """Cut views [V, 3, H, W] in [-1, 1] with [V, 3, 3] intrinsics and world-from-camera rotations."""
        return views_of_picture(self.panorama(index), K, R, height, width)

    def captions(self, index: int) -> Captions:
        """Read the prompts."""
        return read_prompts(prompts_file(self.paths[index]))
