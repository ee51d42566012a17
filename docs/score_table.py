"""Print the scores of a quickstart as Markdown tables: `python docs/score_table.py quickstart/results.json`.

The README shows the first two rows of the first table, notes/quickstarts.md both tables.
"""

import json
import sys
from pathlib import Path

COLUMNS = {  # key in results.json: title, factor, decimals
    "overlap_psnr_mean_of_pairs": ("overlap PSNR, mean of pairs, dB", 1, 1),
    "overlap_psnr_pooled": ("pooled, dB", 1, 1),
    "given_overlap_psnr": ("neighbours against the given view, dB", 1, 1),
    "known_psnr": ("given pixels, not put back, dB", 1, 1),
    "toy_fid": ("toy FID", 1, 1),
    "toy_inception_score": ("toy IS", 1, 2),
    "label_agreement": ("object and colour read", 1, 2),
    "thing_colours": ("things of the captioned colour", 1, 2),
    "sharpness_gradient_energy": ("sharpness, 1000 x gradient energy", 1000, 2),
}


def cell(value: float | dict | None, factor: float, digits: int) -> str:
    """Write a number, with its interval where it has one."""
    if value is None:
        return ""
    if not isinstance(value, dict):
        return f"{factor * value:.{digits}f}"
    if value["low"] is None:
        return f"{factor * value['estimate']:.{digits}f}"
    estimate, low, high = (f"{factor * value[key]:.{digits}f}" for key in ("estimate", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def table(rows: dict[str, dict], first: str) -> str:
    """Return a Markdown table of methods by columns."""
    columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in rows.values())}
    lines = [[first, *(title for title, *_ in columns.values())], ["---"] * (len(columns) + 1)]
    for name, row in rows.items():
        lines.append([name, *(cell(row.get(key), factor, digits) for key, (_, factor, digits) in columns.items())])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    scores = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))["scores"]
    print(table(scores["methods"], ""), table(scores["differences"], "paired difference to the base"), sep="\n\n")
