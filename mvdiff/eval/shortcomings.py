"""Name what a scoring left out, samples, pairs and numbers, and what keeps its two sides from being compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mvdiff.eval.metric import OWN_SIZE
from mvdiff.files.sizes import plural
from mvdiff.samples.folders import PANORAMA_NAME
from mvdiff.samples.ids import listed_ids

NO_REFERENCE = "no reference: "
"""Beginning of the sentence on a number that was computed without the reference, before the reason."""
_SHOWN = 10


def left_out(results: Mapping[str, Any]) -> list[str]:
    """Return a line for everything that was not read, measured or paired.

    These are samples that could not be read and those that only one side has, numbers that are not of all samples or
    lack their reference, and numbers that compare views of different sizes or counts.

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
        if nested := described.get("nested"):
            listed = listed_ids(nested, _SHOWN)
            lines.append(f"left out {plural(len(nested), 'image')} in folders below {described['path']}: {listed}")
        lines += [
            f"left out {one['num_views'] - one['num_whole']} of {one['num_views']} views of {one['folder']}: its "
            "panorama covers them in part (overlap_psnr counts the covered pixels)"
            for one in described.get("partial", ())
        ]
    return lines + _unpaired(results.get("pairing")) + _unmeasured(results) + _unlike(results)


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


def _unmeasured(results: Mapping[str, Any]) -> list[str]:
    """Name the numbers that are not of all samples of a side, and say what else a number lacks."""
    reference = results["reference"] or {}
    sides = (
        ("num_samples", results["generated"], "samples"),
        ("num_reference_samples", reference, "reference samples"),
    )
    found = []
    for name, entry in results["metrics"].items():
        for key, side, noun in sides:
            count, of = entry.get(key), side.get("num_samples")
            if None not in (count, of) and count != of:
                found.append((name, f"measured on {count} of {of} {noun}"))
        whole = f"{NO_REFERENCE}{reference.get('missing')}"  # said once, of the whole reference
        found += [(name, line) for line in entry.get("lacks", ()) if line != whole]
    return [f"{', '.join(names)}: {line}" for line, names in _by_line(found).items()]


def _unlike(results: Mapping[str, Any]) -> list[str]:
    """Name the numbers that compare views with others of the reference in size or count.

    Most metrics resize views, so sizes matter only to those that say that they take the images' own. Those of
    `panorama.png` read no views.
    """
    own, real = results["generated"], results["reference"] or {}
    variants = {
        name: entry.get("variant", "") for name, entry in results["metrics"].items() if "num_reference_samples" in entry
    }
    of_views = [name for name, variant in variants.items() if PANORAMA_NAME not in variant]
    at_own_size = [name for name, variant in variants.items() if OWN_SIZE in variant]
    counts = [{name: len(views) for name, views in side.get("images", {}).items()} for side in (own, real)]
    sizes = [side.get("sizes", {}) for side in (own, real)]
    if counts[0].keys() & counts[1].keys():
        unlike = _unlike_of(counts, "{} views per sample are compared with {} of the reference")
        resized = _unlike_of(sizes, "views of {} pixels are compared with {} of the reference")
    else:  # two sets without common ids
        totals = [sum(side.values()) for side in counts]
        differ = len(counts[0]) == len(counts[1]) and totals[0] != totals[1]  # other numbers of samples say it, too
        unlike = [f"{totals[0]} views are compared with {totals[1]} of the reference"] * differ
        each = [sorted(set(side.values())) for side in sizes]
        listed = [listed_ids(side) for side in each]
        resized = [f"views of {listed[0]} pixels are compared with {listed[1]} of the reference"] * (each[0] != each[1])
    lines = [f"{', '.join(of_views)}: {line}" for line in unlike if of_views]
    return lines + [f"{', '.join(at_own_size)}: {line}" for line in resized if at_own_size]


def _unlike_of(sides: Sequence[Mapping[str, Any]], sentence: str) -> list[str]:
    """Return a sentence for every two values of one sample that differ, with the ids of the samples."""
    own, real = sides
    pairs = [(name, sentence.format(own[name], real[name])) for name in own if own[name] != real.get(name, own[name])]
    return [f"{line} in {plural(len(names), 'sample')}: {listed_ids(names)}" for line, names in _by_line(pairs).items()]


def _by_line(found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names of each line."""
    names: dict[str, list[str]] = {}
    for name, line in found:
        names.setdefault(line, []).append(name)
    return names
