"""Run a script and kill the process, as `kill -9` does, at the first batch after a given number of optimizer steps."""

import os
import runpy
import signal
import sys

from mvdiff.training.trained_part import TrainedPartModule


def kill_at(steps: int) -> None:
    """Let this process be killed in training, at the first batch after `steps` optimizer steps."""

    def kill_when_due(self, batch, batch_idx):
        if self.trainer.global_step == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    TrainedPartModule.on_train_batch_start = kill_when_due


def main() -> None:
    kill_at(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
