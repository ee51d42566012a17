"""SLURM jobs that are requeued: each goes on from the checkpoint that it wrote itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.training.checkpoint_files import damage, local_path, requeue_number

JOB_KEY = "mvdiff_job"
"""Checkpoint key of the SLURM job that wrote it."""


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
    """Return True if a job is a later start of the job that wrote a checkpoint."""
    return bool(job and written_by) and job["id"] == written_by["id"] and job["restarts"] > written_by["restarts"]


class JobCheckpoints(_CheckpointConnector):
    """Lightning's loading and saving, with the SLURM job noted in each checkpoint.

    Lightning resumes any SLURM job without `ckpt_path` from the highest `hpc_ckpt_<n>.ckpt` in `default_root_dir`, also
    from that of another job. Here a job takes only what an earlier start of itself wrote, and falls back to the one
    before where a file is damaged. Folders on other file systems (`s3://...`) are left to Lightning.
    """

    def dump_checkpoint(self, weights_only: bool | None = None) -> dict[str, Any]:
        """Return the checkpoint, with the present job."""
        checkpoint = super().dump_checkpoint(weights_only)
        job = slurm_job(os.environ)
        return checkpoint if job is None else checkpoint | {JOB_KEY: job}

    @property
    def _hpc_resume_path(self) -> str | None:
        root = local_path(self.trainer.default_root_dir)
        if root is None:
            return super()._hpc_resume_path
        own = next((path for path in _requeued(root) if _is_own(path)), None)
        return None if own is None else str(own)

    def _parse_ckpt_path(self, state_fn: Any, ckpt_path: Any, **kwargs: Any) -> Any:
        root = local_path(self.trainer.default_root_dir)
        if ckpt_path is None and root is not None and SLURMEnvironment.detect() and self._hpc_resume_path is None:
            for path in _requeued(root)[:1]:
                rank_zero_warn(
                    f"{path} is not used, since another SLURM job wrote it. To resume from it, add --ckpt_path {path}."
                )
        return super()._parse_ckpt_path(state_fn, ckpt_path, **kwargs)


def keep_jobs_apart(trainer: Trainer) -> None:
    """Let a Trainer resume without `ckpt_path` only from checkpoints of its own SLURM job."""
    trainer._checkpoint_connector = JobCheckpoints(trainer)


def _requeued(root: Path) -> list[Path]:
    """Return the checkpoints of requeued jobs in a folder, newest first."""
    numbered = {path: requeue_number(path) for path in root.glob("hpc_ckpt_*.ckpt")}
    return sorted((path for path, number in numbered.items() if number is not None), key=numbered.get, reverse=True)


def _is_own(path: Path) -> bool:
    """Return True for a whole checkpoint of an earlier start of this job; warn of a damaged one."""
    problem = damage(path)
    try:
        if problem is None:
            return goes_on(slurm_job(os.environ), read_checkpoint(path, lazy=True).get(JOB_KEY))
    except ValueError as error:
        problem = str(error)
    rank_zero_warn(f"checkpoint {path} is not used: {problem}")
    return False
