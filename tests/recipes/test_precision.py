"""The compute precision of recipes: what the processor has decides, unless a user does."""

from dataclasses import replace

import pytest
import torch

from mvdiff.recipes.depth import DepthRecipe
from mvdiff.recipes.panorama import PanoramaRecipe
from mvdiff.recipes.precision import autocast, chosen_precision, multiplies_in_bfloat16
from mvdiff.recipes.settings import DepthSettings, PanoramaSettings


@pytest.mark.parametrize(
    ("capabilities", "native"),
    [
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, True),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "avx2": True}, False),
        ({"architecture": "arm64", "neon": True, "bf16": True}, True),
        ({"architecture": "arm64", "neon": True, "bf16": False}, False),
    ],
)
def test_processors(capabilities, native):
    assert multiplies_in_bfloat16(capabilities) is native


def test_this_processor_is_known():
    assert "architecture" in torch.cpu.get_capabilities()
    assert chosen_precision("auto") in ("32-true", "bf16-mixed")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_is_asked_for_is_what_trains_and_samples(precision):
    settings = PanoramaSettings(precision=precision)
    recipe = PanoramaRecipe(settings)
    assert recipe.settings == settings
    for trainings in recipe.trainings().values():
        assert all(f"--trainer.precision={precision}" in one.arguments(recipe.settings) for one in trainings)
    with autocast(precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"32-true": torch.float32, "bf16-mixed": torch.bfloat16}[precision]


def test_depth_trains_in_float32():
    recipe = DepthRecipe(DepthSettings(precision="bf16-mixed"))
    arguments = [one.arguments(recipe.settings) for steps in recipe.trainings().values() for one in steps]
    assert all("--trainer.precision=32-true" in some and len(set(some)) == len(some) for some in arguments)


def test_auto_is_replaced_by_what_it_means_here():
    assert PanoramaRecipe(PanoramaSettings()).settings.precision == chosen_precision("auto")
    assert replace(PanoramaSettings(), seed=5).precision == "auto"


def test_another_precision_is_an_error():
    with pytest.raises(ValueError, match="precision must be one of auto, 32-true, bf16-mixed; got '16-true'"):
        PanoramaSettings(precision="16-true")
