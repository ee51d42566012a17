"""Kill this process in training, as `kill -9` does, at the first batch after a given number of optimizer steps."""

import os
import signal

from mvdiff.training.trained_part import TrainedPartModule


def kill_at(steps: int) -> None:
    """Let this process be killed in training, at the first batch after `steps` optimizer steps."""

    def kill_when_due(self, batch, batch_idx):
        if self.trainer.global_step == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainedPartModule.on_train_batch_start = kill_when_due
