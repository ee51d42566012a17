"""The quickstart's report page and printed table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvdiff.quickstart.comparison import CONTENT, FID, IS, POOLED, PSNR, SHARPNESS
from mvdiff.quickstart.methods import (
    BASE,
    CAA,
    CONTROLS,
    FOREIGN,
    METHODS,
    REFERENCES,
    ROUND_TRIP,
    SILENT,
    TRUTH,
    samples_of,
    toy_rig,
)
from mvdiff.quickstart.settings import Settings
from mvdiff.quickstart.tables import cell, print_tables
from mvdiff.quickstart.training import Run
from mvdiff.report import Chart, Column, PanoramaEntry, Series, Strip, Table, view_labels, write_report
from mvdiff.samples import find_samples, read_sample

SHOWN = 6
COLUMNS = (
    (PSNR, Column("overlap PSNR, mean of pairs", "dB", "higher", 1)),
    (POOLED, Column("overlap PSNR, pooled", "dB", "higher", 1)),
    ("ratio_to_ground_truth", Column("of ground truth", "", "higher", 2)),
    (FID, Column("toy FID", "toy-features", "lower", 2)),
    (IS, Column("toy IS", "toy-features", "higher", 2)),
    (CONTENT, Column("object and colour read as captioned", "share", "higher", 2)),
    (SHARPNESS, Column("sharpness", "1000 x gradient energy", None, 2)),
)
DIFFERENCES = (
    (PSNR, Column("overlap PSNR", "dB", None, 2)),
    (FID, Column("toy FID", "toy-features", None, 2)),
    (CONTENT, Column("object and colour read", "share", None, 3)),
    (SHARPNESS, Column("sharpness", "1000 x gradient energy", None, 2)),
)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """Return the table of methods and the table of paired differences to the base."""
    rows = [[name, *(cell(key, scores["methods"][name][key]) for key, _ in COLUMNS)] for name in METHODS]
    count, network = scores["num_panoramas"], scores["feature_network"]
    differences = [
        [f"{name} − base", *(cell(key, values[key]) for key, _ in DIFFERENCES)]
        for name, values in scores["differences"].items()
    ]
    return [
        Table(
            "Held-out panoramas",
            ["method", *(column for _, column in COLUMNS)],
            rows,
            f"{count} panoramas of 8 views at 64x64; 95% bootstrap intervals over panoramas. Overlap PSNR at the "
            f"views' own size. Toy FID and IS use the project's {network['name']} network "
            f"({network['weights_hash'][:12]}) against {scores['num_reference_panoramas']} training rooms; they are "
            "not comparable with Inception scores.",
            (*CONTROLS, *REFERENCES),
        ),
        Table(
            "Paired differences, same captions and seeds",
            ["comparison", *(column for _, column in DIFFERENCES)],
            differences,
            "Positive: more than the base. Only attention to the right neighbours may raise the overlap PSNR.",
        ),
    ]


def verdict(scores: Mapping[str, Any]) -> list[str]:
    """Say in sentences what the intervals show, and no more."""
    gain, controls = scores["differences"][CAA], [scores["differences"][name] for name in (FOREIGN, SILENT)]
    base, caa = (scores["methods"][name][PSNR] for name in (BASE, CAA))
    separate = caa.low > base.high
    lines = [
        f"Overlap PSNR {base.estimate:.1f} dB without CAA, {caa.estimate:.1f} dB with it (ground truth "
        f"{scores['methods'][TRUTH][PSNR].estimate:.1f} dB): the paired difference is {gain[PSNR].estimate:+.1f} dB "
        f"[{gain[PSNR].low:+.1f}, {gain[PSNR].high:+.1f}]"
        + ("; the two intervals do not touch." if separate else "; the two intervals overlap."),
        "Controls on the same weights: "
        + ", ".join(f"{c[PSNR].estimate:+.1f} dB" for c in controls)
        + " with neighbours of another panorama and with attention switched off.",
    ]
    worse = []
    if gain[FID].low > 0:
        worse.append("toy FID")
    if gain[CONTENT].high < 0:
        worse.append("caption agreement")
    if gain[SHARPNESS].high < 0:
        ratio = 1 + gain[SHARPNESS].estimate / scores["methods"][BASE][SHARPNESS].estimate
        real = scores["methods"][ROUND_TRIP][SHARPNESS].estimate / scores["methods"][BASE][SHARPNESS].estimate
        worse.append(f"sharpness ({ratio:.0%} of the base's; real views through the autoencoder have {real:.0%})")
    lines.append(
        f"With CAA worse than the base beyond the interval: {', '.join(worse)}."
        if worse
        else "Toy FID, caption agreement and sharpness are no worse than the base's, within their intervals."
    )
    return lines


def charts(scores: Mapping[str, Any], runs: Sequence[Run], base_validation: float) -> list[Chart]:
    """Return the curves of overlap PSNR and loss."""
    psnr, loss = [], []
    for run in runs:
        steps, values = run.curves.get("val/overlap_psnr", ([], []))
        start = [base_validation] if run is runs[0] else []
        psnr.append(Series(run.name, [0, *steps] if start else steps, [*start, *values]))
        loss.append(Series(run.name, *run.curves.get("val/loss", ([], []))))
    last = max(max(series.x) for series in psnr)
    psnr.append(Series("base without CAA", [0, last], [base_validation] * 2, dashed=True))
    return [
        Chart(
            "Overlap PSNR while training",
            "optimizer steps",
            "overlap PSNR (dB)",
            psnr,
            "Panoramas generated from validation captions on fixed seeds with the averaged weights.",
        ),
        Chart("Held-out loss", "optimizer steps", "noise loss", loss, "Validation rooms at fixed timesteps and noise."),
    ]


def galleries(settings: Settings) -> tuple[list[Strip], list[PanoramaEntry]]:
    """Return view strips and viewer scenes of the first held-out panoramas."""
    rig = toy_rig()
    labels = view_labels(rig.yaw_deg, rig.pitch_deg)
    strips, scenes = [], []
    folders = {method: find_samples(samples_of(settings, method))[:SHOWN] for method in METHODS}
    for i in range(len(folders[CAA])):
        samples = {method: read_sample(folders[method][i]) for method in METHODS}
        prompts = samples[CAA].record.prompts
        for method in (BASE, CAA, FOREIGN, TRUTH):
            images = samples[method].images_uint8().permute(0, 2, 3, 1).numpy()
            strips.append(Strip(method, prompts, list(images), labels, group=f"held-out room {i + 1}"))
        scenes.append(
            PanoramaEntry(
                f"room {i + 1}",
                prompts,
                {m: _covered_panorama(samples[m]) for m in (CAA, BASE, TRUTH)},
            )
        )
    return strips, scenes


def _covered_panorama(sample) -> object:
    """Return a sample's views stitched anew, with the mask of what they cover."""
    from mvdiff.geometry.panorama import stitch
    from mvdiff.samples import from_uint8, to_uint8

    K, R, height, _ = sample.record.camera_tensors()
    panorama, covered = stitch(from_uint8(sample.images_uint8()), K, R, 4 * height, 8 * height)
    return to_uint8(panorama).permute(1, 2, 0).numpy(), covered.numpy()


def write_page(
    settings: Settings,
    scores: Mapping[str, Any],
    runs: Sequence[Run],
    base_validation: float,
    story: Sequence[str],
    footer: Mapping[str, object],
) -> None:
    """Write `report.html`."""
    strips, scenes = galleries(settings)
    write_report(
        settings.out / "report.html",
        "mvdiff quickstart: text to panorama",
        [*verdict(scores), *story],
        tables(scores),
        charts(scores, runs, base_validation),
        strips,
        scenes,
        footer,
    )


def print_scores(scores: Mapping[str, Any]) -> None:
    """Print the tables and what they say to the terminal."""
    print_tables(tables(scores), verdict(scores))
