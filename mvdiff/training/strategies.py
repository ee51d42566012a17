"""Check the Trainer's strategy before anything is trained.

FSDP1 and DeepSpeed crash at the first checkpoint, which leaves the frozen base out; a ModelParallelStrategy trains each
rank alone where the module shards nothing (Lightning 2.6). The command line cannot start processes by `spawn`, which
pickles the Trainer and everything that it holds, nor by `fork`: the first process of the training is refused the run's
folder, since the process that forked it holds the lock.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
    StrategyRegistry,
)

from mvdiff.training.sharding import ShardedStrategy

_WORKS = "ddp, auto or mvdiff.training.sharding.ShardedStrategy (overlay/sharded.yaml)"


def check_strategy_class(strategy: Any, module: type[LightningModule]) -> None:
    """Check a strategy by its name, before Lightning builds it and asks for its packages and devices.

    Args:
        strategy: Value of `trainer.strategy`: a name of Lightning's registry, a class path, `{class_path: ...}`, or
            anything else, which is not checked.
        module: Class of the module to train.

    Raises:
        ValueError: The strategy cannot train this module.
    """
    name, kind = _named(strategy)
    if kind is not None:
        _check(kind, name.rpartition(".")[2], module)
    start = _start_method(strategy, name)
    if kind is not None and issubclass(kind, DDPStrategy) and start != "popen":
        raise ValueError(
            f"trainer.strategy must start its processes by popen, as ddp does; got {name}, whose start_method is "
            f"{start}."
        )


def spreads_weights(strategy: Any) -> bool:
    """Return True if a value of `trainer.strategy` (see `check_strategy_class`) is a strategy that shards weights."""
    return issubclass(_named(strategy)[1] or Strategy, ModelParallelStrategy)


def check_strategy(trainer: Trainer, module: LightningModule) -> None:
    """Check the strategy of a Trainer; a ModelParallelStrategy that does what `ShardedStrategy` does becomes one.

    Raises:
        ValueError: The strategy, or one of its settings, cannot train this module.
    """
    strategy = trainer.strategy
    _check(type(strategy), type(strategy).__name__, type(module))
    if type(strategy) is not ModelParallelStrategy:
        return
    devices = trainer.world_size
    settings = {
        "data_parallel_size": ("auto", devices),
        "tensor_parallel_size": (1, *("auto",) * (devices == 1)),
        "save_distributed_checkpoint": (False,),
    }
    for name, possible in settings.items():
        if (value := getattr(strategy, f"_{name}")) not in possible:
            raise ValueError(
                f"{name} of ModelParallelStrategy must be {possible[-1]}; got {value}. "
                "mvdiff.training.sharding.ShardedStrategy (overlay/sharded.yaml) sets it."
            )
    strategy.__class__ = ShardedStrategy  # it adds no attributes, so nothing is left unset


def _check(kind: type[Strategy], name: str, module: type[LightningModule]) -> None:
    if issubclass(kind, ModelParallelStrategy):
        if not getattr(module, "shards", False):
            raise ValueError(
                f"trainer.strategy must be ddp or auto for {module.__name__}, which does not shard its weights; got "
                f"{name}."
            )
    elif not issubclass(kind, SingleDeviceStrategy | DDPStrategy) or issubclass(kind, DeepSpeedStrategy):
        works = _WORKS if getattr(module, "shards", False) else "ddp or auto"
        raise ValueError(
            f"trainer.strategy must be {works}; got {name}, which cannot train {module.__name__}: its checkpoints have "
            "no frozen weights."
        )


def _start_method(strategy: Any, name: str) -> str:
    """Return how a DDP strategy starts its processes: popen, spawn, fork or forkserver."""
    settings = StrategyRegistry[name]["init_params"] if name in StrategyRegistry else getattr(strategy, "init_args", {})
    return settings.get("start_method") or "popen"


def _named(strategy: Any) -> tuple[str, type[Strategy] | None]:
    name = strategy if isinstance(strategy, str) else getattr(strategy, "class_path", None)
    return (name, _class_of(name)) if isinstance(name, str) else ("", None)


def _class_of(name: str) -> type[Strategy] | None:
    """Return the class of a strategy's name or class path; None: there is none, which Lightning reports."""
    if name in StrategyRegistry:
        return StrategyRegistry[name]["strategy"]
    path, _, leaf = name.rpartition(".")
    kind = getattr(import_module(path or "lightning.pytorch.strategies"), leaf, None)
    return kind if isinstance(kind, type) and issubclass(kind, Strategy) else None
