"""Stop a training at a signal: finish the step on all ranks together, save, and say how to resume.

Lightning saves inside the signal handler, which may run in the middle of an optimizer step, and sends collectives from
it; here handlers only note the signal. It answers SIGTERM with exit status 0 and saves nothing.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from time import monotonic
from typing import Any, Literal

import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mvdiff.signals import Stopped
from mvdiff.training.checkpoint_files import CheckpointFiles
from mvdiff.training.ema import TrainedWeightsEMA

_PATIENCE = 10
"""Seconds that processes started by Lightning have to end by themselves."""

_REQUEUED = "the job is requeued"

_Phase = Literal["free", "step", "between", "validating", "scoring"]
"""Place of a run.

free: there is nothing to save; step: weights or counters are changing; between: between two batches; validating: in a
step of a validation, with the average of the weights in the module if there is one; scoring: in the rest of a
validation, or with several ranks in all of it.
"""


class RunSignals(_SignalConnector):
    """Note the first signal that asks a run to stop; raise `Stopped` from the handler only where nothing is changing.

    SIGTERM and SIGINT ask to stop; so does, under SLURM, the signal to requeue (`SLURMEnvironment`). A second Ctrl-C
    does not wait for the end of the step.
    """

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.noted = 0
        """First signal; 0: none."""
        self.phase: _Phase = "free"
        self.text: str | None = None
        """Sentence about what was saved."""
        self.children: list[subprocess.Popen] = []
        self.ended = False
        """A further signal changes nothing."""
        self._process = os.getpid()

    @property
    def requeue_signal(self) -> int:
        """Return the signal to save and requeue, 0 outside of SLURM or where the plugin leaves it to others."""
        environment = self.trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            return int(environment.requeue_signal or 0)
        return 0

    def register_signal_handlers(self) -> None:
        """Install the handlers, except for signals that are ignored, and for the requeue signal if it has one."""
        self.received_sigterm = self.ended = False
        self.noted, self.phase, self.text, self._process = 0, "free", None, os.getpid()
        wanted = {signal.SIGTERM: True, signal.SIGINT: True, self.requeue_signal: False}
        for signum, replace in wanted.items():
            old = signal.getsignal(signum) if signum else signal.SIG_IGN
            if old is not signal.SIG_IGN and (replace or old is signal.SIG_DFL):
                self._original_handlers[signum] = old
                self._register_signal(signum, self._note)

    def _note(self, signum: int, _frame: Any) -> None:
        if os.getpid() != self._process or self.ended:  # a loading process has the handler, too, where it is forked
            return
        again = signum == signal.SIGINT == self.noted
        if not self.noted:
            self.noted = signum
            self._take_children()
            for child in self.children:
                child.send_signal(signal.SIGTERM)
            if hasattr(signal, "SIGCHLD"):  # torch raises here, in mid-step, when a loading process gets the signal
                self._original_handlers.setdefault(signal.SIGCHLD, signal.getsignal(signal.SIGCHLD))
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if signum == signal.SIGINT and self.phase != "free" and self.trainer.is_global_zero:
                os.write(2, b"\nstopping after this step; Ctrl-C again stops at once, without saving it\n")
        if again or self.phase in ("free", "validating"):
            self.ended = True
            raise Stopped(self.noted)

    def agree(self) -> bool:
        """Return True if any rank noted a signal; all ranks must call this."""
        if self.trainer.world_size > 1:
            order = (0, signal.SIGTERM, signal.SIGINT, self.requeue_signal)  # which counts if ranks differ: the last
            device = self.trainer.strategy.root_device
            place = torch.tensor(order.index(self.noted), device=device)
            self.noted = int(order[int(self.trainer.strategy.reduce(place, reduce_op="max"))])
        return bool(self.noted)

    def _take_children(self) -> None:
        """Take the processes that Lightning started from its observer, which kills this one when a child ends first."""
        launched = getattr(self.trainer.strategy.launcher, "procs", None)
        if launched:
            self.children = list(launched)
            launched.clear()

    def end_children(self) -> None:
        """End the processes that Lightning started on this machine."""
        self._take_children()
        end = monotonic() + _PATIENCE
        for child in self.children:
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            try:
                child.wait(max(0.0, end - monotonic()))
            except subprocess.TimeoutExpired:  # it waits for the others, without looking at signals
                child.kill()


class SaveWhenStopped(Callback):
    """Stop a training at the end of a step, all ranks together, and save it; see `handle_signals`.

    The file is `last.ckpt` in the folder of the run's checkpoints; under SLURM, except after Ctrl-C, the next
    `hpc_ckpt_N.ckpt`, from which the same job resumes by itself. Within a validation one process stops at once, several
    stop together after a batch; a resumed run repeats that validation.
    """

    def __init__(self, signals: RunSignals) -> None:
        self.signals = signals
        self._trained = self._together = False
        self._common = 0  # batches of this validation that every rank still has
        self._config = "YAML"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the file with the run's settings."""
        self._trained = self._together = False
        files = (getattr(one, "settings_file", None) for one in trainer.callbacks)  # of `SaveRunConfig`
        self._config = str(next(filter(None, files), "YAML"))

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        """Wait for the end of the step, unless there is nothing to save and no rank that would wait."""
        if self._trained or trainer.world_size > 1:
            self.signals.phase = "step"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        """Let Lightning stop after this batch, before or within a validation, if a rank noted a signal.

        The last batch of an epoch is followed by one more, since Lightning does not resume from the start of an epoch.
        """
        self._trained = True
        self.signals.phase = "between"
        if self.signals.agree() and not trainer.fit_loop.epoch_loop._is_training_done:
            self._together = self.signals.received_sigterm = True

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop several ranks together, before the first batch; a rank must not leave the others alone from here on."""
        if trainer.world_size > 1 and self._in_training(trainer):
            self.signals.phase = "scoring"
            self._common = _common_batches(trainer)
            self._stop_together()

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0) -> None:
        """Stop a single process at once from here on."""
        if trainer.world_size == 1 and self._trained and self._in_training(trainer):
            self.signals.phase = "validating"
            self._stop_validation()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        """Stop if a signal is noted; several ranks stop together, after a batch that all of them have."""
        if self.signals.phase == "validating":
            self._stop_validation()
            self.signals.phase = "scoring"
        elif self.signals.phase == "scoring" and self._common:
            self._common -= 1
            self._stop_together()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wait for the end of the next step from here on."""
        if self._in_training(trainer) and (self._trained or trainer.world_size > 1):
            self.signals.phase = "between"

    @staticmethod
    def _in_training(trainer: Trainer) -> bool:
        return trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking

    def _stop_together(self) -> None:
        if self.signals.agree():
            self._together = True
            self._stop_validation()

    def _stop_validation(self) -> None:
        if self.signals.noted:
            self.signals.ended = True
            raise Stopped(self.signals.noted)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save where a signal ended the training; an error that it caused, such as a dead loading process, counts.

        The signal to requeue also requeues the job, whether or not there is something to save.

        Raises:
            OSError: The checkpoint cannot be written; earlier ones are left as they are.
        """
        signals = self.signals
        if not signals.noted or trainer.state.fn != TrainerFn.FITTING:
            return
        signals.ended = True  # a further signal changes nothing
        signals._take_children()
        path = self._place(trainer) if self._can_save(trainer) else None
        if path is not None:
            path = self._save(trainer, path)
        stopped = isinstance(exception, Stopped | SIGTERMException) or self._is_left_alone(trainer, exception)
        if stopped or path is not None:
            requeues = signals.noted == signals.requeue_signal and trainer.is_global_zero
            signals.text = self._say(trainer, path, _requeue() if requeues else None)

    def _can_save(self, trainer: Trainer) -> bool:
        """Return True if nothing is changing, and this rank can save alone or all ranks are here."""
        place = self._together or self.signals.phase in ("between", "validating")
        return place and self._trained and (self._together or _one_file(trainer))

    def _is_left_alone(self, trainer: Trainer, exception: BaseException) -> bool:
        """Return True if the backend failed in a validation because another rank stopped, after a second Ctrl-C."""
        return trainer.world_size > 1 and self.signals.phase == "scoring" and isinstance(exception, RuntimeError)

    def _place(self, trainer: Trainer) -> str | None:
        """Return the file to write; None: the run writes no checkpoints."""
        if trainer.fast_dev_run:
            return None
        requeue = self.signals.requeue_signal
        if requeue and self.signals.noted != signal.SIGINT:
            return trainer._checkpoint_connector.hpc_save_path(trainer.default_root_dir)
        keep = [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint) and one.dirpath]
        keep.sort(key=lambda one: not (one.filename == "last" or one.save_last))
        return os.path.join(keep[0].dirpath, "last.ckpt") if keep else None

    def _save(self, trainer: Trainer, path: str) -> str:
        """Write the checkpoint with all that a resume needs; return its file, which may have a higher number."""
        if self.signals.phase in ("validating", "scoring"):
            for average in trainer.callbacks:
                # TrainedWeightsEMA itself saves the trained weights as such
                if isinstance(average, WeightAveraging) and not isinstance(average, TrainedWeightsEMA):
                    average.on_validation_epoch_end(trainer, trainer.lightning_module)  # puts them back
        if self._together:
            trainer.save_checkpoint(trainer.strategy.broadcast(path), False)  # not the weights alone
        elif trainer.is_global_zero:
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(False)
            trainer.strategy.save_checkpoint(checkpoint, path)
        files = trainer.strategy.checkpoint_io
        return str(files.latest) if isinstance(files, CheckpointFiles) and files.latest else path

    def _say(self, trainer: Trainer, path: str | None, queue: str | None) -> str:
        """Return the sentence for the user; `queue` tells what came of a requeue."""
        if not trainer.is_global_zero:
            return ""
        step = trainer.global_step
        start = f"stopped by {signal.Signals(self.signals.noted).name}"
        end = "" if queue is None else f"; {queue}"
        if path is None:
            if not self._trained:
                return f"{start} before the first step of this run; there is nothing to save{end}"
            reason = " in the middle of a step" if self.signals.phase == "step" else ""
            kept = "nothing was saved, earlier checkpoints are left as they are"
            return f"{start} after step {step}{reason}; {kept}{end}"
        start = f"{start} after step {step}, which is saved in {path}{end}"
        resume = shlex.join(["mvdiff", "fit", "--config", self._config, "--ckpt_path", path])
        if queue is not None:
            return f"{start} and resumes from it" if queue == _REQUEUED else f"{start}: resume with {resume}"
        if "hpc_ckpt_" in path:
            return f"{start}; if SLURM requeues the job it resumes from there, and you can resume with {resume}"
        return f"{start}; resume with {resume}"


def handle_signals(trainer: Trainer) -> None:
    """Let a Trainer stop at signals; run it inside `ended_by_signal`."""
    trainer._signal_connector = RunSignals(trainer)
    trainer.callbacks.append(SaveWhenStopped(trainer._signal_connector))


@contextmanager
def ended_by_signal(trainer: Trainer) -> Iterator[None]:
    """Raise `Stopped` for what a signal ended, with what was saved; end the processes that Lightning started.

    Raises:
        Stopped: A signal ended the run.
    """
    signals = trainer._signal_connector
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Stopped | SIGTERMException)
        if not stopped and not signals.noted:
            raise
        signals.end_children()
        if not stopped and signals.text is None:
            raise
        signum = error.signum if isinstance(error, Stopped) else signals.noted
        raise Stopped(signum, signals.text if trainer.is_global_zero else "") from error


def _one_file(trainer: Trainer) -> bool:
    """Return True if the first rank holds all of a checkpoint; under DeepSpeed, a kind of DDPStrategy, it does not."""
    return type(trainer.strategy) in (SingleDeviceStrategy, DDPStrategy)


def _common_batches(trainer: Trainer) -> int:
    """Return how many batches of a validation every rank has, 0 if that is not known; all ranks must call this."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    batches = sum(loop.max_batches) if loop._is_sequential else min(loop.max_batches)
    known = int(batches) if isfinite(batches) else 0
    common = trainer.strategy.reduce(torch.tensor(known, device=trainer.strategy.root_device), reduce_op="min")
    return int(common)


def _requeue() -> str:
    """Put this process's SLURM job back in the queue; return a sentence about what came of it."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # the job's own id would requeue all of the array
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"job {job} is not requeued (scontrol: {error.strerror})"
    reason = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
    return f"job {job} is not requeued (scontrol: {reason})" if done.returncode else _REQUEUED
