"""Name what a scoring left out: samples, pairs and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mvdiff.samples.ids import listed_ids

_SHOWN = 10


def left_out(results: Mapping[str, Any]) -> list[str]:
    """Return a line for every sample that was not read, and for the samples that only one side has.

    Args:
        results: Results of `mvdiff.eval.runner.evaluate`.
    """
    lines = []
    for side in ("generated", "reference"):
        described = results[side] or {}
        if "missing" in described:
            lines.append(f"left out the reference: {described['missing']}")
        lines += [f"left out {path}: its sample.json is missing" for path in described.get("incomplete", ())]
        lines += [f"left out {one['folder']}: {one['reason']}" for one in described.get("unreadable", ())]
        lines += [
            f"left out {one['num_views'] - one['num_whole']} of {one['num_views']} views of {one['folder']}: its "
            "panorama covers them in part (overlap_psnr counts the covered pixels)"
            for one in described.get("partial", ())
        ]
    return lines + _unpaired(results.get("pairing"))


def shortcomings(results: Mapping[str, Any]) -> list[str]:
    """Return every reason for which `mvdiff evaluate --strict` fails.

    These are `left_out`, missing numbers, unequal counts, and deviations from a protocol.
    """
    entries = results["metrics"].items()
    missing = [f"{name} is missing: {entry['missing']}" for name, entry in entries if "missing" in entry]
    missing += results.get("deviations", ())
    pairing, sides = results.get("pairing"), [results[side] or {} for side in ("generated", "reference")]
    if pairing is None or pairing["num_paired"]:
        return left_out(results) + missing
    counts = [side.get("num_samples") for side in sides]  # two sets without common ids, such as folders of images
    unequal = [f"{counts[0]} samples are compared with {counts[1]} reference samples"] if counts[0] != counts[1] else []
    return [line for line in left_out(results) if line not in _unpaired(pairing)] + unequal + missing


def _unpaired(pairing: Mapping[str, Any] | None) -> list[str]:
    if pairing is None:
        return []
    own, real, paired = (pairing[key] for key in ("only_generated", "only_reference", "num_paired"))
    if not paired:
        return [f"no sample id is on both sides: {len(own)} samples are compared with {len(real)} others as two sets"]
    lines = []
    if own:
        listed = listed_ids(own, _SHOWN)
        lines.append(f"the reference lacks {len(own)} of {len(own) + paired} generated samples: {listed}")
    if real:
        listed = listed_ids(real, _SHOWN)
        lines.append(f"{len(real)} of {len(real) + paired} reference samples have no generated sample: {listed}")
    return lines
