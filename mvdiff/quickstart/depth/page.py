"""The depth quickstart's report page and printed tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mvdiff.quickstart.compared import BASE, CAA, CONTROLS, FOREIGN, METHODS, REFERENCES, TRUTH, samples_of
from mvdiff.quickstart.comparison import FID, POOLED, PSNR, SHARPNESS
from mvdiff.quickstart.depth.interpolation import INDEPENDENT, INTERPOLATED, REAL, opened
from mvdiff.quickstart.depth.scores import COLOURS, PAIR_RATIO, UNOCCLUDED
from mvdiff.quickstart.depth.settings import DepthSettings
from mvdiff.quickstart.tables import cell, metric_column, print_tables
from mvdiff.quickstart.training import Run
from mvdiff.quickstart.verdict import verdict
from mvdiff.report import Chart, Column, Gallery, MeshEntry, Page, Series, Table, report_sections, write_page
from mvdiff.report.pictures import channels_last, depth_pictures
from mvdiff.samples import find_samples, read_sample

SHOWN, SHOWN_FRAMES = 6, 16
COLUMNS = (
    (PSNR, metric_column(PSNR, digits=1)),
    (POOLED, metric_column(POOLED, digits=1)),
    ("ratio_to_ground_truth", Column("of ground truth", "", "higher", 2)),
    (PAIR_RATIO, Column("mean of pair ratios", "", "higher", 2)),
    (UNOCCLUDED, Column("overlap PSNR, occluded left out", "dB", "higher", 1)),
    (FID, metric_column(FID)),
    (COLOURS, metric_column(COLOURS, digits=2)),
    (SHARPNESS, metric_column(SHARPNESS)),
)
DIFFERENCES = (
    (PSNR, metric_column(PSNR, name="overlap PSNR", better=None)),
    (FID, metric_column(FID, better=None)),
    (COLOURS, metric_column(COLOURS, better=None)),
    (SHARPNESS, metric_column(SHARPNESS)),
)


def tables(scores: Mapping[str, Any], agreement: Mapping[str, Any]) -> list[Table]:
    """Return the tables of methods, of paired differences to the base, and of the frames between key frames."""
    rows = [[name, *(cell(key, scores["methods"][name][key]) for key, _ in COLUMNS)] for name in METHODS]
    network = scores["feature_network"]
    differences = [
        [f"{name} − base", *(cell(key, values[key]) for key, _ in DIFFERENCES)]
        for name, values in scores["differences"].items()
    ]
    between = [[name, cell("", value)] for name, value in agreement["methods"].items()]
    return [
        Table(
            "Held-out key frames",
            ["method", *(column for _, column in COLUMNS)],
            rows,
            f"{scores['num_sequences']} rooms, {scores['num_views']} key frames each; 95% bootstrap intervals over "
            "rooms. Overlap PSNR of consecutive key frames at 48x64 over pixels whose depth is off by at most 0.5 m "
            "(the paper's protocol), and with the stricter test of occlusion that the attention uses. The ratio is of "
            "the means; beside it, the mean of the ratios of pairs. Toy FID: the project's "
            f"{network['name']} network ({network['weights_hash'][:12]}) against {scores['num_reference_sequences']} "
            "sequences of training rooms; not comparable with Inception scores. Colours are read at the "
            f"{scores['num_things']} places where things stand.",
            (*CONTROLS, *REFERENCES),
        ),
        Table(
            "Paired differences, same captions, depths and seeds",
            ["comparison", *(column for _, column in DIFFERENCES)],
            differences,
            "Positive: more than the base. Only attention to the right neighbours may raise the overlap PSNR.",
        ),
        Table(
            "Frames between two key frames against these key frames",
            ["method", Column("overlap PSNR, occluded left out", "dB", "higher", 1)],
            between,
            f"{agreement['num_frames']} frames between {agreement['num_gaps']} pairs of key frames "
            f"(rooms: {agreement['num_sequences']}); intervals over pairs of key frames. The key frames were made with "
            "CAA, and those of the ground truth are its own.",
            (REAL,),
        ),
    ]


def story_of_scores(scores: Mapping[str, Any], agreement: Mapping[str, Any]) -> list[str]:
    """Say in sentences what the intervals show, of key frames and of those between."""
    made, alone = (agreement["methods"][name].estimate for name in (INTERPOLATED, INDEPENDENT))
    found = agreement["difference"]
    says = "agree with their key frames better than" if found.low > 0 else "do not agree with their key frames beyond"
    return [
        *verdict(scores, COLOURS, "colours of things"),
        f"Interpolated frames {says} independent ones: {made:.1f} against {alone:.1f} dB (real frames "
        f"{agreement['methods'][REAL].estimate:.1f} dB), paired {found.estimate:+.1f} dB "
        f"[{found.low:+.1f}, {found.high:+.1f}].",
    ]


def charts(runs: Sequence[Run], stage1: Sequence[Run], before: Mapping[str, float]) -> list[Chart]:
    """Return the curves of stage 2's overlap PSNR and loss, and of stage 1's loss."""
    at_0 = {runs[0].name: before}
    return [
        _chart(
            "Overlap PSNR while training",
            ("overlap PSNR (dB)", "val/overlap_psnr"),
            runs,
            at_0,
            "Key frames generated from validation captions and depths on fixed seeds, with the averaged weights.",
        ),
        _chart(
            "Held-out loss of stage 2",
            ("noise loss", "val/loss"),
            runs,
            at_0,
            "Key frames of validation rooms at fixed timesteps and noise. Step 0 is the base alone.",
        ),
        _chart(
            "Held-out loss of stage 1",
            ("noise loss", "val/loss"),
            stage1,
            {},
            "Single frames of validation rooms at fixed timesteps and noise.",
        ),
    ]


def _chart(
    title: str, shown: tuple[str, str], runs: Sequence[Run], at_0: Mapping[str, Mapping[str, float]], note: str
) -> Chart:
    """Draw a metric of the runs that have it; `at_0` says what it was before the first step."""
    label, metric = shown
    series = []
    for run in (run for run in runs if metric in run.curves):
        steps, values = run.curves[metric]
        if run.name in at_0:
            steps, values = [0, *steps], [at_0[run.name][metric], *values]
        series.append(Series(run.name, steps, values))
    return Chart(title, "optimizer steps", label, series, note)


def galleries(settings: DepthSettings) -> list[Gallery]:
    """Return the first held-out key frames, and the first frames of every sequence."""
    found = []
    folders = {method: find_samples(samples_of(settings, method))[:SHOWN] for method in METHODS}
    for i in range(len(folders[CAA])):
        samples = {method: read_sample(folders[method][i]) for method in (BASE, CAA, FOREIGN, TRUTH)}
        prompts = samples[CAA].record.prompts
        labels = [f"key {n + 1}" for n in range(len(prompts))]
        rows = {method: channels_last(sample.images_uint8()) for method, sample in samples.items()}
        rows["depth"] = depth_pictures(samples[CAA].depths())
        found.append(Gallery(rows, f"held-out room {i + 1}: key frames", labels, prompts))
    sequences = {method: opened(settings, method) for method in (INTERPOLATED, INDEPENDENT, REAL)}
    for i, name in enumerate(sequences[REAL]):
        record = sequences[INTERPOLATED][name].record
        frames, prompts = record.settings["frames"][:SHOWN_FRAMES], record.prompts[:SHOWN_FRAMES]
        keys = set(record.settings["key_frames"])
        labels = [f"key {frame}" if frame in keys else f"{frame}" for frame in frames]
        rows = {
            "two stages" if method == INTERPOLATED else method: channels_last(
                samples[name].images_uint8()[:SHOWN_FRAMES]
            )
            for method, samples in sequences.items()
        }
        found.append(Gallery(rows, f"sequence {i + 1}: key frames and those between", labels, prompts))
    return found


def write_report(
    settings: DepthSettings,
    scores: Mapping[str, Any],
    agreement: Mapping[str, Any],
    curves: Sequence[Chart],
    meshes: Sequence[MeshEntry],
    story: Sequence[str],
    footer: Mapping[str, object],
) -> None:
    """Write `report.html`."""
    sections = report_sections(
        tables=tables(scores, agreement),
        meshes=meshes,
        charts=curves,
        galleries=galleries(settings),
        facts=footer,
    )
    page = Page("mvdiff quickstart: depth to frames", [*story_of_scores(scores, agreement), *story], sections)
    write_page(settings.out / "report.html", page)


def print_scores(scores: Mapping[str, Any], agreement: Mapping[str, Any]) -> None:
    """Print the tables and what they say to the terminal."""
    print_tables(tables(scores, agreement), story_of_scores(scores, agreement))
