import pytest
import torch
import torch.nn.functional as F

from mvdiff.geometry.mipmaps import at_mip_level, mip_level


@pytest.mark.parametrize("shape", [(6, 3, 8, 12), (1, 1, 2, 2), (2, 1, 7, 10), (1, 2, 5, 1)])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_uint8_matches_float_pooling(shape, level):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = images.double()
    for _ in range(level):
        height, width = (max(1, size // 2) for size in expected.shape[-2:])
        expected = F.adaptive_avg_pool2d(expected, (height, width))
    torch.testing.assert_close(at_mip_level(images, level), expected.float())
    torch.testing.assert_close(at_mip_level(images.float(), level), expected.float())


def test_the_brightest_pixels_do_not_overflow():
    assert (at_mip_level(torch.full((1, 3, 4, 4), 255, dtype=torch.uint8), level=2) == 255).all()


def test_images_need_not_be_contiguous():
    images = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    assert torch.equal(at_mip_level(images, 1), at_mip_level(images.contiguous(), 1))


def test_levels_by_focal_ratio():
    # sqrt(2) is where the next level becomes the nearer one.
    assert [mip_level(ratio, 1.0) for ratio in (0.1, 1.0, 1.41, 1.42, 2.0, 2.82, 2.83)] == [0, 0, 0, 1, 1, 1, 2]
