"""Tokens in pieces, as a CPU works on them: the same numbers to within rounding, and small temporaries."""

import pytest
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mvdiff.geometry.cameras import RingRig
from mvdiff.models.attention import pieces
from mvdiff.models.attention.pieces import rows_at_a_time, tokens_at_a_time
from tests.models.test_attention import hidden_for, make, trained_block
from tests.models.test_multiview_unet import make_trained, make_unet
from tests.models.test_view_chunks import depth_inputs, in_two


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def in_pieces(monkeypatch, rows: int) -> None:
    """Work on so many rows at a time, however large the temporary."""
    for name, value in {"ROWS": rows, "NUMBERS": 1, "FEWEST": rows}.items():
        monkeypatch.setattr(pieces, name, value)


@pytest.mark.parametrize("rows", [1, 3, 16, 50])
def test_neither_output_nor_gradients_change(monkeypatch, rows):
    _, taps = make(RingRig(num_views=8, height=24, width=40))  # 15 tokens a view
    block, valid = trained_block(), torch.ones(2, 8, dtype=torch.bool)
    valid[1, 1] = False
    found = []
    for count in (10_000, rows):
        in_pieces(monkeypatch, count)
        hidden = hidden_for(taps).requires_grad_()
        output = block(hidden, taps, valid, torch.tensor([1, 0]))
        target = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
        found.append((output, *torch.autograd.grad((output * target).sum(), [hidden, *block.parameters()])))
    for one, other in zip(*found, strict=True):
        assert_close(one, other, atol=1e-5 * float(one.detach().abs().max()), rtol=1e-4)


@pytest.mark.parametrize("parted", [False, True])
@torch.no_grad()
def test_of_frames_with_depth(monkeypatch, parted):
    model = make_trained(make_unet(), residual=True, image_condition=True)
    arguments, conditions = depth_inputs(model, 3)
    for level in arguments[3].levels if parted else ():
        object.__setattr__(level, "parts", in_two(level))
    found = []
    for count in (10_000, 3):
        in_pieces(monkeypatch, count)
        found.append(model(*arguments, **conditions))
    assert_close(*found, atol=1e-5, rtol=1e-5)


class Largest(TorchDispatchMode):
    """Note the most numbers of a tensor that an operation returns in memory of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        own = {value.untyped_storage().data_ptr() for value in tree_leaves(args) if isinstance(value, torch.Tensor)}
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() not in own:
                self.numbers = max(self.numbers, value.numel())
        return result


@torch.no_grad()
def test_no_temporary_is_larger_than_the_features(monkeypatch):
    _, taps = make(RingRig(num_views=8, height=256, width=256))
    block = trained_block(channels=64)
    hidden = hidden_for(taps, batch=1, channels=64)
    largest = {}
    for pieced in (True, False):
        if not pieced:
            in_pieces(monkeypatch, 10_000)
        block(hidden, taps)  # caches the encodings
        with Largest() as noted:
            block(hidden, taps)
        largest[pieced] = noted.numbers
    assert largest[True] <= hidden.numel()
    assert largest[False] == taps.visible.numel() * 64 == 9 * hidden.numel()


def test_a_gpu_works_on_all_tokens_at_once():
    rows = torch.empty(5000, 8, device="meta")
    assert rows_at_a_time(rows) == rows_at_a_time(rows, 2**30) == 5000
    tokens = torch.empty(2, 8, 300, 8, device="meta")
    assert tokens_at_a_time(tokens) >= 300
    assert tokens_at_a_time(torch.empty(2, 8, 300, 8)) == pieces.ROWS // 16
