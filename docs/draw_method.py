"""Draw docs/images/method.png: where attention across views stands in the UNet, and what one block computes.

`python docs/draw_method.py`; needs matplotlib (the extra `dev`). The places are those of
`mvdiff.models.multiview_unet`, the widths those of Stable Diffusion 2.
"""

from itertools import pairwise
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch, Rectangle

IMAGES = Path(__file__).parent / "images"
FROZEN, EDGE, TRAINED, TINT, BLUE = "#e9ecef", "#5f6b76", "#c0392b", "#f8ded9", "#2c6fbb"
ZERO, ZERO_TINT = "#b7791f", "#fbe7b8"
"""Colours of what starts at zero."""
CHANNELS = (320, 640, 1280, 1280)
CELLS = (64, 32, 16, 8)
VIEWS = ("view i - 1", "view i", "view i + 1")


def box(axes, x, y, width, height, text="", face=FROZEN, edge=EDGE, **style):
    """Draw a rounded box with its lower left corner at (x, y)."""
    axes.add_patch(
        FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.06", facecolor=face, edgecolor=edge)
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", **style)


def arrow(axes, start, end, colour=EDGE, **style):
    """Draw an arrow between two points."""
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0} | style
    axes.annotate("", end, start, arrowprops=style)


def draw_unet(axes):
    """Three branches of the frozen UNet, and the nine blocks that join them."""
    levels = [*range(4), 3, *reversed(range(4))]
    names = [f"down {i}" for i in range(1, 5)] + ["mid"] + [f"up {i}" for i in range(1, 5)]
    step, width = 1.62, 0.84
    heights = {0: 0.86, 1: 0.7, 2: 0.54, 3: 0.4}
    rows = [2.5, 1.25, 0.0]
    for view, middle in zip(VIEWS, rows, strict=True):
        axes.text(-0.6, middle, f"{view}\nnoisy latent,\ntext", ha="right", va="center", fontsize=9)
        for i in range(len(levels)):
            gap = {0: 0.5, 5: step - 1.38}.get(i, step - width)
            arrow(axes, (i * step - gap, middle), (i * step, middle))
        arrow(axes, (4 * step + 0.42, middle), (4 * step + 0.96, middle))
        arrow(axes, (8 * step + width, middle), (9 * step + 0.12, middle))
        axes.text(9 * step + 0.22, middle, "noise of\n" + view, ha="left", va="center", fontsize=9)
    for i, (level, name) in enumerate(zip(levels, names, strict=True)):
        wide = 0.42 if name == "mid" else width  # attention stands inside the mid block, after its first ResNet
        for middle in rows:
            bottom = middle - heights[level] / 2
            box(axes, i * step, bottom, wide, heights[level], name, fontsize=8 if name != "mid" else 6.5)
            if name == "mid":
                box(axes, i * step + wide + 0.54, bottom, wide, heights[level], name, fontsize=6.5)
        x = i * step + wide + (0.1 if name == "mid" else 0.12)
        y = rows[-1] - 0.52
        box(axes, x, y, 0.34, 3.54, face=TINT, edge=TRAINED)
        axes.text(
            x + 0.17, 1.87, "CAA", rotation=90, ha="center", va="center", color=TRAINED, fontsize=9, weight="bold"
        )
        label = f"{CHANNELS[level]} ch.\n{CELLS[level]}x{CELLS[level]}"
        centre = x + 0.17 if name == "mid" else i * step + width / 2
        axes.text(centre, -0.62, label, ha="center", va="top", fontsize=8, color=EDGE)
    for i in range(4):  # skip connections of the upper branch
        left, right = i * step + width / 2, (8 - i) * step + width / 2
        top = 3.26 + 0.17 * (4 - i)
        bottoms = rows[0] + heights[i] / 2
        axes.plot([left, left, right, right], [bottoms, top, top, bottoms], color="#9aa5ae", linewidth=1, zorder=0)
    axes.text(4 * step + width / 2, 4.06, "skip connections of each branch", ha="center", fontsize=8, color=EDGE)
    axes.set(xlim=(-2.0, 16.1), ylim=(-1.25, 4.4), aspect="equal")
    axes.set_title("a   One frozen UNet, one branch per view; CAA (red) is trained", loc="left", fontsize=11)


def draw_taps(axes):
    """Draw the token of view i, and its neighbourhood in view l."""
    for left, title in ((0.0, "view i"), (6.2, "neighbour view l")):
        axes.text(left + 2.5, 5.25, title, ha="center", fontsize=10)
        for k in range(6):
            axes.plot([left + k, left + k], [0, 5], color="#cfd4d9", linewidth=0.8)
            axes.plot([left, left + 5], [k, k], color="#cfd4d9", linewidth=0.8)
    axes.add_patch(Rectangle((3, 2), 1, 1, facecolor=TRAINED, alpha=0.85))
    axes.text(3.5, 2.5, "s", color="white", ha="center", va="center", fontsize=12, weight="bold")
    t = (7.95, 2.75)
    for dx in (-1, 0, 1):
        for dy in (-1, 0, 1):
            axes.plot(t[0] + dx, t[1] + dy, "o", color=BLUE, markersize=6)
    axes.add_patch(Rectangle((t[0] - 1.35, t[1] - 1.35), 2.7, 2.7, fill=False, edgecolor=BLUE, linestyle="--"))
    axes.annotate("t", t, xytext=(5, 4), textcoords="offset points", color=BLUE, fontsize=11, weight="bold")
    axes.annotate(
        "t*", (t[0] + 1, t[1] + 1), xytext=(-15, -4), textcoords="offset points", color=BLUE, fontsize=11, weight="bold"
    )
    arrow(axes, (4.05, 2.3), (t[0] - 0.1, t[1] - 0.12), TRAINED, connectionstyle="arc3,rad=0.16", linewidth=1.6)
    axes.text(5.6, 1.0, "K, R\n(and depth)", ha="center", fontsize=8.5, color=TRAINED)
    seen = (4.62, 3.3)
    axes.plot(*seen, "x", color=BLUE, markersize=8, markeredgewidth=2)
    axes.annotate("s*", seen, xytext=(-4, 8), textcoords="offset points", color=BLUE, fontsize=11, weight="bold")
    arrow(axes, (3.55, 2.62), seen, BLUE, linewidth=1.3)
    text = "t: where view l shows the point of s      t*: one of K x K taps around t\n"
    text += "s*: where view i would see t*      $\\gamma(s^* - s)$: encoding of the displacement"
    axes.text(5.6, -0.35, text, ha="center", va="top", fontsize=9)
    axes.set(xlim=(-0.3, 11.5), ylim=(-1.7, 5.9), aspect="equal")
    axes.set_title("b   The taps of a token come from geometry", loc="left", fontsize=11)


def draw_block(axes):
    """Draw the residual transformer block; what starts at zero has a colour of its own."""
    left, wide = 1.7, 4.6
    steps = [
        (6.7, r"$q = \mathrm{LN}(F(s) + \gamma(0))$       $x = \mathrm{LN}(F_l(t^*) + \gamma(s^* - s))$", TRAINED, 6.9),
        (5.1, r"$M = \sum_{l}\ \sum_{t^*}\ \mathrm{softmax}(W_q\,q \cdot W_k\,x)\ W_v\,x$", TRAINED, wide),
        (3.5, r"$W_o\,M$", ZERO, wide),
        (1.9, r"$H = F(s) + W_o\,M$", EDGE, 2.6),
        (0.3, r"$H + \mathrm{FF}(\mathrm{LN}(H))$     FF: GEGLU x4, linear", ZERO, wide),
    ]
    faces = {TRAINED: TINT, ZERO: ZERO_TINT, EDGE: "white"}
    centre = left + wide / 2
    for y, text, edge, width in steps:
        box(axes, centre - width / 2, y, width, 0.95, text, faces[edge], edge, fontsize=9)
    for (upper, *_), (lower, *_) in pairwise(steps):
        arrow(axes, (centre, upper), (centre, lower + 0.95))
    arrow(axes, (centre, 0.3), (centre, -0.45))
    axes.text(centre, 8.25, "F: feature map of view i       $F_l$: of its neighbours", ha="center", fontsize=9.5)
    arrow(axes, (centre, 8.15), (centre, 7.65))
    axes.plot([centre, 7.75, 7.75], [7.95, 7.95, 2.37], color=EDGE, linewidth=1.1)
    arrow(axes, (7.75, 2.37), (centre + 1.3, 2.37))
    axes.set(xlim=(0.3, 8.0), ylim=(-0.9, 8.7))
    axes.set_title("c   One block (red: trained; yellow: starts at zero)", loc="left", fontsize=11)


def main():
    """Draw the figure."""
    figure = plt.figure(figsize=(11, 8.6), dpi=130)
    grid = figure.add_gridspec(
        2, 2, height_ratios=[1, 1.06], width_ratios=[1.16, 1], hspace=0.12, wspace=0.06, left=0.02, right=0.98,
        top=0.96, bottom=0.01,
    )  # fmt: skip
    for place, draw in ((grid[0, :], draw_unet), (grid[1, 0], draw_taps), (grid[1, 1], draw_block)):
        axes = figure.add_subplot(place)
        axes.set_axis_off()
        draw(axes)
    figure.savefig(IMAGES / "method.png")
    plt.close(figure)


if __name__ == "__main__":
    main()
