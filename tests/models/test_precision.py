"""Attention across views in lower precision: errors of the size of the precision, softmax and geometry in float32."""

import itertools

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.precision import BOUNDS, MODES, ROUNDING, errors
from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.attention.transformer import TokenNorm

LOWER = (torch.bfloat16, torch.float16)
ATTENTIONS = {
    "CorrespondenceAwareAttention": {"head_dim": 8},
    "AllViewAttention": {"head_dim": 8, "rays": True},
}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_errors_are_of_the_size_of_the_precision(mode):
    found = errors(320, mode)
    assert found.keys() == BOUNDS.keys()
    for name, bound in BOUNDS.items():
        assert found[name] < bound * ROUNDING[mode.dtype], (name, found)


@pytest.mark.parametrize("mode", MODES[::2], ids=str)
def test_errors_of_the_update_do_not_grow_with_the_width(mode):
    assert errors(1280, mode, backward=False)["update"] < BOUNDS["update"] * ROUNDING[mode.dtype]


@pytest.mark.parametrize("dtype", LOWER)
@pytest.mark.parametrize("weights", [torch.float32, None])
def test_gradients_of_norms_are_summed_in_float32(dtype, weights):
    # 20,000 gradients of mean 0.25: their sum in bfloat16 stops growing near 64.
    generator = torch.Generator().manual_seed(0)
    tokens, gradient = (torch.randn(20000, 4, generator=generator).to(dtype) for _ in range(2))
    gradient += 0.25
    norm = TokenNorm(4).to(weights or dtype)
    norm(tokens).backward(gradient)
    whole = torch.nn.functional.layer_norm(tokens.double(), (4,))
    expected = gradient.double().sum(0), (gradient.double() * whole).sum(0)
    for parameter, sums in zip((norm.bias, norm.weight), expected, strict=True):
        assert_close(parameter.grad.double(), sums, rtol=ROUNDING[dtype], atol=2e4 * ROUNDING[dtype] / 100)


class Precisions(TorchDispatchMode):
    """Record the dtypes that some operators compute in."""

    def __init__(self, names):
        super().__init__()
        self.seen = {name: set() for name in names}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.seen:
            self.seen[name].add(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize(("dtype", "mixed"), list(itertools.product(LOWER, [False, True])))
def test_softmax_and_geometry_stay_float32(kind, dtype, mixed):
    settings = {"class_path": f"mvdiff.models.attention.{kind}", "init_args": ATTENTIONS[kind]}
    adapter = MultiViewAdapter([16], 16, [16], settings)
    if not mixed:
        adapter.to(dtype)
    rig = RingRig(num_views=4, fov_deg=120.0, height=24, width=32)
    batch = MultiViewBatch.from_cameras(*rig.cameras(), rig.height, rig.width)
    hidden_states = torch.randn(1, 4, 16, 3, 4).to(dtype)
    with torch.autocast("cpu", dtype, enabled=mixed), Precisions(["_softmax", "sin", "cos", "floor"]) as precisions:
        taps = adapter.geometry(batch, 8).levels[0]
        output = adapter.mid_block(hidden_states, taps)
    assert output.dtype == dtype
    used = {dtype for name in ("_softmax", "sin", "cos") for dtype in precisions.seen[name]}
    assert used <= {torch.float32, torch.float64}
    assert precisions.seen["sin"]
    if kind == "CorrespondenceAwareAttention":
        assert precisions.seen["_softmax"] == {torch.float32}
        exact = MultiViewAdapter([16], 16, [16], settings).geometry(batch, 8).levels[0]
        for name in taps.tensors:
            assert getattr(taps, name).dtype == getattr(exact, name).dtype
            assert torch.equal(getattr(taps, name), getattr(exact, name))
        assert taps.weights.dtype == taps.displacement.dtype == torch.float32
        assert taps.visible.dtype == torch.bool
