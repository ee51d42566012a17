"""What the intervals show, in sentences, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvdiff.quickstart.compared import BASE, CAA, CONTROLS, ROUND_TRIP, TRUTH
from mvdiff.quickstart.comparison import FID, PSNR, SHARPNESS


def verdict(scores: Mapping[str, Any], content: str, content_name: str) -> list[str]:
    """Say what CAA gains, what the controls gain, and what is lost beyond the interval.

    Args:
        scores: `{"methods": ..., "differences": ...}` as a quickstart's `score_all` gives it.
        content: The number that stands for what a caption says.
        content_name: What it is called in a sentence.
    """
    methods, differences = scores["methods"], scores["differences"]
    gain, controls = differences[CAA], [differences[name][PSNR].estimate for name in CONTROLS]
    base, caa, truth, round_trip = (methods[name][PSNR] for name in (BASE, CAA, TRUTH, ROUND_TRIP))
    return [
        f"Overlap PSNR {base.estimate:.1f} dB without CAA, {caa.estimate:.1f} dB with it (ground truth "
        f"{truth.estimate:.1f} dB, autoencoder round trip {round_trip.estimate:.1f} dB): the paired difference is "
        f"{gain[PSNR].estimate:+.1f} dB [{gain[PSNR].low:+.1f}, {gain[PSNR].high:+.1f}]"
        + ("; the two intervals do not touch." if caa.low > base.high else "; the two intervals overlap."),
        "Controls on the same weights: "
        + ", ".join(f"{estimate:+.1f} dB" for estimate in controls)
        + " with neighbours of another scene and with attention switched off.",
        _losses(methods, gain, content, content_name),
    ]


def _losses(methods: Mapping[str, Any], gain: Mapping[str, Any], content: str, content_name: str) -> str:
    worse = []
    if gain[FID].low > 0:
        worse.append("toy FID")
    if gain[content].high < 0:
        worse.append(content_name)
    if gain[SHARPNESS].high < 0:
        base = methods[BASE][SHARPNESS].estimate
        kept, real = 1 + gain[SHARPNESS].estimate / base, methods[ROUND_TRIP][SHARPNESS].estimate / base
        worse.append(f"sharpness ({kept:.0%} of the base's; real views through the autoencoder have {real:.0%})")
    if worse:
        return f"With CAA worse than the base beyond the interval: {', '.join(worse)}."
    return f"Toy FID, {content_name} and sharpness are no worse than the base's, within their intervals."
