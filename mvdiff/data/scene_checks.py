"""Checks of recordings before training: frames of a few scenes are compared, in seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mvdiff.data.agreement import Agreement, scene_agreement
from mvdiff.data.recordings import RecordingSource

NUM_SCENES, NUM_PAIRS = 8, 4
"""Most scenes that are compared before training, spread over the data set, and most pairs of frames of each."""

_log = logging.getLogger(__name__)


class WrongScene(NamedTuple):
    """A scene whose depths, poses and colours disagree: its position in the list of scenes, and the problem."""

    index: int
    problem: str


def wrong_scenes(scenes: Sequence[RecordingSource], key_frames: bool) -> list[WrongScene]:
    """Compare frames of up to `NUM_SCENES` scenes; log how many were compared, and return the scenes that are wrong.

    Colours that do not fit are only a warning; other aspect ratios of colour and depth are wrong.

    Args:
        scenes: The scenes.
        key_frames: Compare key frames; False: usable frames.
    """
    measured: dict[int, Agreement] = {}
    unread = 0
    for index in np.unique(np.linspace(0, len(scenes) - 1, NUM_SCENES).round().astype(int)).tolist():
        scene = scenes[index]
        try:
            found = scene_agreement(scene, scene.key_frames if key_frames else None, NUM_PAIRS)
        except (OSError, ValueError) as error:  # training names the file when it needs it
            unread += 1
            _log.warning("%s: depths and poses were not compared: %s", scene.path, error)
        else:
            measured[index] = found.with_doubtful_colours()  # few pairs do not suffice to refuse a scene
            for warning in measured[index].warning_texts:
                _log.warning("%s: %s", scene.path, warning)
    wrong = [WrongScene(index, found.problem) for index, found in measured.items() if found.problem]
    pairs = sum(found.consistency.num_pairs for found in measured.values())
    _log.info(
        "compared %d pairs of frames of %d of %d scenes: %d disagree", pairs, len(measured), len(scenes), len(wrong)
    )
    return wrong
