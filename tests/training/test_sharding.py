"""Sharded training on two processes (gloo): losses of DDP, half of the weights, checkpoints for any number of ranks."""

from pathlib import Path

import pytest
import torch
from torch import nn

from mvdiff.models.backbone import load_backbone
from mvdiff.models.named_weights import NamedWeights
from mvdiff.pipelines.checkpoint import export_checkpoint
from mvdiff.pipelines.model_folder import load_adapter
from mvdiff.training.sharded_weights import spread_weights, whole_weights
from tests.forked import command, run
from tests.pipelines.test_outpaint import tiny_inpainting_base
from tests.training.sharded_fits import FEW, FITS, HALF, STEPS, fit_all
from tests.training.tiny_depth import tiny_depth_base
from tests.training.tiny_run import tiny_config, write_config

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """A folder with the results of every fit of `sharded_fits`."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny_config(folder)
    tiny_inpainting_base(folder / "bases" / "outpaint")
    tiny_depth_base(folder / "bases" / "depth")
    for ranks in (2, 1):
        names = [name for name, settings in FITS.items() if settings.get("devices", 2) == ranks]
        run(folder / f"log{ranks}", fit_all, folder, names, ranks=ranks)
    return folder


LIKE = {"sharded": "ddp", **{name: f"ddp_{name}" for name in ("lora", "bf16", "accumulated", "outpaint", "depth")}}
"""Each sharded training with the one of DDP whose losses it has."""


def noted(runs: Path, name: str) -> list[dict]:
    return [torch.load(path, weights_only=True) for path in sorted((runs / name).glob("rank*.pt"))]


def checkpoint(runs: Path, name: str, file: str = f"step={STEPS}.ckpt") -> dict:
    return torch.load(runs / name / file, weights_only=True)


@pytest.mark.parametrize("name", LIKE)
def test_losses_are_those_of_ddp(runs, name):
    """Batches in bfloat16, whose unit is 2^-8, may differ by the order of the sums of gradients."""
    of_run, near = FITS[name], 3e-3 if name == "bf16" else 1e-6
    num_batches = of_run.get("steps", STEPS) * of_run.get("accumulate", 1)
    for sharded, ddp in zip(noted(runs, name), noted(runs, LIKE[name]), strict=True):
        assert len(sharded["losses"]) == len(ddp["losses"]) == num_batches
        assert len(set(ddp["losses"])) == num_batches
        assert sharded["losses"] == pytest.approx(ddp["losses"], abs=near)
    first, second = (rank["losses"] for rank in noted(runs, name))
    assert first != second  # each rank has its own samples


@pytest.mark.parametrize(
    ("name", "of_adapter"),
    [("ddp", 1.0), *((name, 0.5) for name in LIKE if name != "lora"), ("plain_strategy", 0.5), ("whole_adapter", 1.0)],
)
def test_each_rank_holds_half_of_the_weights(runs, name, of_adapter):
    """Where the first axis of a weight is odd, the first rank holds one row more."""
    of_base = 1.0 if name == "ddp" else 0.5
    for rank in noted(runs, name):
        assert rank["shares"]["base"] == pytest.approx(of_base, abs=0.01)
        assert rank["shares"]["adapter"] == pytest.approx(of_adapter, abs=0.01)


def test_ranks_with_different_numbers_of_validation_batches_are_refused(runs):
    for rank in noted(runs, "sharded"):
        assert "equally many batches on each device in a sharded run; got [2, 3]" in rank["unequal"]


def test_checkpoints_are_those_of_ddp(runs):
    """Weights, their average, optimizer state and everything else, as whole tensors under the same names."""
    sharded, ddp = checkpoint(runs, "sharded"), checkpoint(runs, "ddp")
    assert sharded.keys() == ddp.keys()
    for part in ("state_dict", "current_model_state"):
        assert sharded[part].keys() == ddp[part].keys()
        assert all(key.startswith("adapter.") for key in sharded[part])
        for key, value in ddp[part].items():
            torch.testing.assert_close(sharded[part][key], value, rtol=0, atol=2e-5)
    (ours,), (theirs,) = sharded["optimizer_states"], ddp["optimizer_states"]
    assert ours["param_groups"] == theirs["param_groups"]
    for key, state in theirs["state"].items():
        for name, value in state.items():
            torch.testing.assert_close(ours["state"][key][name], value, rtol=1e-3, atol=1e-6)
    assert sharded["mvdiff"]["info"]["base"] == ddp["mvdiff"]["info"]["base"]  # the hash is that of whole weights


@pytest.mark.parametrize("name", [name for name, settings in FITS.items() if "resume" in settings])
def test_checkpoints_resume_on_any_number_of_ranks(runs, name):
    """Two ranks of one sample make the steps of one process of two samples, whose loss is the mean of theirs."""
    expected = [sum(pair) / 2 for pair in zip(*(rank["losses"] for rank in noted(runs, "ddp")), strict=True)]
    losses = [sum(step) / len(step) for step in zip(*(rank["losses"] for rank in noted(runs, name)), strict=True)]
    assert losses == pytest.approx(expected[HALF : HALF + FEW], abs=2e-6)


def test_the_model_folder_has_the_average_as_a_whole(runs, tmp_path):
    export_checkpoint(runs / "sharded" / f"step={STEPS}.ckpt", tmp_path / "model")
    exported = load_adapter(tmp_path / "model").state_dict()
    written = load_adapter(runs / "sharded" / "model").state_dict()
    assert written.keys() == exported.keys()
    assert all(torch.equal(value, exported[name]) for name, value in written.items())


def test_the_lora_of_a_sharded_base_is_in_checkpoints(runs):
    sharded, ddp = (checkpoint(runs, name, "end.ckpt")["state_dict"] for name in ("lora", "ddp_lora"))
    assert sharded.keys() == ddp.keys()
    updates = [name for name in ddp if name.startswith("lora.") and ".lora_B." in name]
    assert updates
    for name in updates:
        assert ddp[name].abs().max() > 1e-4
        torch.testing.assert_close(sharded[name], ddp[name], rtol=0, atol=1e-5)


def test_the_command_line_shards(runs):
    """`overlay/sharded.yaml` on two processes, validation and model folder included."""
    config = tiny_config(runs)
    config["trainer"] |= {"max_steps": 1, "limit_val_batches": 1, "val_check_interval": 1}
    config["trainer"] |= {"default_root_dir": str(runs / "cli"), "num_sanity_val_steps": 0}
    path = write_config(runs / "run.yaml", config)
    words = ["fit", "--config", str(path), "--config", "overlay/sharded.yaml", "--trainer.devices=2"]
    said = run(runs / "log", command, words, ranks=2)
    assert "2 x CPU, ShardedStrategy" in said
    (model,) = (runs / "cli").rglob("model")
    assert load_adapter(model).state_dict().keys() == load_adapter(runs / "sharded" / "model").state_dict().keys()


def test_without_sharding_weights_are_left_as_they_are(runs):
    module = load_backbone(runs / "base").unet
    state = module.state_dict()
    assert all(value is state[name] for name, value in whole_weights(state).items())
    assert all(value is state[name] for name, value in spread_weights(state, module).items())


def test_a_copy_of_weights_has_the_names_and_order_of_the_module():
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.Linear(3, 3)))
    module.register_buffer("unsaved", torch.ones(2), persistent=False)
    module.add_module("tied", module[2])
    copy = NamedWeights.copy_of(module)
    assert copy.state_dict().keys() == module.state_dict().keys()
    for ours, theirs in zip((copy.parameters(), copy.buffers()), (module.parameters(), module.buffers()), strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
            assert one.data_ptr() != other.data_ptr()
