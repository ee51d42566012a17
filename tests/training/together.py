"""A tiny run in one process or as one of two: train, validate, predict, test; write down what was logged.

The 3 validation and 3 test samples cannot be split evenly over 2 devices; a last validation has one sample.
"""

import json
from collections import defaultdict
from pathlib import Path

from lightning.pytorch import Trainer
from torch.optim import SGD

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.geometry.cameras import RingRig
from mvdiff.settings import AdapterSettings, Sampling
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.settings import OutputSettings
from tests.tiny import tiny_base
from tests.training.any_place import Notes
from tests.training.tiny_run import tiny_panoramas

METRICS = ("overlap_psnr", "sharpness")


class Noting(MultiViewModule):
    """Notes which samples this process trains on, validates (with True, or False for a copy) and scores."""

    def training_step(self, batch, batch_idx):
        self.seen["train"] += batch.sample_id
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.seen["val"] += zip(batch.sample_id, batch.is_original, strict=True)
        super().validation_step(batch, batch_idx)

    def _scored(self, which, sample_id, total):
        self.seen[which].append(sample_id)
        super()._scored(which, sample_id, total)


def prepare(folder: Path) -> None:
    """Write the base, and ten panoramas of which three are the test split."""
    tiny_base(folder / "base")
    root = tiny_panoramas(folder / "data")
    names = [f"room{i}" for i in range(10)]
    (root / "train.txt").write_text("\n".join(names[:7]) + "\n")
    (root / "test.txt").write_text("\n".join(names[7:]) + "\n")


def run(folder: Path, devices: int) -> None:
    """Train 2 steps of 4 samples, validate, predict and test; write what this rank noted to <devices>_<rank>.json."""
    settings = EvaluationSettings(overlap_size=0)
    module = Noting(
        base=str(folder / "base"),
        adapter=AdapterSettings(attention={"init_args": {"head_dim": 8}}),
        optimizer=lambda params: SGD(params, lr=0.05),
        lr_scheduler=None,
        sampling=Sampling(num_inference_steps=1),
        num_validation_samples=3,
        output=OutputSettings(dir=str(folder / f"out{devices}"), metrics=METRICS, evaluation=settings),
    )
    module.seen = defaultdict(list)
    rig = RingRig(num_views=3, fov_deg=150.0, height=16, width=16)
    data, of_one = (
        EquirectangularDataModule(folder / "data", rig, num_val=num_val, batch_size=1, eval_batch_size=1)
        for num_val in (3, 1)
    )
    notes = Notes()
    trainer = Trainer(
        default_root_dir=folder / f"run{devices}",
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        accumulate_grad_batches=4 // devices,
        max_steps=2,
        limit_val_batches=1.0,
        val_check_interval=1.0,
        logger=notes,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    trainer.validate(module, data, verbose=False)
    written = trainer.predict(module, data)
    trainer.test(module, data, verbose=False)
    trainer.validate(module, of_one, verbose=False)
    noted = {"lines": notes.lines, "written": [list(ids) for ids in written], "seen": module.seen}
    (folder / f"{devices}_{trainer.global_rank}.json").write_text(json.dumps(noted))
