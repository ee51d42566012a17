"""Train the toy judge, a classifier of the object in the middle of a view, its colour and the walls' colour."""

from __future__ import annotations

from itertools import chain

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn import functional as F

from mvdiff.batch import MultiViewBatch
from mvdiff.data.toyworld.captions import JUDGED_HEADS, NONE
from mvdiff.data.toyworld.truth import read_truth
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.keyed import keyed_generator
from mvdiff.models.finite import check_finite
from mvdiff.training.callbacks import gather
from mvdiff.training.optimization import OptimizedModule, adamw
from mvdiff.training.schedules import LRInterval


class FeatureNetModule(OptimizedModule):
    """Train a classifier of toy views on the labels in `truth/<pano>.json` (own design).

    The yaw of every view must be a multiple of 45 degrees.

    Args:
        root: `mp3d_skybox` folder with the truth files.
        out: Output folder of the trained network, written when fit ends.
        width: Channels of the first layer.
        num_features: Length of the feature vector.
        noise: Maximum standard deviation of the Gaussian pixel noise in training (images in [-1, 1]), so that blurred
            images are judged by their content; each sample draws a fraction of it.
        seed: Random seed of the noise, keyed by (seed, epoch, sample index).
        optimizer: Optimizer of the network's parameters, as `class_path` and `init_args` in YAML (default: the paper's
            AdamW, learning rate 2e-4).
        lr_scheduler: Learning-rate schedule, as `class_path` and `init_args` (default: null, a constant rate).
            `total_steps` defaults to the length of the run.
        lr_interval: How often the schedule advances: once per epoch or once per optimizer step; a schedule as long as
            the run uses steps in any case if `trainer.max_steps` ends the run first.
    """

    def __init__(
        self,
        root: str,
        out: str,
        width: int = 32,
        num_features: int = 128,
        noise: float = 0.05,
        seed: int = 0,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: LRInterval = "step",
    ) -> None:
        super().__init__()
        self.net = ToyFeatureNet({name: list(labels) for name, labels in JUDGED_HEADS.items()}, width, num_features)
        self.root, self.out, self.noise, self.seed = root, out, noise, seed
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self._right: dict[str, list[float]] = {}

    @property
    def logged_names(self) -> tuple[str, ...]:
        """Names that a callback can monitor: the loss, and the accuracy of each head."""
        return ("train/loss", *(f"val/{head}" for head in self.net.labels))

    def labels(self, batch: MultiViewBatch) -> dict[str, Tensor]:
        """Return the labels [B * V] of each head, looked up by sample and yaw.

        Raises:
            ValueError: Views are mirrored, or a yaw is not a multiple of 45 degrees.
        """
        if batch.yaw_deg is None or (batch.mirrored is not None and bool(batch.mirrored.any())):
            raise ValueError("data.mirror must be false, since labels are looked up by yaw; got true.")
        view_yaw = torch.atan2(batch.R[..., 0, 2], batch.R[..., 2, 2]).rad2deg()
        degrees = (view_yaw + batch.yaw_deg[:, None]).round().long() % 360
        if bool((degrees % 45 != 0).any()):
            raise ValueError(f"data.yaw must be multiples of 45 degrees; got views at {degrees.tolist()}.")
        truths = [read_truth(self.root, name) for name in batch.sample_id]
        rows = [truth[degree] for truth, views in zip(truths, degrees.tolist(), strict=True) for degree in views]
        return {
            head: torch.tensor([labels.index(row[head]) for row in rows], device=batch.images.device)
            for head, labels in self.net.labels.items()
        }

    def noised(self, batch: MultiViewBatch) -> Tensor:
        """Return the images [B, V, 3, H, W] of a batch with training noise."""
        draws = []
        for index in batch.sample_index.tolist():
            generator = keyed_generator("judge", self.seed, batch.epoch, index)
            share = torch.rand((), generator=generator)
            draws.append(share * torch.randn(batch.images.shape[1:], generator=generator))
        return batch.images + self.noise * torch.stack(draws).to(batch.images)

    def training_step(self, batch: MultiViewBatch, batch_idx: int) -> Tensor:
        """Return the sum of the heads' cross-entropies."""
        out, labels = self.net(self.noised(batch).flatten(0, 1)), self.labels(batch)
        loss = sum(F.cross_entropy(out[head].float(), labels[head]) for head in labels)
        self.step_means.add("train/loss", loss.expand(batch.batch_size))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self._right = {head: [] for head in self.net.labels}

    def validation_step(self, batch: MultiViewBatch, batch_idx: int) -> None:
        """Compare each head with the truth; object and colour count only views with an object in the middle."""
        batch = batch.originals()
        if batch is None:
            return
        out, labels = self.net(batch.images.flatten(0, 1)), self.labels(batch)
        judged = labels["object"] != self.net.labels["object"].index(NONE)
        for head, truth in labels.items():
            right = (out[head].argmax(dim=1) == truth).float()
            self._right[head] += (right if head == "walls" else right[judged]).tolist()

    def on_validation_epoch_end(self) -> None:
        """Log the accuracy of each head."""
        for head, own in self._right.items():
            right = list(chain.from_iterable(gather(own)))
            if right:
                self.log(f"val/{head}", sum(right) / len(right), prog_bar=True, sync_dist=True)

    def on_fit_end(self) -> None:
        """Write the network in half precision."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:
            remedy = "Train with a lower learning rate."
            check_finite(self.net.state_dict(), f"out {self.out} is not written", remedy, torch.float16)
            self.net.half().save_pretrained(self.out)
