"""Sharded training: FSDP2 spreads the weights of the frozen base, and those of the adapter, over all devices.

A layer's weights are gathered while it runs. `MultiViewUNet.forward` is written out over the UNet's blocks and never
calls one as a whole, so hooks on blocks would never fire: the layers that it calls are sharded, with the multi-view
UNet as their root. Ranks call the autoencoder and the text encoder different numbers of times (caches, distinct
prompts), so `gathered` holds the weights of these whole meanwhile.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from mvdiff.models.backbone import Backbone
from mvdiff.models.multiview_unet import MultiViewUNet
from mvdiff.training.callbacks import gather
from mvdiff.training.sharded_weights import spread, whole_weights


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's ModelParallelStrategy for FSDP2 over all devices, with the checkpoints of every other strategy.

    A checkpoint is one file with whole tensors, which loads on any number of devices, with or without sharding. The
    order of loading is that of other strategies, so that a resume works alike.

    Args:
        process_group_backend: Backend of torch.distributed; None: the device's (nccl, gloo).
        timeout: Longest wait for another device.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            data_parallel_size="auto",
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )

    def setup_environment(self) -> None:
        """Start the process group; all devices share the data between them."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Set up model and optimizers; validations run without inference mode, whose tensors cannot be trained on."""
        trainer.fit_loop.epoch_loop.val_loop.inference_mode = False
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # of views, which nothing changes in place
        super().setup(trainer)

    restore_checkpoint_after_setup = Strategy.restore_checkpoint_after_setup
    lightning_restore_optimizer = Strategy.lightning_restore_optimizer
    load_checkpoint = Strategy.load_checkpoint
    load_model_state_dict = Strategy.load_model_state_dict
    save_checkpoint = Strategy.save_checkpoint

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Gather the trained weights; all ranks must call this."""
        return whole_weights(self.lightning_module.state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gather an optimizer's state in the form of `Optimizer.state_dict`; all ranks must call this."""
        state = (optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict()
        return state | {"state": {key: whole_weights(values) for key, values in state["state"].items()}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load optimizer states, sharded as their parameters."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=False):
            optimizer.load_state_dict(_spread_state(state, optimizer))


def _spread_state(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Shard the tensors of an optimizer's state that have the shape of their parameter."""
    keys = [key for group in state["param_groups"] for key in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sharded = {
        key: {
            name: spread(value, parameter) if getattr(value, "shape", None) == parameter.shape else value
            for name, value in state["state"].get(key, {}).items()
        }
        for key, parameter in zip(keys, parameters, strict=False)
    }
    return dict(state) | {"state": {key: values for key, values in sharded.items() if values}}


def sharding_mesh(trainer: Trainer | None) -> DeviceMesh | None:
    """Return the devices over which a training shards its weights; None where nothing is sharded.

    Validation, test and prediction outside of a training hold the whole model on every device, as under DDP: their
    ranks may generate different numbers of samples.
    """
    if trainer is None or not isinstance(trainer.strategy, ModelParallelStrategy):
        return None
    return trainer.strategy.device_mesh if trainer.state.fn == TrainerFn.FITTING else None


def shard(unet: MultiViewUNet, backbone: Backbone, mesh: DeviceMesh, shard_adapter: bool) -> None:
    """Spread the weights of a multi-view model over devices, in place; every rank must then call each layer alike.

    Args:
        unet: Multi-view UNet on the base's UNet.
        backbone: The base; its weights are hashed first, since a shard has another hash.
        mesh: [devices, 1], from `ShardedStrategy`.
        shard_adapter: False keeps the adapter whole on every device; its gradients are averaged as under DDP.

    Raises:
        ValueError: Layers run on chunks of views, of which ranks may have different numbers.
    """
    if unet.views_per_chunk is not None:
        raise ValueError(f"memory.views_per_chunk must be null in a sharded run; got {unet.views_per_chunk}.")
    backbone.weights_hash()
    devices = mesh["data_parallel"]

    def over(part: nn.Module, mesh: DeviceMesh, frees: bool = True) -> None:
        # [devices, 1] is replicated over the first axis and "sharded" over the one device of the second.
        if any(True for _ in part.parameters()):
            fully_shard(part, mesh=mesh, reshard_after_forward=frees)

    for layer in unet.base_layers():
        over(layer, devices)
    for block in unet.adapter_layers():
        over(block, devices if shard_adapter else mesh)
    if unet.adapter.condition_blocks is not None and not shard_adapter:
        over(unet.adapter.condition_blocks, mesh)  # else with the root: a rank without known frames leaves them out
    over(unet, devices)
    for part in _called_at_will(backbone):
        over(part, devices, frees=False)


def _called_at_will(backbone: Backbone) -> Sequence[nn.Module]:
    return backbone.vae, backbone.text_encoder


def check_equal_batches(trainer: Trainer) -> None:
    """Check that all ranks validate equally many batches (the data of mvdiff do); all ranks must call this.

    Raises:
        ValueError: They do not, and would wait for each other's layers.
    """
    counts = gather(sum(trainer.num_val_batches))
    if len(set(counts)) > 1:
        raise ValueError(
            "the validation loader must have equally many batches on each device in a sharded run; got "
            f"{sorted(set(counts))}. Fill it up, as mvdiff.data.sampler.KeyedSampler does."
        )


@contextmanager
def gathered(backbone: Backbone) -> Iterator[None]:
    """Hold the weights of a sharded autoencoder and text encoder whole; all ranks must enter this together."""
    parts = [part for part in _called_at_will(backbone) if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
