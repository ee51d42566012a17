"""Views of the same samples, a row for each method: the pictures of the pages."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mvdiff.report import Gallery
from mvdiff.report.pictures import open_pictures
from mvdiff.samples import is_complete, read_sample, sample_folder

SHOWN = 3
"""Samples that a page shows."""
SHOWN_VIEWS = 12


def sample_galleries(folders: Mapping[str, Path], ids: Collection[str]) -> list[Gallery]:
    """Show the first samples by id.

    Args:
        folders: Folder of samples by the label of its row.
        ids: Ids of the samples.

    Returns:
        One gallery a sample, with a row for each folder that has it with the same views.
    """
    shown = []
    for sample_id in sorted(ids)[:SHOWN]:
        found = {label: sample_folder(folder, sample_id) for label, folder in folders.items()}
        pictures = {
            label: open_pictures(read_sample(folder), SHOWN_VIEWS)
            for label, folder in found.items()
            if is_complete(folder)
        }
        first = next(iter(pictures.values()), None)
        if first is not None:
            views = {label: one.views for label, one in pictures.items() if one.labels == first.labels}
            shown.append(Gallery(views, sample_id, first.labels, first.prompts))
    return shown
