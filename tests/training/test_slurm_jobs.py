"""A SLURM job resumes by itself from what an earlier start of the same job wrote, and from nothing else."""

import pytest

from mvdiff.training.checkpoint_files import CheckpointFiles
from mvdiff.training.slurm_jobs import goes_on, keep_jobs_apart, slurm_job
from tests.training.one_weight import OneWeight, numbers, quiet_trainer
from tests.training.test_checkpoint_files import damage

TASK = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "pano", "SLURM_LOCALID": "0"}
TASK |= {"SLURM_PROCID": "0", "SLURM_NODEID": "0"}


@pytest.fixture
def job(monkeypatch):
    """Set the environment of a SLURM job."""

    def become(number, restarts=0, task=None):
        for name in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT"):
            monkeypatch.delenv(name, raising=False)
        environ = TASK | {"SLURM_JOB_ID": str(number)}
        environ |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        environ |= {} if task is None else {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
        for name, value in environ.items():
            monkeypatch.setenv(name, value)

    return become


class Requeued(OneWeight):
    """Writes a checkpoint after some steps as Lightning does when SLURM takes the job back."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step == self.at:
            path = self.trainer._checkpoint_connector.hpc_save_path(self.trainer.default_root_dir)
            self.trainer.save_checkpoint(path)


def fit(folder, at=-1):
    """Train three steps; return those that were made."""
    module = Requeued(at)
    trainer = quiet_trainer(folder, max_epochs=1, plugins=[CheckpointFiles()])
    keep_jobs_apart(trainer)
    trainer.fit(module, numbers(2, 2, 2), weights_only=True)
    return len(module.rates)


def test_only_a_requeue_of_the_same_job_goes_on(tmp_path, job):
    job(7)
    assert fit(tmp_path, at=1) == 3
    unused = r"hpc_ckpt_1\.ckpt is not used, since another SLURM job wrote it\. .*--ckpt_path .*hpc_ckpt_1\.ckpt"
    for others in ((8,), (8, 1), (7,), (7, 1, 2)):  # another job, requeued; a second step of this; a task of an array
        job(*others)
        with pytest.warns(UserWarning, match=unused):
            assert fit(tmp_path) == 3
    job(7, restarts=1)
    assert fit(tmp_path, at=2) == 2
    job(7, restarts=2)
    assert fit(tmp_path) == 1


def test_jobs_in_one_folder_go_on_from_their_own_files(tmp_path, job):
    for number, at in ((7, 2), (8, 1)):
        job(number)
        fit(tmp_path, at)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["hpc_ckpt_1.ckpt", "hpc_ckpt_2.ckpt"]
    job(7, restarts=1)
    assert fit(tmp_path) == 1
    job(8, restarts=1)
    assert fit(tmp_path) == 2


def test_a_damaged_file_falls_back_to_an_older_one_of_the_same_job(tmp_path, job):
    job(7)
    fit(tmp_path, at=1)
    job(7, restarts=1)
    fit(tmp_path, at=2)
    damage(tmp_path / "hpc_ckpt_2.ckpt", "cut")
    job(7, restarts=2)
    with pytest.warns(UserWarning, match=r"hpc_ckpt_2\.ckpt is not used: .*end is missing"):
        assert fit(tmp_path) == 2


def test_tasks_of_an_array_are_jobs_of_their_own():
    environ = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10"}
    one, other = (slurm_job(environ | {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_RESTART_COUNT": str(i)}) for i in (1, 2))
    assert not goes_on(other, one)
    assert goes_on(one | {"restarts": 2}, one)
    assert not goes_on(one, None)
    assert slurm_job({}) is None
