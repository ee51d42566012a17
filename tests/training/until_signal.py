"""A training of one weight that waits for the signal of its launcher, or is killed; it notes its steps."""

import os
import signal
import time
from pathlib import Path

from tests.training.one_weight import OneWeight


class UntilSignal(OneWeight):
    """One weight. In some steps it says what happens to the job, each once in the job's life, and waits for the signal.

    Args:
        folder: Place of the files that say so, and of `steps`: a line per step, with the restarts of the job and the
            step.
        events: For steps, counted from 0, the name of a file of `small_slurm`: `time-is-up`, `preempted`, or
            `node-lost`, at which the process gets kill -9.
    """

    def __init__(self, folder: str, events: dict[int, str]) -> None:
        super().__init__()
        self.folder, self.events = Path(folder), events

    def training_step(self, batch, batch_idx):
        step = self.trainer.global_step
        with (self.folder / "steps").open("a") as file:
            file.write(f"{os.environ.get('SLURM_RESTART_COUNT', 0)} {step}\n")
        event = self.events.get(step)
        if event and not (self.folder / event).exists():
            (self.folder / event).touch()
            if event == "node-lost":
                os.kill(os.getpid(), signal.SIGKILL)
            while not self.trainer._signal_connector.noted:
                time.sleep(0.01)
        return super().training_step(batch, batch_idx)
