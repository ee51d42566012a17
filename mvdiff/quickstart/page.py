"""The quickstart's report page and printed table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvdiff.quickstart.compared import BASE, CAA, CONTROLS, FOREIGN, METHODS, REFERENCES, TRUTH, samples_of
from mvdiff.quickstart.comparison import CONTENT, FID, IS, POOLED, PSNR, SHARPNESS
from mvdiff.quickstart.methods import toy_rig
from mvdiff.quickstart.settings import Settings
from mvdiff.quickstart.tables import cell, metric_column, print_tables
from mvdiff.quickstart.training import Run
from mvdiff.quickstart.verdict import verdict
from mvdiff.report import (
    Chart,
    Column,
    Gallery,
    Page,
    PanoramaEntry,
    Series,
    Table,
    report_sections,
    view_labels,
    write_page,
)
from mvdiff.report.pictures import channels_last, stitched
from mvdiff.samples import Sample, find_samples, read_sample

SHOWN = 6
COLUMNS = (
    (PSNR, metric_column(PSNR, digits=1)),
    (POOLED, metric_column(POOLED, digits=1)),
    ("ratio_to_ground_truth", Column("of ground truth", "", "higher", 2)),
    (FID, metric_column(FID)),
    (IS, metric_column(IS)),
    (CONTENT, metric_column(CONTENT, name="object and colour read as captioned", digits=2)),
    (SHARPNESS, metric_column(SHARPNESS)),
)
DIFFERENCES = (
    (PSNR, metric_column(PSNR, name="overlap PSNR", better=None)),
    (FID, metric_column(FID, better=None)),
    (CONTENT, metric_column(CONTENT, name="object and colour read", better=None)),
    (SHARPNESS, metric_column(SHARPNESS)),
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


def story_of_scores(scores: Mapping[str, Any]) -> list[str]:
    """Say in sentences what the intervals show."""
    return verdict(scores, CONTENT, "caption agreement")


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


def galleries(settings: Settings) -> tuple[list[Gallery], list[PanoramaEntry]]:
    """Return views and viewer scenes of the first held-out panoramas."""
    rig = toy_rig()
    labels = view_labels(rig.yaw_deg, rig.pitch_deg)
    shown, scenes = [], []
    folders = {method: find_samples(samples_of(settings, method))[:SHOWN] for method in METHODS}
    for i in range(len(folders[CAA])):
        samples = {method: read_sample(folders[method][i]) for method in METHODS}
        prompts = samples[CAA].record.prompts
        rows = {method: channels_last(samples[method].images_uint8()) for method in (BASE, CAA, FOREIGN, TRUTH)}
        shown.append(Gallery(rows, f"held-out room {i + 1}", labels, prompts))
        scenes.append(
            PanoramaEntry(
                f"room {i + 1}",
                prompts,
                {m: _panorama(samples[m]) for m in (CAA, BASE, TRUTH)},
            )
        )
    return shown, scenes


def _panorama(sample: Sample) -> object:
    """Return a sample's views stitched anew, denser than a toy view, with the mask of what they cover."""
    images_uint8 = sample.images_uint8()
    return stitched(sample, images_uint8, height=4 * images_uint8.shape[-2])


def write_report(
    settings: Settings,
    scores: Mapping[str, Any],
    runs: Sequence[Run],
    base_validation: float,
    story: Sequence[str],
    footer: Mapping[str, object],
) -> None:
    """Write `report.html`."""
    views, scenes = galleries(settings)
    sections = report_sections(
        tables=tables(scores),
        panoramas=scenes,
        charts=charts(scores, runs, base_validation),
        galleries=views,
        facts=footer,
    )
    page = Page("mvdiff quickstart: text to panorama", [*story_of_scores(scores), *story], sections)
    write_page(settings.out / "report.html", page)


def print_scores(scores: Mapping[str, Any]) -> None:
    """Print the tables and what they say to the terminal."""
    print_tables(tables(scores), story_of_scores(scores))
