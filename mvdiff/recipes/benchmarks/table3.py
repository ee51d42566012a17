"""Table 3 of the paper: overlap PSNR of panoramas and frames, from the samples of Tables 1 and 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mvdiff.recipes.benchmarks import table1, table2
from mvdiff.recipes.benchmarks.settings import Size
from mvdiff.recipes.benchmarks.table import TRUTH, Expectation, MethodRow, ModelPart, PaperTable, TableSection
from mvdiff.recipes.scoring import POOLED, PSNR, Number
from mvdiff.report import Column

RATIOS = (
    Number("ratio_to_reference", Column("of ground truth: quotient", digits=2), (PSNR, "ratio_to_reference")),
    Number("mean_of_pair_ratios", Column("of ground truth: mean over pairs", digits=2), (PSNR, "mean_of_pair_ratios")),
)
"""Share of the ground truth's overlap PSNR: quotient of the means, and mean of the quotients of pairs."""
NUMBERS = (
    table1.BESIDE_OVERLAP[0],
    *RATIOS,
    Number.of(POOLED, name="pooled", better=None, digits=1),
    *table1.BESIDE_OVERLAP[1:],
)
PUBLISHED = (Column("overlap PSNR, published", "dB"), Column("ratio, published"))


_RATIOS_SAID = (
    "The ratios to the ground truth are the quotient of the mean overlap PSNRs, and the mean over pairs of views of "
    "their quotients."
)
_PUBLISHED_RATIOS = "The published ratios are not the quotients of the published PSNRs, which are 0.52 and 0.81."


def _consistency(
    section: TableSection,
    published: Mapping[str, Sequence[str]],
    option: str = "model",
    data_option: str = "data",
    note: str = _RATIOS_SAID,
) -> TableSection:
    """Return three rows of a section, with the published numbers of Table 3 and the names of its options."""

    def changed(row: MethodRow) -> MethodRow:
        parts: dict[Size, dict[str, ModelPart]] = {
            size: {place: replace(part, option=option) for place, part in named.items()}
            for size, named in row.parts.items()
        }
        return replace(row, published=published[row.method], parts=parts)

    rows = [changed(section.row(method)) for method in published]
    return section.with_rows(rows, numbers=NUMBERS, published=PUBLISHED, data_option=data_option, note=note)


_ORDER = ((TRUTH, "mvdiffusion"), ("mvdiffusion", "independent"))

TABLE3 = PaperTable(
    name="table3",
    title="Table 3: consistency of neighbouring views",
    sections=(
        _consistency(
            table1.PANORAMAS,
            {"independent": ("10.6", "0.28"), "mvdiffusion": ("25.4", "0.67"), TRUTH: ("37.7", "1.00")},
        ),
        _consistency(
            table2.FRAMES,
            {"independent": ("11.20", "0.44"), "mvdiffusion": ("17.41", "0.76"), TRUTH: ("21.41", "1.00")},
            option="depth_model",
            data_option="depth_data",
            note=f"{_RATIOS_SAID} {_PUBLISHED_RATIOS}",
        ),
    ),
    expectations=tuple(
        Expectation(
            sentence=f"Overlap PSNR of {noun}: ground truth above MVDiffusion, and MVDiffusion above no CAA.",
            task=task,
            number=PSNR,
            higher=_ORDER,
        )
        for task, noun in (("panorama", "panoramas"), ("depth", "frames"))
    ),
)
