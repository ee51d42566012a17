"""Benchmarks: networks have their published sizes, the floor is what torch counts, what runs on a GPU runs on a CPU."""

import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floor import floor_of, own_multiply_adds
from benchmarks.networks import SHAPES, base_of, network_of
from mvdiff.batch import MultiViewBatch
from mvdiff.geometry.cameras import RingRig
from mvdiff.models.attention import CorrespondenceAwareAttention, Level

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def count(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("size", "network", "attention"),
    [("sd2", 865_910_724, 147_572_480), ("sdxl", 2_567_463_684, 95_107_840), ("sana", 1_604_462_752, 481_877_760)],
)
def test_networks_have_their_published_sizes(size, network, attention):
    shape = SHAPES[size]
    with torch.device("meta"):
        whole, small = network_of(shape), network_of(shape, whole=False)
        adapter = base_of(shape).new_adapter(every=shape.every)
    more = sum(copies * count(small.get_submodule(name)) for name, copies in shape.more.items())
    assert count(whole) == count(small) + more == network
    assert count(adapter) == attention


@pytest.mark.parametrize("training", [False, True])
def test_the_floor_has_the_products_that_torch_counts(training):
    rig = RingRig(num_views=4, fov_deg=120.0, height=32, width=48)
    batch = MultiViewBatch.from_cameras(*rig.cameras(), rig.height, rig.width)
    block = CorrespondenceAwareAttention(64)
    taps = block.build_taps(batch, [Level(4, 6, 8)])[0]
    tokens, slots, visible = 4 * 4 * 6, taps.visible.numel(), int(taps.visible.sum())
    hidden_states = torch.randn(1, 4, 64, 4, 6).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        output = block(hidden_states, taps)
        if training:
            output.sum().backward()
    in_heads = 2 * block.num_heads * 64 * slots  # products of queries and means with taps, in every head
    assert counter.get_total_flops() / 2 == (3 if training else 1) * (16 * 64**2 * tokens + in_heads)
    assert own_multiply_adds(block, taps) == 16 * 64**2 * tokens + in_heads + 4 * 64 * slots
    floor = floor_of(block, taps, training)
    assert floor.multiply_adds == (
        48 * 64**2 * tokens + 14 * 64 * visible if training else 16 * 64**2 * tokens + 6 * 64 * visible
    )
    assert count(block) == 16 * 64**2 + 14 * 64
    assert floor.bytes > 4 * count(block) + 8 * hidden_states.numel()


@pytest.fixture
def script(monkeypatch):
    """Imports a benchmark as a script does, with its neighbours beside it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


def test_checks_of_a_device_pass_on_a_cpu_and_can_fail(script, monkeypatch):
    gpu = script("gpu_checks")
    checks = dict(gpu.checks("cpu", "tiny"))
    assert {name.split(",")[0] for name in checks} >= {"pipeline depth", "pipeline z_image", "resumed training"}
    assert "error 0.0e+00" in checks["pipeline sana, float32"]()
    assert checks["CPU offload, sequential, sana"]() == "equal bit for bit"
    monkeypatch.setitem(gpu.LATENT_BOUNDS, torch.bfloat16, 1e-4)
    with pytest.raises(gpu.CheckError, match="bound 1"):
        checks["pipeline sana, bfloat16"]()


def test_speed_of_every_kind_of_call(script, capsys):
    gpu = script("gpu_speed")
    assert gpu.report("tiny-sana", 64, gpu.panoramas("tiny-sana", 64, 3, 2, "cpu", torch.float32), "cpu") == 0
    assert gpu.report("tiny", 64, gpu.training_steps("tiny", 64, 3, "cpu"), "cpu") == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[3].strip() for row in rows] == [
        *("2 steps, plain", "2 steps, ours", "1 steps, ours", "1 steps with cache 3, ours"),
        *("training step, plain", "training step, ours"),
    ]


def test_rows_for_which_a_device_has_no_memory_are_printed_and_counted(script, capsys):
    gpu = script("gpu_speed")

    def too_large():
        raise torch.OutOfMemoryError("tried to allocate 90 GiB")

    def calls():
        yield gpu.Call("a", list, too_large)
        yield gpu.Call("b", too_large, list)
        yield gpu.Call("c", list, list)
        too_large()

    assert gpu.report("sd2", 512, calls(), "cpu") == 3
    rows = [row.split("|")[3].strip() for row in capsys.readouterr().out.splitlines()]
    failed = "out of memory: tried to allocate 90 GiB"
    assert rows == [f"a: {failed}", f"b: {failed}", "c", f"loading: {failed}"]


def test_the_gpu_script_is_valid_bash():
    subprocess.run(["bash", "-n", str(BENCHMARKS / "gpu.sh")], check=True)
