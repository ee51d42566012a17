"""Strategies that cannot train a part of a model are refused by name before anything is trained; no process starts."""

import pytest
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    StrategyRegistry,
)
from torch.utils.data import DataLoader

from mvdiff.cli.train import run_trainer
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.sharding import ShardedStrategy
from mvdiff.training.single_view import SingleViewModule
from mvdiff.training.strategies import check_strategy_class
from tests.training.one_weight import OneWeight
from tests.training.tiny_run import tiny_config, write_config

SHARDED = "mvdiff.training.sharding.ShardedStrategy"
NAMES = StrategyRegistry.available_strategies()
REFUSED = [name for name in NAMES if name.startswith(("fsdp", "deepspeed"))]
COPIES = [name for name in NAMES if name.startswith(("ddp_spawn", "ddp_fork", "ddp_notebook"))]


def test_the_registry_has_the_strategies_that_are_refused():
    assert {"fsdp", "fsdp_cpu_offload", "deepspeed", "deepspeed_stage_2", "deepspeed_stage_3_offload"} <= set(REFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_sharding_and_deepspeed_by_name_are_refused(name):
    for module, works in ((MultiViewModule, f"ddp, auto or {SHARDED}"), (SingleViewModule, "ddp or auto")):
        with pytest.raises(ValueError, match=f"trainer.strategy must be {works}.*got {name}, .*{module.__name__}"):
            check_strategy_class(name, module)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in REFUSED + COPIES])
def test_others_of_the_registry_are_left_to_lightning(name):
    check_strategy_class(name, MultiViewModule)


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_this_process_are_refused(name):
    start = "spawn" if "spawn" in name else "fork"
    with pytest.raises(
        ValueError, match=f"trainer.strategy must start its processes by popen.*got {name}, .* is {start}"
    ):
        check_strategy_class(name, MultiViewModule)
    path = f"{DDPStrategy.__module__}.DDPStrategy"
    for method in ("popen", None):
        arguments = Namespace(start_method=method)
        check_strategy_class(Namespace(class_path=path, init_args=arguments), MultiViewModule)
    own = Namespace(class_path=path, init_args=Namespace(start_method=start))
    with pytest.raises(ValueError, match="must start its processes by popen"):
        check_strategy_class(own, MultiViewModule)


@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy])
def test_class_paths_are_refused(kind):
    for path in (f"{kind.__module__}.{kind.__name__}", kind.__name__):
        with pytest.raises(ValueError, match=f"got {kind.__name__}"):
            check_strategy_class(Namespace(class_path=path, init_args=Namespace()), MultiViewModule)


def test_other_values_are_left_to_lightning():
    for value in ("auto", "no_such_name", None, SingleDeviceStrategy("cpu"), Namespace(class_path="DDPStrategy")):
        check_strategy_class(value, MultiViewModule)


def fit(strategy, module):
    """Begin a training whose second process is never started."""
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False, max_steps=1
    )
    trainer.strategy._launcher = None
    trainer.fit(module, DataLoader([1.0]))


@pytest.mark.parametrize("kind", [ModelParallelStrategy, ShardedStrategy])
def test_a_module_that_does_not_shard_is_refused(kind):
    with pytest.raises(
        ValueError, match=f"must be ddp or auto for OneWeight, which does not shard.*got {kind.__name__}"
    ):
        fit(kind(), OneWeight())


class Shards(OneWeight):
    shards = True

    def configure_model(self):
        pass


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "tensor_parallel_size of ModelParallelStrategy must be 1; got auto"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size of ModelParallelStrategy must be 1; got 2"),
        ({"tensor_parallel_size": 1}, "save_distributed_checkpoint of ModelParallelStrategy must be False; got True"),
        ({"data_parallel_size": 1, "tensor_parallel_size": 1}, "data_parallel_size .* must be 2; got 1"),
    ],
)
def test_settings_of_model_parallel_that_cannot_work_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        fit(ModelParallelStrategy(**settings), Shards())


def test_the_command_line_refuses_before_it_builds_anything(tmp_path):
    config = tiny_config(tmp_path)
    config["model"]["init_args"]["base"] = "no/such-base"  # would be missed if the model were built
    path = write_config(tmp_path / "run.yaml", config)
    for value in ("deepspeed_stage_2", "fsdp", '{"class_path": "lightning.pytorch.strategies.FSDPStrategy"}'):
        with pytest.raises(ValueError, match=r"trainer.strategy must be ddp, auto or mvdiff.*; got \w+, which cannot"):
            run_trainer(["fit", "--config", str(path), "--trainer.strategy", value])
    assert not list(tmp_path.rglob("version_*"))


def test_ddp_is_not_deepspeed():
    check_strategy_class(f"{DDPStrategy.__module__}.DDPStrategy", MultiViewModule)
