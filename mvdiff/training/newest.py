"""The newest checkpoint of all runs below one root, for `--ckpt_path last`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from mvdiff.pipelines.checkpoint import read_checkpoint
from mvdiff.training.checkpoint_files import damage, local_path, requeue_number
from mvdiff.training.slurm_jobs import own_checkpoint, writer

TRAINING_KEYS = ("pytorch-lightning_version", "optimizer_states", "loops")
"""What a checkpoint must hold to resume from it."""
_BELOW_ROOT = ("hpc_ckpt_*.ckpt", "checkpoints/*.ckpt", "*/checkpoints/*.ckpt")


def newest_checkpoint(trainer: Trainer, resumes: bool) -> Path:
    """Return the checkpoint that was written last below the run's root, by the time of the file.

    The root is `trainer.default_root_dir`, the folder in which the first logger keeps its versions, and the `dirpath`
    of every ModelCheckpoint. Files of SLURM requeues and `NAME.previous.ckpt` count like any other, and the job that
    wrote such a file is named. A requeued job that resumes takes its own file first, as without `--ckpt_path`.

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
    roots = list(_roots(trainer))
    for path in sorted(_files(trainer, roots), key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        problem = damage(path)
        if problem is not None and not resumes:
            raise ValueError(problem)
        if problem is not None:
            rank_zero_warn(f"checkpoint {path} is not used: {problem} The one before is used.")
        elif not resumes or all(key in read_checkpoint(path, lazy=True) for key in TRAINING_KEYS):
            if requeue_number(path) is not None:
                job = writer(path).get("id")
                rank_zero_warn(f"--ckpt_path last is {path}, which {f'SLURM job {job}' if job else 'a job'} wrote.")
            return path
    what = "checkpoint to resume from" if resumes else "checkpoint"
    remedy = "Leave out --ckpt_path to start a new run." if resumes else "Name a file."
    raise FileNotFoundError(
        f"--ckpt_path last needs a {what}; there is none below {' or '.join(map(str, roots)) or 'a folder'}. {remedy}"
    )


def _roots(trainer: Trainer) -> Iterator[Path]:
    """Yield the folders below which runs of this kind write, each once."""
    folders = [trainer.default_root_dir]
    for logger in trainer.loggers[:1]:  # Lightning puts checkpoints beside the first one's logs
        if logger.save_dir is not None and logger.name is not None:
            folders.append(Path(logger.save_dir) / str(logger.name))
    seen = {}
    for folder in folders:
        local = local_path(folder)
        if local is not None:
            seen.setdefault(local.resolve(), local)
    yield from seen.values()


def _files(trainer: Trainer, roots: list[Path]) -> set[Path]:
    files = {path for root in roots for pattern in _BELOW_ROOT for path in root.glob(pattern)}
    for callback in trainer.checkpoint_callbacks:
        folder = getattr(callback, "dirpath", None)
        if folder is not None and (local := local_path(folder)) is not None:
            files.update(local.glob("*.ckpt"))
    return {path for path in files if path.is_file()}
