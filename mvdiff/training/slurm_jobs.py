"""SLURM jobs that are requeued: each goes on from the checkpoint that it wrote itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.training.checkpoint_files import damage, local_path, requeue_number
from mvdiff.training.run_checkpoints import checkpoints_by_time, resumable

JOB_KEY = "mvdiff_job"
"""Checkpoint key of the SLURM job that wrote it: its id, its restart count and the fingerprint of its run."""


def slurm_job(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the id of this SLURM job, as `scontrol requeue` takes it, and how often the job was restarted.

    >>> slurm_job({"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10", "SLURM_ARRAY_TASK_ID": "3"})
    {'id': '10_3', 'restarts': 0}
    """
    if "SLURM_JOB_ID" not in environ:
        return None
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    job = environ["SLURM_JOB_ID"] if array is None or task is None else f"{array}_{task}"
    restarts = environ.get("SLURM_RESTART_COUNT", "")
    return {"id": job, "restarts": int(restarts) if restarts.isdecimal() else 0}


def goes_on(job: Mapping[str, Any] | None, written_by: Mapping[str, Any] | None) -> bool:
    """Return True if a job is a later start of the job that wrote a checkpoint, with the same run."""
    if not job or not written_by or job["id"] != written_by["id"]:
        return False
    return job["restarts"] > written_by["restarts"] and job.get("run") == written_by.get("run")


class JobCheckpoints(_CheckpointConnector):
    """Lightning's loading and saving, with the SLURM job noted in each checkpoint.

    Lightning resumes any SLURM job without `ckpt_path` from the highest `hpc_ckpt_<n>.ckpt` in `default_root_dir`, also
    from that of another job. Here `fit` takes only what an earlier start of the same job wrote for the same run, before
    any `ckpt_path`: the newest of such files and of the checkpoints that the run writes on its way, as after a lost
    node. It falls back to the one before where a file is damaged. Other commands take none. Folders on other file
    systems (`s3://...`) are left to Lightning. All ranks load the file that the first rank chose.

    Args:
        trainer: Trainer of the run.
        run: Fingerprint that tells the run from others of the job.
    """

    def __init__(self, trainer: Trainer, run: str = "") -> None:
        super().__init__(trainer)
        self.run = run

    def dump_checkpoint(self, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the checkpoint, with the present job."""
        checkpoint, job = super().dump_checkpoint(weights_only), self._job
        return checkpoint if job is None else checkpoint | {JOB_KEY: job}

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Load the file that the first rank chose; a rank that starts later may have found a newer one."""
        super().resume_start(self.trainer.strategy.broadcast(checkpoint_path), weights_only)

    @property
    def _job(self) -> dict[str, Any] | None:
        job = slurm_job(os.environ)
        return None if job is None else job | {"run": self.run}

    @property
    def _hpc_resume_path(self) -> str | None:
        if self.trainer.state.fn not in (None, TrainerFn.FITTING):
            return None
        if local_path(self.trainer.default_root_dir) is None:
            return super()._hpc_resume_path
        own, _ = _own_and_newer(self.trainer, self._job)
        return None if own is None else str(own)

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, **kwargs: Any) -> Any:
        is_local = local_path(self.trainer.default_root_dir) is not None
        if state_fn != TrainerFn.FITTING or not is_local or not SLURMEnvironment.detect():
            return super()._parse_ckpt_path(state_fn, ckpt_path, **kwargs)
        own, newer = _own_and_newer(self.trainer, self._job)
        for sentence in _sentences(own, newer, self._job, ckpt_path):
            rank_zero_warn(sentence)
        return super()._parse_ckpt_path(state_fn, ckpt_path if own is None else str(own), **kwargs)


def keep_jobs_apart(trainer: Trainer, run: str = "") -> None:
    """Let `fit` resume by itself only from checkpoints of its own SLURM job and run (a fingerprint)."""
    trainer._checkpoint_connector = JobCheckpoints(trainer, run)


def own_checkpoint(trainer: Trainer) -> Path | None:
    """Return the file from which `fit` resumes by itself: of an earlier start of this SLURM job and of this run."""
    connector = trainer._checkpoint_connector
    if not isinstance(connector, JobCheckpoints) or not SLURMEnvironment.detect():
        return None
    own = connector._hpc_resume_path
    return None if own is None else local_path(own)


def writer(path: Path) -> Mapping[str, Any]:
    """Return the SLURM job that wrote a checkpoint, as under `JOB_KEY`; empty where none is noted."""
    return read_checkpoint(path, lazy=True).get(JOB_KEY) or {}


_Newer = list[tuple[Path, str | None, Mapping[str, Any]]]
"""Files with what is wrong with them and the jobs that wrote them."""


def _own_and_newer(trainer: Trainer, job: Mapping[str, Any] | None) -> tuple[Path | None, _Newer]:
    """Return the newest whole checkpoint of an earlier start of a job, and the files that are newer than it.

    Of the latter, whole files count only if they have the name that SLURM's requeue gives: other runs write theirs.
    """
    newer: _Newer = []
    for path in checkpoints_by_time(trainer):
        is_requeued = requeue_number(path) is not None
        if not (is_requeued or (job and job["restarts"])):  # before its first restart, no file can be the job's own
            continue
        problem, written_by = None, {}
        try:
            written_by = writer(path)
            if goes_on(job, written_by):
                problem = damage(path)
                if problem is None and resumable(path):
                    return path, newer
        except FileNotFoundError:  # another run removed it just now
            continue
        except ValueError as error:
            problem = damage(path) or str(error)
        if is_requeued or problem is not None:
            newer.append((path, problem, written_by))
    return None, newer


def _sentences(own: Path | None, newer: _Newer, job: Mapping[str, Any] | None, ckpt_path: Any) -> Iterator[str]:
    """Yield what `fit` says about the files that it takes or leaves."""
    if job is not None and job["restarts"]:
        instead = f"--ckpt_path {ckpt_path} is used" if ckpt_path else "a new training starts"
        then = f"The one before is used: {own}." if own else f"The job has no whole one before it; {instead}."
        for path, problem, _ in newer:
            if problem is not None:
                yield f"checkpoint {path} is not used: {problem} {then}"
    if own is not None and ckpt_path and Path(ckpt_path) != own:
        yield f"{own} is used, which an earlier start of this SLURM job wrote, and not --ckpt_path {ckpt_path}."
    for path, _, written_by in [one for one in newer if one[1] is None][:1]:
        if own is None and not ckpt_path:
            yield (f"{path} is not used, since {_why_not(job, written_by)}. To resume from it, add --ckpt_path {path}.")


def _why_not(job: Mapping[str, Any] | None, written_by: Mapping[str, Any]) -> str:
    if job is None or job["id"] != written_by.get("id"):
        return "another SLURM job wrote it"
    if job.get("run") != written_by.get("run"):
        return "a fit with other settings wrote it in this SLURM job"
    return "a fit wrote it since SLURM started this job the last time"
