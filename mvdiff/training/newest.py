"""The newest checkpoint of all runs below one root, for `--ckpt_path last`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mvdiff.training.checkpoint_files import damage, requeue_number
from mvdiff.training.run_checkpoints import checkpoint_roots, checkpoints_by_time, resumable
from mvdiff.training.slurm_jobs import own_checkpoint, writer


def newest_checkpoint(trainer: Trainer, resumes: bool) -> Path:
    """Return the checkpoint that was written last, of those that `checkpoints_by_time` lists.

    The job that wrote a file of a SLURM requeue is named. A requeued job that resumes takes its own file first, as
    without `--ckpt_path`.

    Args:
        trainer: Trainer of the new run.
        resumes: Skip damaged files with a warning, and files that hold weights alone.

    Raises:
        FileNotFoundError: There is no such checkpoint.
        ValueError: The newest is damaged, and `resumes` is False.
    """
    own = own_checkpoint(trainer) if resumes else None
    if own is not None:
        rank_zero_warn(f"--ckpt_path last is {own}, which an earlier start of this SLURM job wrote.")
        return own
    for path in checkpoints_by_time(trainer):
        problem = damage(path)
        if problem is not None and not resumes:
            raise ValueError(problem)
        if problem is not None:
            rank_zero_warn(f"checkpoint {path} is not used: {problem} The one before is used.")
        elif not resumes or resumable(path):
            if requeue_number(path) is not None:
                job = writer(path).get("id")
                rank_zero_warn(f"--ckpt_path last is {path}, which {f'SLURM job {job}' if job else 'a job'} wrote.")
            return path
    roots = checkpoint_roots(trainer)
    what = "checkpoint to resume from" if resumes else "checkpoint"
    remedy = "Leave out --ckpt_path to start a new run." if resumes else "Name a file."
    raise FileNotFoundError(
        f"--ckpt_path last needs a {what}; there is none below {' or '.join(map(str, roots)) or 'a folder'}. {remedy}"
    )
