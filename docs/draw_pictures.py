"""Draw the pictures of the README: one toy room with and without attention across views.

`python docs/draw_pictures.py` writes docs/images/panorama.webp and docs/images/turn.webp. The room is the first of a
world on which nothing that comes with the package was trained; its captions are the prompts. Both methods start from
the same noise. Needs matplotlib (the extra `dev`), no GPU and no network.
"""

import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from mvdiff.data.matterport3d import Matterport3DPanoramas
from mvdiff.data.toyworld.write import write_toyworld
from mvdiff.geometry.panorama import stitch
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.report.video import turning_frames

IMAGES = Path(__file__).parent / "images"
WORLD = 5
"""Seed of the toy world: the packaged weights were trained on worlds 1 and 3."""
WITHOUT, WITH, TRUTH = "Without CAA: each view alone", "With CAA", "The room that the captions describe"
PANORAMA_HEIGHT = 512
NUM_FRAMES, FRAME_MS = 72, 110


def generate() -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the views [8, 3, 64, 64] of each method, in [-1, 1], and their prompts."""
    pipeline = MVDiffusionPanoramaPipeline.from_pretrained("mvdiff://toy-caa")
    pipeline.set_progress_bar_config(disable=True)
    K, R = pipeline.rig.cameras()
    with tempfile.TemporaryDirectory() as folder:
        write_toyworld(folder, rooms=2, test_rooms=1, seed=WORLD, num_frames=0)
        source = Matterport3DPanoramas(Path(folder) / "mp3d_skybox", "train")
        captions, real = source.captions(0), source.views(0, K, R, 64, 64)
    prompts = [captions[int(yaw)] for yaw in pipeline.rig.yaw_deg]
    views = {}
    for name, caa in ((WITHOUT, False), (WITH, True)):
        output = pipeline([prompts], seed=0, num_inference_steps=50, guidance_scale=2, output_type="pt", caa=caa)
        views[name] = 2 * output.images[0].float() - 1
    return views | {TRUTH: real}, prompts


def panorama(views: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Stitch views to a panorama [H, 2 H, 3] uint8; also return which pixels they cover."""
    K, R = MVDiffusionPanoramaPipeline.from_pretrained("mvdiff://toy-caa").rig.cameras()
    stitched, covered = stitch(views, K, R, PANORAMA_HEIGHT, 2 * PANORAMA_HEIGHT)
    pixels = ((stitched.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    pixels[~covered.numpy()] = 128
    return pixels, covered.numpy()


def draw_panorama(views: dict[str, torch.Tensor], panoramas: dict[str, np.ndarray], rows: slice) -> None:
    """Draw the views of each method in a row, with the panorama of generated ones below."""
    inches, margin, title, gap = 11.0, 0.06, 0.34, 0.04
    width = inches - 2 * margin
    view, wide = (width - 7 * gap) / 8, width * (rows.stop - rows.start) / (2 * PANORAMA_HEIGHT)
    height = 3 * (title + view + gap) + 2 * (wide + 3 * gap) + margin
    figure, top = plt.figure(figsize=(inches, height), dpi=110), height

    def show(picture: np.ndarray, left: float, wide: float, high: float) -> None:
        axes = figure.add_axes((left / inches, (top - high) / height, wide / inches, high / height))
        axes.imshow(picture, interpolation="bicubic", aspect="auto")
        axes.set_axis_off()

    for name, images in views.items():
        figure.text(margin / inches, (top - 0.25) / height, name, fontsize=13, fontweight="bold")
        if name == WITHOUT:
            figure.text(1 - margin / inches, (top - 0.25) / height, "64x64 views, enlarged", fontsize=11, ha="right")
        top -= title
        for number, image in enumerate(images):
            show(((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy(), margin + number * (view + gap), view, view)
        top -= view + gap
        if name != TRUTH:
            show(panoramas[name][rows], margin, width, wide)
            top -= wide + 3 * gap
    figure.savefig(IMAGES / "panorama.webp", pil_kwargs={"quality": 88, "method": 6})
    plt.close(figure)


def draw_turn(panoramas: dict[str, np.ndarray]) -> None:
    """Write a camera that turns once around in both panoramas, side by side, as an animated WebP."""
    height, width, gap, title = 228, 304, 8, 26
    font = ImageFont.truetype(findfont(FontProperties(weight="bold")), size=14)  # that of the other picture
    turns = [list(turning_frames(panoramas[name], NUM_FRAMES, height, width, fov_deg=80)) for name in (WITHOUT, WITH)]
    frames = []
    for pair in zip(*turns, strict=True):
        frame = Image.new("RGB", (2 * width + gap, height + title), "white")
        draw = ImageDraw.Draw(frame)
        for column, (name, picture) in enumerate(zip((WITHOUT, WITH), pair, strict=True)):
            frame.paste(Image.fromarray(picture), (column * (width + gap), title))
            draw.text((column * (width + gap) + 2, 3), name, fill="black", font=font)
        frames.append(frame)
    path = IMAGES / "turn.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=72, method=6)


def main() -> None:
    """Generate the room and write both pictures."""
    views, prompts = generate()
    stitched = {name: panorama(images) for name, images in views.items()}
    covered = np.flatnonzero(stitched[WITH][1].all(axis=1))  # rows that every column shows
    panoramas = {name: pixels for name, (pixels, _) in stitched.items()}
    draw_panorama(views, panoramas, slice(covered[0], covered[-1] + 1))
    draw_turn(panoramas)
    print("\n".join(prompts))


if __name__ == "__main__":
    main()
