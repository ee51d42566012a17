"""Draw the pictures of docs/conventions.md with the library's own geometry, so that they cannot disagree with it.

    python docs/draw_conventions.py

Needs matplotlib (the dev extra). Writes docs/images/conventions_*.png.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from mvdiff.geometry import (
    Rig,
    RingRig,
    cell_centres,
    depth_correspondence,
    equirectangular_directions,
    intrinsics_from_fov,
    pixel_directions,
    project_points,
    rotation_from_yaw_pitch,
    skybox_cameras,
    tap_geometry,
    unproject,
)

IMAGES = Path(__file__).parent / "images"
RED, GREEN, BLUE, GREY, ORANGE = "#c0392b", "#2e8b57", "#2c6fbb", "#8a8a8a", "#e08214"
plt.rcParams.update({"font.size": 10, "figure.dpi": 110, "savefig.bbox": "tight"})


def plot_point(direction):
    """Place a world direction (x right, y down, z forward) in matplotlib's axes, whose third axis points up."""
    x, y, z = np.asarray(direction)
    return np.array([x, z, -y])


def arrow(axes, direction, colour, label, offset=(0.0, 0.0, 0.0), linewidth=2.5):
    """Draw a world vector from the origin in a 3D plot, its label at the tip moved by a world offset."""
    axes.quiver(0, 0, 0, *plot_point(direction), color=colour, linewidth=linewidth, arrow_length_ratio=0.1)
    place = plot_point(1.1 * np.asarray(direction) + np.asarray(offset))
    axes.text(*place, label, color=colour, ha="center", va="center", fontsize=12)


def empty_3d(figure, position, title, low, high):
    """Add a 3D plot without ticks, seen from behind, above and left, that spans the plot's own low to high corners."""
    axes = figure.add_subplot(position, projection="3d")
    axes.set_title(title, y=0.99)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    axes.set_box_aspect([b - a for a, b in zip(low, high, strict=True)], zoom=1.25)
    axes.view_init(elev=22, azim=-68)
    axes.set_axis_off()
    return axes


def draw_axes():
    """Camera axes, and what positive yaw and pitch do to the viewing direction."""
    figure = plt.figure(figsize=(9.6, 4.8))
    axes = empty_3d(figure, 121, "World and camera axes at yaw 0, pitch 0", (-0.1, 0.0, -0.9), (1.1, 1.0, 0.3))
    arrow(axes, (1, 0, 0), RED, "x right", offset=(0.0, -0.1, 0.0))
    arrow(axes, (0, 0.8, 0), GREEN, "y down")
    arrow(axes, (0, 0, 1), BLUE, "z forward")

    axes = empty_3d(figure, 122, "Yaw turns right, pitch looks up", (-0.1, 0.0, -0.1), (1.1, 1.0, 1.0))
    forward = np.array([0.0, 0.0, 1.0])
    arrow(axes, forward, GREY, "yaw 0, pitch 0", offset=(0.4, 0.0, 0.1), linewidth=1.5)
    views = [
        (70, 0, RED, "yaw +70, pitch 0", (-0.1, -0.12, 0.0)),
        (0, 50, BLUE, "yaw 0, pitch +50", (0.0, 0.0, 0.0)),
        (70, 50, ORANGE, "yaw +70, pitch +50", (0.0, 0.0, 0.0)),
    ]
    for yaw, pitch, colour, label, offset in views:
        arrow(axes, rotation_from_yaw_pitch(yaw, pitch).numpy() @ forward, colour, label, offset)
    sweeps = [
        ([(yaw, 0) for yaw in range(0, 71, 5)], RED),
        ([(0, pitch) for pitch in range(0, 51, 5)], BLUE),
        ([(70, pitch) for pitch in range(0, 51, 5)], ORANGE),
    ]
    for angles, colour in sweeps:
        path = np.array([plot_point(0.6 * rotation_from_yaw_pitch(*map(float, a)).numpy() @ forward) for a in angles])
        axes.plot(*path.T, color=colour, linestyle="--", linewidth=1.5)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.93, wspace=0)
    figure.savefig(IMAGES / "conventions_axes.png")
    plt.close(figure)


def draw_cells():
    """Pixel coordinates and the centres of latent cells."""
    width, height, stride = 8, 4, 4
    figure, axes = plt.subplots(figsize=(9.6, 5.0))
    for x in range(width + 1):
        heavy = x % stride == 0
        axes.plot([x - 0.5] * 2, [-0.5, height - 0.5], color="black", linewidth=2 if heavy else 0.4)
    for y in range(height + 1):
        heavy = y % stride == 0
        axes.plot([-0.5, width - 0.5], [y - 0.5] * 2, color="black", linewidth=2 if heavy else 0.4)
    pixels = cell_centres(height, width, stride=1).reshape(-1, 2)
    cells = cell_centres(height, width, stride).reshape(-1, 2)
    axes.plot(*pixels.T, "o", color=GREY, markersize=4, label="pixel centres: whole numbers")
    axes.plot(*cells.T, "s", color=RED, markersize=9, label=f"cell centres, stride {stride}: s i + (s - 1)/2")
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
    for i, (x, y) in enumerate(cells.tolist()):
        axes.annotate(
            f"cell ({i}, 0)\n= pixel ({x:g}, {y:g})", (x, y), (x, y + 0.78), color=RED, ha="center", va="top", bbox=box
        )
    centre = ((width - 1) / 2, (height - 1) / 2)
    axes.plot(*centre, "P", color=BLUE, markersize=10, label=f"principal point ((W-1)/2, (H-1)/2) = {centre}")
    axes.set_xticks([-0.5, *range(width), width - 0.5], ["-0.5", *map(str, range(width)), "\nW - 0.5 = 7.5"])
    axes.set_yticks([-0.5, *range(height), height - 0.5], ["-0.5", *map(str, range(height)), "H - 0.5 = 3.5"])
    axes.get_xticklabels()[0].set_y(-0.045)
    axes.set(xlim=(-0.8, width - 0.2), ylim=(height - 0.2, -0.8), aspect="equal")
    axes.set_xlabel("x (pixels, to the right)")
    axes.set_ylabel("y (pixels, down)")
    axes.set_title("An image of 8 x 4 pixels and its 2 x 1 latent cells")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    figure.savefig(IMAGES / "conventions_cells.png")
    plt.close(figure)


def colours_of(directions):
    """Colour the sphere: hue by yaw in steps of 90 degrees, a latitude grid, dark below the horizon."""
    x, y, z = directions.numpy()[..., 0], directions.numpy()[..., 1], directions.numpy()[..., 2]
    yaw, pitch = np.degrees(np.arctan2(x, z)) % 360, np.degrees(np.arcsin(np.clip(-y, -1, 1)))
    anchors = np.array([[0.36, 0.58, 0.86], [0.89, 0.45, 0.40], [0.93, 0.76, 0.38], [0.42, 0.72, 0.50]])  # 0, 90, ...
    sector = ((yaw + 45) // 90).astype(int) % 4
    colour = anchors[sector] * np.where(pitch < 0, 0.72, 1.0)[..., None]
    width = 1.2
    on_parallel = np.abs((pitch + 15) % 30 - 15) < width
    on_meridian = np.abs((yaw + 22.5) % 45 - 22.5) < width
    colour[on_parallel | on_meridian] *= 0.78
    return colour


def draw_skybox():
    """The six faces of a skybox, laid out so that the edges stated in the paper touch."""
    size = 160
    faces = colours_of(pixel_directions(*skybox_cameras(size), size, size))
    names = ["0 up", "1 yaw 270", "2 yaw 0", "3 yaw 90", "4 yaw 180", "5 down"]
    places = [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]  # row, column
    figure, axes = plt.subplots(figsize=(9.6, 7.4))
    for face, name, (row, column) in zip(faces, names, places, strict=True):
        axes.imshow(face, extent=(column, column + 1, row + 1, row))
        axes.text(column + 0.5, row + 0.5, name, ha="center", va="center", fontsize=13, fontweight="bold")
        axes.plot(*zip(*[(column, row), (column + 1, row), (column + 1, row + 1), (column, row + 1), (column, row)],
                       strict=True), color="black", linewidth=1)  # fmt: skip
    neighbours = {(0, 0): ["yaw 90", "yaw 0", "yaw 270", "yaw 180"], (2, 0): ["yaw 270", "yaw 0", "yaw 90", "yaw 180"]}
    for (row, column), (top, right, bottom, left) in neighbours.items():
        for text, x, y, rotation in [
            (top, 0.5, 0.09, 0),
            (bottom, 0.5, 0.91, 0),
            (left, 0.08, 0.5, 90),
            (right, 0.92, 0.5, 270),
        ]:
            axes.text(column + x, row + y, text, rotation=rotation, ha="center", va="center", fontsize=9)
    axes.text(2.5, 0.5, "The up face's bottom edge and the down face's\ntop edge meet face 1 (yaw 270).\n\n"
              "Each face is seen from inside, as its camera sees it.\nSmall words name the face behind each edge.",
              ha="center", va="center")  # fmt: skip
    axes.text(2.5, 2.5, "Colour: nearest of yaw 0, 90, 180, 270.\nDarker: below the horizon.\n"
              "Lines: every 45 degrees of yaw and 30 of pitch.", ha="center", va="center")  # fmt: skip
    axes.set(xlim=(-0.02, 4.02), ylim=(3.02, -0.02), aspect="equal")
    axes.set_axis_off()
    figure.savefig(IMAGES / "conventions_skybox.png")
    plt.close(figure)


def draw_equirectangular():
    """An equirectangular image with the outlines of three views of a ring and one that looks up."""
    height, width = 256, 512
    figure, axes = plt.subplots(figsize=(9.6, 5.4))
    axes.imshow(colours_of(equirectangular_directions(height, width)), extent=(-180, 180, -90, 90))
    rig = Rig([(0, 0, 90), (45, 0, 90), (90, 0, 90), (-150, 40, 70)], height=64, width=64)
    styles = [
        ("black", "view 0: yaw 0"),
        (RED, "view 1: yaw 45"),
        (BLUE, "view 2: yaw 90"),
        ("white", "yaw -150, pitch 40, FoV 70"),
    ]
    for K, R, (colour, label) in zip(*rig.cameras(), styles, strict=True):
        directions = pixel_directions(K, R, 64, 64)
        border = torch.cat([directions[0], directions[:, -1], directions[-1].flip(0), directions[:, 0].flip(0)])
        yaw = torch.rad2deg(torch.atan2(border[:, 0], border[:, 2]))
        pitch = torch.rad2deg(torch.asin(-border[:, 1]))
        yaw[1:][yaw.diff().abs() > 180] = torch.nan  # lift the pen where the outline leaves at one edge
        axes.plot(yaw, pitch, color=colour, linewidth=2, label=label)
    axes.set_xticks(range(-180, 181, 45))
    axes.set_yticks(range(-90, 91, 30))
    axes.set_xlabel("yaw in degrees: grows to the right; the left and right edges meet at yaw 180, behind")
    axes.set_ylabel("pitch in degrees: up is positive")
    axes.set_title("Equirectangular image, W = 2H: the middle is yaw 0, pitch 0")
    axes.legend(loc="lower center", ncols=2, framealpha=0.9, facecolor="#cccccc")
    figure.savefig(IMAGES / "conventions_equirectangular.png")
    plt.close(figure)


def draw_taps():
    """One token of view 0, its nine taps in view 1, and where view 0 sees those taps."""
    size, stride = 64, 8
    geometry = tap_geometry(*RingRig(height=size, width=size).cameras(), size, size, stride)
    cells, token = size // stride, 2 * (size // stride) + 5
    s = torch.tensor([token % cells, token // cells])
    neighbour = geometry.neighbours[0].tolist().index(1)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 5.0))
    for axes in (left, right):
        axes.set_xticks(range(cells))
        axes.set_yticks(range(cells))
        for edge in range(cells + 1):
            axes.axhline(edge - 0.5, color="#dddddd", linewidth=0.8)
            axes.axvline(edge - 0.5, color="#dddddd", linewidth=0.8)
        axes.set(
            xlim=(-0.5, cells - 0.5), ylim=(cells - 0.5, -0.5), aspect="equal", xlabel="x (cells)", ylabel="y (cells)"
        )
    seen = s + geometry.displacement[0, neighbour, token]
    left.set_title("view 0 (yaw 0): the token s and the positions s*")
    left.plot(*s, "s", color=RED, markersize=11)
    left.plot(*seen.T, "o", color=BLUE, markersize=5)
    right.set_title("view 1 (yaw 45): t and its taps 0 to 8")
    taps = geometry.taps_xy[0, neighbour, token]
    right.plot(*taps.T, "o", color=BLUE, markersize=5)
    right.plot(*taps[4], "s", color=RED, markersize=11, markerfacecolor="none", markeredgewidth=2)
    for tap, (there, here) in enumerate(zip(taps.tolist(), seen.tolist(), strict=True)):
        right.annotate(str(tap), there, xytext=(5, 5), textcoords="offset points", color=BLUE)
        left.annotate(str(tap), here, xytext=(5, 5), textcoords="offset points", color=BLUE)
    figure.savefig(IMAGES / "conventions_taps.png")
    plt.close(figure)


def wall_and_board(K, R, t, height, width):
    """Return the z-depth [H, W] of a wall at z = 4 m with a board before it at z = 2.2 m, x from 0.2 to 0.9 m."""
    rays = unproject(cell_centres(height, width, 1), torch.ones(height, width), K, R, t) - t  # z-depth 1
    depths = (4 - t[2]) / rays[..., 2]
    board = (2.2 - t[2]) / rays[..., 2]
    x = t[0] + board * rays[..., 0]
    return torch.where((x > 0.2) & (x < 0.9), board, depths)


def draw_depth():
    """Two cameras seen from above: which points of the one the other sees, and the test for occlusion."""
    height, width = 1, 64
    K = intrinsics_from_fov(60.0, height, width).double()
    poses = [(0.0, (0.0, 0.0, 0.0)), (-15.0, (1.5, 0.0, 0.5))]  # yaw, t
    R = [rotation_from_yaw_pitch(torch.tensor(yaw, dtype=torch.float64), 0.0) for yaw, _ in poses]
    t = [torch.tensor(centre, dtype=torch.float64) for _, centre in poses]
    depths = [wall_and_board(K, *pose, height, width) for pose in zip(R, t, strict=True)]
    xy, visible = depth_correspondence(depths[0], K, R[0], t[0], depths[1], K, R[1], t[1])
    points = unproject(cell_centres(height, width, 1), depths[0], K, R[0], t[0])[0]
    z = project_points(points, K, R[1], t[1], height, width)[1]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.6))
    left.plot([-2.6, 2.6], [4, 4], color="black", linewidth=3)
    left.plot([0.2, 0.9], [2.2, 2.2], color=ORANGE, linewidth=4)
    for pixel, colour in ((10, BLUE), (38, BLUE), (24, RED)):
        left.plot(*zip(t[0][[0, 2]], points[pixel, [0, 2]], strict=True), color=colour, linewidth=1)
        left.plot(*zip(t[1][[0, 2]], points[pixel, [0, 2]], strict=True), color=colour, linewidth=1, linestyle="--")
        left.plot(*points[pixel, [0, 2]], "o", color=colour, markersize=7)
        right.plot(xy[0, pixel, 0], z[pixel], "o", color=colour, markersize=8, zorder=3)
    for view, (camera, centre) in enumerate(zip(R, t, strict=True)):
        for axis, colour, name in ((0, RED, "x"), (2, BLUE, "z")):
            tip = centre + 0.55 * camera[:, axis]
            left.annotate("", tip[[0, 2]], centre[[0, 2]], arrowprops={"color": colour, "width": 1.5, "headwidth": 7})
            left.annotate(name, tip[[0, 2]], color=colour, xytext=(4, 4), textcoords="offset points")
        left.annotate(f"view {view}", centre[[0, 2]], xytext=(0, -16), textcoords="offset points", ha="center")
    left.set(xlim=(-2.7, 2.7), ylim=(-0.5, 4.4), aspect="equal", xlabel="world x (metres)", ylabel="world z (metres)")
    left.set_title("From above: points of view 0, and view 1")
    right.plot(range(width), depths[1][0], color="black", linewidth=2, label="view 1's own depth")
    right.plot(
        xy[0, visible[0], 0], z[visible[0]], ".", color=BLUE, markersize=4, label="z of view 0's points: visible"
    )
    hidden = ~visible[0] & (xy[0, :, 0] >= -0.5) & (xy[0, :, 0] <= width - 0.5)
    right.plot(xy[0, hidden, 0], z[hidden], ".", color=RED, markersize=4, label="occluded: z does not agree")
    right.set(xlabel="x in view 1 (pixels)", ylabel="z in view 1 (metres)", ylim=(0, None))
    right.set_title("In view 1: visible where depths agree")
    right.legend(loc="lower right", frameon=False)
    figure.savefig(IMAGES / "conventions_depth.png")
    plt.close(figure)


def main():
    """Draw every picture."""
    IMAGES.mkdir(exist_ok=True)
    for draw in (draw_axes, draw_cells, draw_skybox, draw_equirectangular, draw_taps, draw_depth):
        draw()


if __name__ == "__main__":
    main()
