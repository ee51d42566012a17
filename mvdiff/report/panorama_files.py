"""Pictures of a panorama for people: other formats, the cropped panorama, cube faces."""

from __future__ import annotations

from pathlib import Path

import torch

from mvdiff.files.writing import write_whole
from mvdiff.geometry.panorama import covered_rows, cube_faces
from mvdiff.report.pictures import stitched
from mvdiff.report.video import panorama_picture
from mvdiff.samples import Sample
from mvdiff.samples.folders import CROPPED_STEM, CUBE_NAME, PANORAMA_NAME
from mvdiff.samples.photo_sphere import picture_bytes, save_panorama
from mvdiff.settings import PanoramaPictures


def write_panorama_pictures(sample: Sample, pictures: PanoramaPictures) -> list[Path]:
    """Write pictures of a complete sample's panorama into its folder, over those that are there; return their paths.

    Raises:
        ValueError: A picture of the sample cannot be read, or no row can be cropped (see `covered_rows`).
        OSError: The folder cannot be written.
    """
    panorama, suffix, view = panorama_picture(sample), f".{pictures.format}", sample.record.first_view()
    written = []
    path = (sample.folder / PANORAMA_NAME).with_suffix(suffix)
    if path.name != PANORAMA_NAME:
        written.append(save_panorama(path, panorama, view=view))
    if pictures.crop:
        _, covered = stitched(sample, sample.images_uint8(), height=len(panorama))
        top, bottom = covered_rows(torch.from_numpy(covered))
        path = sample.folder / f"{CROPPED_STEM}{suffix}"
        written.append(save_panorama(path, panorama[top:bottom], top=top, view=view))
    if pictures.cube_faces:
        (sample.folder / CUBE_NAME).mkdir(exist_ok=True)
        for name, face in cube_faces(torch.from_numpy(panorama).permute(2, 0, 1)).items():
            pixels = face.permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8).numpy()
            written.append(sample.folder / CUBE_NAME / f"{name}{suffix}")
            write_whole(written[-1], picture_bytes(pixels, suffix))
    return written
