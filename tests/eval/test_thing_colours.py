import colorsys

import numpy as np
import pytest
import torch

from mvdiff.data.toyworld import write_toyworld
from mvdiff.data.toyworld.scene import COLOURS
from mvdiff.data.toyworld.truth import WalkTruth
from mvdiff.eval.metrics.thing_colours import colour_agreement, name_colour
from mvdiff.files.images import read_image_uint8

HUES = {"red": 0, "yellow": 50, "green": 128, "cyan": 184, "blue": 229, "purple": 284}  # degrees of COLOURS


def pixels(*colours) -> torch.Tensor:
    return torch.tensor(np.array(colours, dtype=np.float64)).round().clamp(0, 255).to(torch.uint8).reshape(-1, 3)


def test_matches_the_hue_of_colours_in_light_and_shade():
    """Oracle: the colour whose hue is nearest, as the standard library computes hues."""
    for name, rgb in COLOURS.items():
        for light in (0.35, 0.6, 1.0):
            shaded = np.array(rgb) * light
            hue, saturation, _ = colorsys.rgb_to_hsv(*shaded / 255)
            apart = {other: abs((360 * hue - degrees + 180) % 360 - 180) for other, degrees in HUES.items()}
            expected = min(apart, key=apart.get) if saturation > 0.35 else name
            assert expected == name
            assert name_colour(pixels(shaded)) == name


def test_black_stays_black_and_white_in_shade_stays_white():
    assert name_colour(pixels((10, 10, 12))) == "black"
    assert name_colour(pixels((0, 0, 0))) == "black"
    assert name_colour(pixels((90, 88, 84))) == "white"


def test_the_middle_pixel_counts_not_the_rim():
    assert name_colour(pixels(*[(200, 40, 40)] * 3, *[(40, 70, 205)] * 2)) == "red"


def test_real_frames_of_the_world_are_read(tmp_path):
    """Signed: every thing of real frames is read rightly, and none where frames are shown with red and blue swapped."""
    scene = write_toyworld(tmp_path, rooms=2, seed=3, size=64, test_rooms=1, num_frames=12) / "scannet/test/toy00001"
    truth = WalkTruth(scene)
    images = torch.stack([read_image_uint8(scene / "color" / f"{i}.jpg") for i in range(12)])
    labels = torch.stack([truth.labels(i) for i in range(12)])
    colours = [thing["colour"] for thing in truth.things]
    verdicts = colour_agreement(images, labels, colours)
    assert len(verdicts) > 20
    assert all(verdicts)
    swapped = colour_agreement(images.flip(1), labels, colours)
    changed = {"red", "yellow", "cyan", "blue"}
    kept = [name for image in labels for name in judged(image, colours)]
    assert len(kept) == len(swapped)
    assert not any(verdict for name, verdict in zip(kept, swapped, strict=True) if name in changed)
    assert len(colour_agreement(images, labels, colours, min_fraction=0.3)) < len(verdicts)


def judged(labels: torch.Tensor, colours: list[str]) -> list[str]:
    return [name for i, name in enumerate(colours) if (labels == i).double().mean() >= 0.03]


def test_what_does_not_fit_is_an_error():
    image, labels = torch.zeros(1, 3, 2, 3, dtype=torch.uint8), torch.zeros(1, 2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="colours must hold one name per object 0 to 0; got 0"):
        colour_agreement(image, labels, [])
    with pytest.raises(ValueError, match="labels"):
        colour_agreement(image, labels[:, :1], ["red"])
    assert colour_agreement(image, labels - 1, ["red"]) == []
