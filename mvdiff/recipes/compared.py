"""The methods that a recipe of trained attention compares: with and without it, two controls, and two references."""

from __future__ import annotations

from mvdiff.methods.method import Method
from mvdiff.methods.model import ModelMethod
from mvdiff.methods.references import AutoencoderRoundTrip, GroundTruth
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.settings import Controls

CAA, BASE = "with CAA", "base without CAA"
FOREIGN, SILENT = "CAA, neighbours of another scene", "CAA, attention switched off"
TRUTH, ROUND_TRIP = "ground truth", "autoencoder round trip"
CONTROLS, REFERENCES = (FOREIGN, SILENT), (TRUTH, ROUND_TRIP)
METHODS = (CAA, BASE, *CONTROLS, *REFERENCES)
FOLDERS = {CAA: "caa", BASE: "base", FOREIGN: "foreign", SILENT: "silent", TRUTH: "truth", ROUND_TRIP: "round_trip"}
"""Folder of each method's samples and scores."""


def sampled_methods(pipeline: MultiViewPipeline, batch_size: int) -> list[Method]:
    """Return the model, its base and its controls, for batches of `batch_size` samples, each of them on equal noise."""
    neighbours = [(i + 1) % batch_size for i in range(batch_size)]
    return [
        ModelMethod(CAA, pipeline),
        ModelMethod(BASE, pipeline, Controls(caa=False)),
        ModelMethod(FOREIGN, pipeline, Controls(neighbour_batch=neighbours)),
        ModelMethod(SILENT, pipeline, Controls(attention_enabled=False)),
    ]


def reference_methods(pipeline: MultiViewPipeline) -> list[Method]:
    """Return the upper bounds: ground truth and its autoencoder round trip."""
    return [GroundTruth(TRUTH, pipeline.task), AutoencoderRoundTrip(ROUND_TRIP, pipeline)]
