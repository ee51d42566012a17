"""`--ckpt_path last`: the newest checkpoint of all runs below the root."""

import os

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from mvdiff.training.checkpoint_files import CheckpointFiles
from mvdiff.training.newest import newest_checkpoint
from mvdiff.training.slurm_jobs import JOB_KEY, keep_jobs_apart
from tests.training.one_weight import quiet_trainer
from tests.training.test_checkpoint_files import damage, values
from tests.training.test_slurm_jobs import TASK

RESUMABLE = {"pytorch-lightning_version": "2.6.6", "optimizer_states": [], "loops": {}}


def save(path, time, **content):
    CheckpointFiles().save_checkpoint(values(time) | RESUMABLE | content, path)
    os.utime(path, (time, time))
    return path


PLACES = [
    "checkpoints/last.ckpt",  # of a Trainer without loggers
    "version_3/checkpoints/last.ckpt",  # of `logger: false`
    "hpc_ckpt_2.ckpt",
    "logs/pano/version_0/checkpoints/best-9.ckpt",  # of the logger
    "mine/anything.ckpt",  # dirpath of a ModelCheckpoint
]


@pytest.mark.parametrize("newest", PLACES)
def test_the_newest_file_of_every_place_is_found(tmp_path, newest):
    for place in PLACES:
        save(tmp_path / place, 200 if place == newest else 100)
    save(tmp_path / "elsewhere" / "last.ckpt", 300)
    logger, saver = CSVLogger(tmp_path / "logs", name="pano"), ModelCheckpoint(tmp_path / "mine")
    trainer = quiet_trainer(tmp_path, logger=logger, callbacks=[saver])
    assert newest_checkpoint(trainer, resumes=True) == tmp_path / newest


def test_damaged_files_are_named_and_those_of_weights_alone_left_out(tmp_path):
    whole = save(tmp_path / "version_0" / "checkpoints" / "last.previous.ckpt", 100)
    weights = tmp_path / "version_0" / "checkpoints" / "weights.ckpt"
    CheckpointFiles().save_checkpoint(values(150) | {"pytorch-lightning_version": "2.6.6"}, weights)
    os.utime(weights, (150, 150))
    damaged = save(tmp_path / "version_1" / "checkpoints" / "last.ckpt", 200)
    trainer = quiet_trainer(tmp_path)
    damage(damaged, "cut")
    os.utime(damaged, (200, 200))
    with pytest.warns(UserWarning, match=r"version_1/checkpoints/last\.ckpt is not used: .*end is missing"):
        assert newest_checkpoint(trainer, resumes=True) == whole
    with pytest.raises(ValueError, match=r"end is missing, in .*version_1"):
        newest_checkpoint(trainer, resumes=False)
    damaged.unlink()
    assert newest_checkpoint(trainer, resumes=False) == weights


def test_without_a_checkpoint_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"last needs a checkpoint to resume from; .* {tmp_path}\. Leave out"):
        newest_checkpoint(quiet_trainer(tmp_path), resumes=True)


def test_files_of_requeues_are_named_and_the_jobs_own_comes_first(tmp_path, monkeypatch):
    for name, value in TASK.items() | {("SLURM_JOB_ID", "7"), ("SLURM_RESTART_COUNT", "1")}:
        monkeypatch.setenv(name, value)
    save(tmp_path / "version_0" / "checkpoints" / "last.ckpt", 200)
    other = save(tmp_path / "hpc_ckpt_2.ckpt", 300, **{JOB_KEY: {"id": "6", "restarts": 0, "run": "a"}})
    trainer = quiet_trainer(tmp_path)
    keep_jobs_apart(trainer, "a")
    with pytest.warns(UserWarning, match=r"--ckpt_path last is .*hpc_ckpt_2\.ckpt, which SLURM job 6 wrote\."):
        assert newest_checkpoint(trainer, resumes=True) == other
    own = save(tmp_path / "hpc_ckpt_1.ckpt", 100, **{JOB_KEY: {"id": "7", "restarts": 0, "run": "a"}})
    with pytest.warns(UserWarning, match=r"hpc_ckpt_1\.ckpt, which an earlier start of this SLURM job wrote\."):
        assert newest_checkpoint(trainer, resumes=True) == own
    with pytest.warns(UserWarning, match="SLURM job 6"):
        assert newest_checkpoint(trainer, resumes=False) == other
