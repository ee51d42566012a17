"""The outpainting quickstart's report page and printed tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mvdiff.quickstart.compared import BASE, CAA, CONTROLS, METHODS, REFERENCES, ROUND_TRIP, TRUTH
from mvdiff.quickstart.comparison import CONTENT, FID, PSNR, SHARPNESS
from mvdiff.quickstart.methods import toy_rig
from mvdiff.quickstart.outpaint.methods import PICTURE_METHODS, pictures_of
from mvdiff.quickstart.outpaint.scores import GIVEN, KNOWN
from mvdiff.quickstart.outpaint.settings import OutpaintSettings
from mvdiff.quickstart.page import charts, galleries
from mvdiff.quickstart.tables import cell, metric_column, print_tables
from mvdiff.quickstart.training import Run
from mvdiff.quickstart.verdict import verdict
from mvdiff.report import Column, Gallery, Page, Table, report_sections, view_labels, write_page
from mvdiff.report.pictures import channels_last
from mvdiff.samples import find_samples, read_sample

COLUMNS = (
    (GIVEN, metric_column(GIVEN, name="neighbours against the given view", digits=1)),
    (KNOWN, metric_column(KNOWN, name="given pixels, not put back", digits=1)),
    (PSNR, metric_column(PSNR, name="overlap PSNR, all neighbours", digits=1)),
    ("ratio_to_ground_truth", Column("of ground truth", "", "higher", 2)),
    (FID, metric_column(FID)),
    (CONTENT, metric_column(CONTENT, name="object and colour read as captioned", digits=2)),
    (SHARPNESS, metric_column(SHARPNESS)),
)
DIFFERENCES = (
    (GIVEN, metric_column(GIVEN, name="neighbours against the given view", better=None)),
    (KNOWN, metric_column(KNOWN, name="given pixels, not put back", better=None)),
    (PSNR, metric_column(PSNR, name="overlap PSNR", better=None)),
    (FID, metric_column(FID, better=None)),
    (CONTENT, metric_column(CONTENT, name="object and colour read", better=None)),
    (SHARPNESS, metric_column(SHARPNESS)),
)
PICTURE_COLUMNS = (
    (KNOWN, metric_column(KNOWN, name="given pixels, not put back", digits=1)),
    (PSNR, metric_column(PSNR, name="overlap PSNR, all neighbours", digits=1)),
)


def tables(settings: OutpaintSettings, scores: Mapping[str, Any]) -> list[Table]:
    """Return the tables of methods, of paired differences to the base, and of panoramas around pictures."""
    network = scores["feature_network"]
    return [
        Table(
            "Held-out rooms around their first view",
            ["method", *(column for _, column in COLUMNS)],
            [[name, *(cell(key, scores["methods"][name][key]) for key, _ in COLUMNS)] for name in METHODS],
            f"{scores['num_panoramas']} panoramas of 8 views at 64x64, of which view 0 is given; 95% bootstrap "
            "intervals over panoramas. Neighbours against the given view: its real pixels warped into the views beside "
            f"it, which were generated. Toy FID: the project's {network['name']} network "
            f"({network['weights_hash'][:12]}) against {scores['num_reference_panoramas']} training rooms; not "
            "comparable with Inception scores.",
            (*CONTROLS, *REFERENCES),
        ),
        Table(
            "Paired differences, same given views, captions and seeds",
            ["comparison", *(column for _, column in DIFFERENCES)],
            [
                [f"{name} − base", *(cell(key, values[key]) for key, _ in DIFFERENCES)]
                for name, values in scores["differences"].items()
            ],
            "Positive: more than the base. Only attention to the right neighbours may raise what neighbours share.",
        ),
        Table(
            "The same rooms around a picture that no view shows as a whole",
            ["method", *(column for _, column in PICTURE_COLUMNS)],
            [
                [name, *(cell(key, values[key]) for key, _ in PICTURE_COLUMNS)]
                for name, values in scores["pictures"].items()
            ],
            f"{settings.pictures} pictures of 4:3 with a field of view of {settings.fov_deg:g} degrees, at yaw "
            f"{settings.yaw_deg:g} and pitch {settings.pitch_deg:g}, warped into the views that they reach.",
        ),
    ]


def story_of_scores(scores: Mapping[str, Any]) -> list[str]:
    """Say in sentences what the intervals show."""
    methods, gain = scores["methods"], scores["differences"][CAA]
    base, caa, real = (methods[name][GIVEN].estimate for name in (BASE, CAA, TRUTH))
    says = "continue the given view" if gain[GIVEN].low > 0 else "do not continue the given view beyond the interval"
    controls = ", ".join(f"{scores['differences'][name][GIVEN].estimate:+.1f}" for name in CONTROLS)
    known, limit = (methods[name][KNOWN].estimate for name in (CAA, ROUND_TRIP))
    return [
        f"With CAA the neighbours {says}: {caa:.1f} dB against its pixels, without CAA {base:.1f} dB (real neighbours "
        f"{real:.1f} dB); paired {gain[GIVEN].estimate:+.1f} dB [{gain[GIVEN].low:+.1f}, {gain[GIVEN].high:+.1f}], "
        f"the controls {controls} dB.",
        f"The given pixels come back at {known:.1f} dB before they are put back (autoencoder round trip {limit:.1f} "
        "dB).",
        *verdict(scores, CONTENT, "caption agreement"),
    ]


def picture_galleries(settings: OutpaintSettings) -> list[Gallery]:
    """Return what was given of the views, and what was made of it."""
    rig, found = toy_rig(), []
    labels = view_labels(rig.yaw_deg, rig.pitch_deg)
    folders = {method: find_samples(pictures_of(settings, method)) for method in PICTURE_METHODS}
    for i in range(settings.pictures):
        samples = {method: read_sample(folders[method][i]) for method in (BASE, CAA)}
        pixels, known = samples[CAA].given()
        prompts = samples[CAA].record.prompts
        shown = np.where(known.permute(0, 2, 3, 1).numpy() > 0, pixels.permute(0, 2, 3, 1).numpy(), 128)
        rows = {"given": list(shown.astype(np.uint8))}
        rows |= {method: channels_last(sample.images_uint8()) for method, sample in samples.items()}
        found.append(Gallery(rows, f"room {i + 1} around a picture", labels, prompts))
    return found


def write_report(
    settings: OutpaintSettings,
    scores: Mapping[str, Any],
    runs: Sequence[Run],
    base_validation: float,
    story: Sequence[str],
    footer: Mapping[str, object],
) -> None:
    """Write `report.html`."""
    views, scenes = galleries(settings)
    sections = report_sections(
        tables=tables(settings, scores),
        panoramas=scenes,
        charts=charts(scores, runs, base_validation),
        galleries=[*views, *picture_galleries(settings)],
        facts=footer,
    )
    page = Page("mvdiff quickstart: a view to a panorama", [*story_of_scores(scores), *story], sections)
    write_page(settings.out / "report.html", page)


def print_scores(settings: OutpaintSettings, scores: Mapping[str, Any]) -> None:
    """Print the tables and what they say to the terminal."""
    print_tables(tables(settings, scores), story_of_scores(scores))
