"""Train the tiny model several times in the same two processes, sharded and not.

Rank r writes FOLDER/NAME/rank<r>.pt of each entry of FITS: losses of each step, and the share of the weights that it
holds while it trains.
"""

from pathlib import Path
from types import SimpleNamespace

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import nn
from torch.utils.data import DataLoader

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.data.sampler import KeyedSampler
from mvdiff.geometry.cameras import RingRig
from mvdiff.settings import AdapterSettings, LoraSettings, MemorySettings, Sampling
from mvdiff.training.callbacks import SaveModelFolder
from mvdiff.training.checkpoint_files import CheckpointFiles
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.run_folder import NoLogger
from mvdiff.training.sharded_weights import own_shard
from mvdiff.training.sharding import ShardedStrategy, check_equal_batches
from tests.training.tiny_depth import WallData, WallFrames

STEPS, HALF, FEW = 20, 10, 2
FITS = {
    "ddp": {"strategy": DDPStrategy},
    "sharded": {"strategy": ShardedStrategy},
    "plain_strategy": {
        "strategy": lambda: ModelParallelStrategy(2, 1, save_distributed_checkpoint=False),
        "memory": {"gradient_checkpointing": True},
        "resume": "ddp",
    },
    "whole_adapter": {"strategy": ShardedStrategy, "resume": "sharded", "memory": {"shard_adapter": False}},
    "resumed_ddp": {"strategy": DDPStrategy, "resume": "sharded"},
    "ddp_lora": {"strategy": DDPStrategy, "steps": FEW, "lora": {"rank": 2}},
    "lora": {"strategy": ShardedStrategy, "steps": FEW, "lora": {"rank": 2}},
    "ddp_bf16": {"strategy": DDPStrategy, "steps": FEW, "precision": "bf16-mixed"},
    "bf16": {"strategy": ShardedStrategy, "steps": FEW, "precision": "bf16-mixed"},
    "ddp_accumulated": {"strategy": DDPStrategy, "steps": FEW, "accumulate": 2},
    "accumulated": {"strategy": ShardedStrategy, "steps": FEW, "accumulate": 2},
    "ddp_outpaint": {"strategy": DDPStrategy, "steps": FEW, "task": "outpaint"},
    "outpaint": {"strategy": ShardedStrategy, "steps": FEW, "task": "outpaint"},
    "ddp_depth": {"strategy": DDPStrategy, "steps": FEW, "task": "depth"},
    "depth": {"strategy": ShardedStrategy, "steps": FEW, "task": "depth"},
    "resumed_alone": {"devices": 1, "resume": "sharded"},
}
"""The settings of each training, by name."""


class TwoWalls(WallData):
    """Two walls, one for each rank, of which one has given frames."""

    def train_dataloader(self) -> DataLoader:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        sampler = KeyedSampler(2, rank=rank, world_size=ranks)
        return DataLoader(WallFrames(2), sampler=sampler, collate_fn=MultiViewBatch.collate)


class Watch(Callback):
    """Note the loss of each step, and what this rank holds."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.shares: dict[str, float] = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(float(outputs["loss"]))
        parts = {"base": pl_module.backbone, "adapter": pl_module.adapter}
        self.shares = {name: share(part) for name, part in parts.items()}


def share(part: nn.Module) -> float:
    """Return the share of a module's numbers that this process holds."""
    parameters = list(part.parameters())
    return sum(own_shard(p.data).numel() for p in parameters) / sum(p.numel() for p in parameters)


def refusal(rank: int) -> str:
    """Return what is said where the second rank has a validation batch more."""
    try:
        check_equal_batches(SimpleNamespace(num_val_batches=[1, 1 + rank]))
    except ValueError as error:
        return str(error)
    return ""


def fit(folder: Path, name: str) -> None:
    settings = FITS[name]
    strategy, devices, earlier = settings.get("strategy"), settings.get("devices", 2), settings.get("resume")
    steps = settings.get("steps", STEPS if earlier is None else HALF + FEW)
    task = settings.get("task", "panorama")
    module = MultiViewModule(
        task,
        base=str(folder / "base" if task == "panorama" else folder / "bases" / task / "base"),
        adapter=AdapterSettings(attention={"init_args": {"head_dim": 8}}),
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
        lr_scheduler=None,
        memory=MemorySettings(**settings.get("memory", {})),
        lora=LoraSettings(**settings.get("lora", {})),
        sampling=Sampling(num_inference_steps=2),
        num_validation_samples=2,
    )
    rig = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
    how = {"num_val": 2, "max_samples": 4, "batch_size": 2 // devices}
    if task == "outpaint":
        how["known"] = "mixed"
    data = TwoWalls() if task == "depth" else EquirectangularDataModule(folder / "data", rig=rig, **how)
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="auto" if strategy is None else strategy(),
        precision=settings.get("precision", "32-true"),
        accumulate_grad_batches=settings.get("accumulate", 1),
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=1.0 if steps == STEPS else 0,
        check_val_every_n_epoch=5,
        num_sanity_val_steps=0,
        gradient_clip_val=0.05,
        use_distributed_sampler=False,
        logger=NoLogger(folder / name),
        callbacks=[
            watch,
            TrainedWeightsEMA(decay=0.5),
            ModelCheckpoint(folder / name, "{step}", every_n_train_steps=HALF, save_top_k=-1),
            *([SaveModelFolder(str(folder / name / "model"))] if steps == STEPS else []),
        ],
        plugins=[CheckpointFiles()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    resumed = None if earlier is None else str(folder / earlier / f"step={HALF}.ckpt")
    trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
    trainer.save_checkpoint(folder / name / "end.ckpt", weights_only=False)
    noted = {"losses": watch.losses, "shares": watch.shares}
    if devices == 2:
        noted["unequal"] = refusal(trainer.global_rank)
    (folder / name).mkdir(exist_ok=True)
    torch.save(noted, folder / name / f"rank{trainer.global_rank}.pt")


def fit_all(folder: Path, names: list[str]) -> None:
    """Train in this process, one after another."""
    for name in names:
        fit(folder, name)
