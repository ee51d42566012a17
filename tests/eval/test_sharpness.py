import numpy as np
import pytest
import scipy.ndimage
import torch

from mvdiff.eval.metrics.sharpness import gradient_energy, laplacian_variance


def images(height=9, width=13):
    return torch.randint(0, 256, (4, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_laplacian_matches_scipy():
    grey = images().double().mean(dim=1).numpy() / 255
    expected = [scipy.ndimage.laplace(g)[1:-1, 1:-1].var() for g in grey]
    assert np.allclose(laplacian_variance(images()).numpy(), expected)


def test_gradient_matches_naive_loop():
    grey = images().double().mean(dim=1).numpy() / 255
    for g, ours in zip(grey, gradient_energy(images()).tolist(), strict=True):
        h, w = g.shape
        x = np.mean([(g[i, j + 1] - g[i, j]) ** 2 for i in range(h) for j in range(w - 1)])
        y = np.mean([(g[i + 1, j] - g[i, j]) ** 2 for i in range(h - 1) for j in range(w)])
        assert ours == pytest.approx(x + y)


@pytest.mark.parametrize("measure", [gradient_energy, laplacian_variance])
def test_blur_lowers_and_range_does_not_matter(measure):
    pixels = images(32, 32)
    blurred = torch.nn.functional.avg_pool2d(pixels.float(), 3, stride=1, padding=1)
    assert (measure(blurred / 127.5 - 1) < 0.5 * measure(pixels)).all()
    assert torch.allclose(measure(pixels.float() / 127.5 - 1), measure(pixels))
    assert measure(torch.zeros(1, 3, 8, 8)).item() == 0
    with pytest.raises(ValueError, match="images must have shape"):
        measure(pixels[0])
