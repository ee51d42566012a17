"""A training of one weight that waits for the signal of its launcher, or is killed; it notes its steps."""

import os
import signal
import time
from pathlib import Path

from tests.training.one_weight import OneWeight


class UntilSignal(OneWeight):
    """One weight. In step `at` the first start of a job says that its time is up, and waits for the signal.

    Args:
        folder: Place of `time-is-up`, and of `steps`: a line per step, with the restarts of the job, rank and step.
        at: Number of the step, counted from 0; -1: none.
        node_lost: Kill -9 the process in that step instead, and say so in `node-lost`.
    """

    def __init__(self, folder: str, at: int = -1, node_lost: bool = False) -> None:
        super().__init__()
        self.folder, self.at, self.node_lost = Path(folder), at, node_lost

    def training_step(self, batch, batch_idx):
        step, time_is_up = self.trainer.global_step, self.folder / "time-is-up"
        with (self.folder / "steps").open("a") as file:
            file.write(f"{os.environ.get('SLURM_RESTART_COUNT', 0)} {self.global_rank} {step}\n")
        lost = self.folder / "node-lost"
        if step == self.at and self.node_lost and not lost.exists():
            lost.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        elif step == self.at and not self.node_lost and not time_is_up.exists():
            time_is_up.touch()
            while not self.trainer._signal_connector.noted:
                time.sleep(0.01)
        return super().training_step(batch, batch_idx)
