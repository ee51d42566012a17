"""The methods that every quickstart compares: with and without attention, two controls, and what no method can beat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mvdiff.quickstart.settings import QuickstartSettings

CAA, BASE = "with CAA", "base without CAA"
FOREIGN, SILENT = "CAA, neighbours of another scene", "CAA, attention switched off"
TRUTH, ROUND_TRIP = "ground truth", "autoencoder round trip"
CONTROLS, REFERENCES = (FOREIGN, SILENT), (TRUTH, ROUND_TRIP)
GENERATED = (CAA, BASE, *CONTROLS)
METHODS = (*GENERATED, *REFERENCES)
_FOLDERS = {CAA: "caa", BASE: "base", FOREIGN: "foreign", SILENT: "silent", TRUTH: "truth", ROUND_TRIP: "round_trip"}


def samples_of(settings: QuickstartSettings, method: str) -> Path:
    """Return the folder of a method's samples."""
    return settings.samples / _FOLDERS[method]


def sampling(settings: QuickstartSettings) -> dict[str, Any]:
    """Return how every method samples."""
    return {"num_inference_steps": settings.num_inference_steps, "guidance_scale": settings.guidance_scale}


def call_of(settings: QuickstartSettings, method: str) -> dict[str, Any]:
    """Return what tells a pipeline's call to be one of the generating methods."""
    turned = [(i + 1) % settings.batch_size for i in range(settings.batch_size)]
    return {
        CAA: {},
        BASE: {"caa": False},
        FOREIGN: {"neighbour_batch": turned},
        SILENT: {"attention_enabled": False},
    }[method]
