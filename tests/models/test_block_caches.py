"""Caches of diffusers, and compiled blocks, on transformers with attention across views behind some of their blocks."""

import pytest
import torch
from diffusers.hooks import FasterCacheConfig, FirstBlockCacheConfig, TaylorSeerCacheConfig
from torch.testing import assert_close

from mvdiff.models.block_caches import disable_block_cache, enable_block_cache, fresh_block_cache
from tests import tiny_bases
from tests.models.test_bases import inputs, trained

TRANSFORMERS = ("sana", "sd3", "z_image")
WHOLE_BLOCKS = TaylorSeerCacheConfig(
    cache_interval=2,
    disable_cache_before_step=1,
    max_order=0,
    taylor_factors_dtype=torch.float32,
    cache_identifiers=[r"(\w*blocks|layers)\.[0-2]"],
)


@pytest.fixture(params=TRANSFORMERS)
def model(request):
    base = tiny_bases.make(request.param)
    network = trained(base, every=2)
    return network, inputs(base, network.adapter, batch=1)


def run(network, *calls):
    with torch.no_grad(), fresh_block_cache(network.unet):
        return [network(*call) for call in calls]


def counted(block):
    """Count the calls of an attention across views."""
    calls = []
    block.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    return calls


def test_first_block_cache_skips_and_reuses_the_attention_with_its_blocks(model):
    network, call = model
    expected = run(network, call)[0]
    reasons = {"SD3Transformer2DModel": "must leave out its last block", "ZImageTransformer2DModel": "does not know"}
    kind = type(network.unet).__name__
    if kind in reasons:
        with pytest.raises(ValueError, match=f"FirstBlockCacheConfig of a {kind} {reasons[kind]}"):
            enable_block_cache(network.unet, FirstBlockCacheConfig(threshold=0.0))
        assert torch.equal(run(network, call)[0], expected)
        return
    enable_block_cache(network.unet, FirstBlockCacheConfig(threshold=0.0))
    calls = counted(network.adapter.blocks[-1])
    first, second = run(network, call, call)  # nothing changes from call to call
    assert len(calls) == 1
    assert torch.equal(first, expected)
    assert_close(second, expected, rtol=1e-4, atol=1e-4)  # a residual is added back
    changed = (-2 * call[0], *call[1:])
    assert_close(run(network, call, changed)[1], run(network, changed)[0])  # the first block tells them apart
    disable_block_cache(network.unet)
    assert torch.equal(run(network, call)[0], expected)


def test_taylor_seer_predicts_blocks_with_their_attention_and_forgets_them(model):
    network, call = model
    changed = (-2 * call[0], *call[1:])
    expected, other = run(network, call, changed)
    enable_block_cache(network.unet, WHOLE_BLOCKS)
    calls = counted(network.adapter.blocks[0])
    found = run(network, call, call, call)
    assert 1 <= len(calls) < 3
    for one in found:
        assert_close(one, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(run(network, changed)[0], other)


def test_caches_that_would_do_nothing_are_refused(model):
    network, _ = model
    with pytest.raises(ValueError, match="must name its modules in cache_identifiers"):
        enable_block_cache(network.unet, TaylorSeerCacheConfig(cache_identifiers=["nothing"]))
    with pytest.raises(ValueError, match=r"config must be .* got a FasterCacheConfig"):
        enable_block_cache(network.unet, FasterCacheConfig())


@pytest.fixture(params=TRANSFORMERS)
def short(request):
    """A model of one block of each code, with attention behind each: the last of SD3 is another than the first."""
    base = tiny_bases.make(request.param)
    blocks = getattr(base.unet, base.blocks)
    setattr(base.unet, base.blocks, blocks[::3] if request.param == "sd3" else blocks[:1])
    network = trained(base, every=1)
    return network, inputs(base, network.adapter, batch=1)


@pytest.mark.parametrize("part", ["network", "unet"])
def test_compiled_blocks_run_the_attention_of_the_current_call(short, part):
    network, call = short
    alone = (*call[:3], None)
    expected = run(network, call, alone)
    graphs, counts = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    target = network if part == "network" else network.unet
    target.compile(backend=backend)
    for _ in range(2):  # with attention, without, and again
        for one, other in zip(run(network, call, alone), expected, strict=True):
            assert_close(one, other, rtol=1e-4, atol=1e-4)
        counts.append(len(graphs))
    assert counts[0] == counts[1] > 0, "what was compiled is used again"
