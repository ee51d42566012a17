"""A SLURM job resumes by itself from what an earlier start of the same job wrote, and from nothing else."""

import warnings

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

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
    """Writes a checkpoint after some steps, by default as Lightning does when SLURM takes the job back."""

    def __init__(self, at, path=None):
        super().__init__()
        self.at, self.path = at, path

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step == self.at:
            requeued = self.trainer._checkpoint_connector.hpc_save_path(self.trainer.default_root_dir)
            self.trainer.save_checkpoint(self.path or requeued)


class Scored(OneWeight):
    """Has a validation."""

    def validation_step(self, batch, batch_idx):
        pass


def trainer_of(folder, run="", **settings):
    trainer = quiet_trainer(folder, max_epochs=1, plugins=[CheckpointFiles()], **settings)
    keep_jobs_apart(trainer, run)
    return trainer


def fit(folder, at=-1, run="", ckpt_path=None, path=None):
    """Train three steps; return those that were made."""
    module = Requeued(at, path)
    trainer_of(folder, run).fit(module, numbers(2, 2, 2), ckpt_path=ckpt_path, weights_only=True)
    return len(module.rates)


OTHER_JOB = "another SLURM job wrote it"
SAME_START = "a fit wrote it since SLURM started this job the last time"
OTHER_RUN = "a fit with other settings wrote it in this SLURM job"


def left_out(why):
    return rf"hpc_ckpt_1\.ckpt is not used, since {why}\. To resume from it, add --ckpt_path .*hpc_ckpt_1\.ckpt"


def test_only_a_requeue_of_the_same_job_goes_on(tmp_path, job):
    job(7)
    assert fit(tmp_path, at=1) == 3
    others = {(8,): OTHER_JOB, (8, 1): OTHER_JOB, (7,): SAME_START, (7, 1, 2): OTHER_JOB}  # the last one: of an array
    for other, why in others.items():
        job(*other)
        with pytest.warns(UserWarning, match=left_out(why)):
            assert fit(tmp_path) == 3
    job(7, restarts=1)
    assert fit(tmp_path, at=2) == 2
    job(7, restarts=2)
    assert fit(tmp_path) == 1


def test_a_second_fit_of_the_job_does_not_go_on_from_the_file_of_the_first(tmp_path, job):
    job(7)
    fit(tmp_path, at=1, run="first")
    job(7, restarts=1)
    assert fit(tmp_path, run="first") == 2
    with pytest.warns(UserWarning, match=left_out(OTHER_RUN)):
        assert fit(tmp_path, run="second") == 3


def test_the_jobs_own_file_comes_before_ckpt_path_in_fit_alone(tmp_path, job):
    first = tmp_path / "first.ckpt"
    job(6)
    fit(tmp_path / "other", at=1)
    (tmp_path / "other" / "hpc_ckpt_1.ckpt").rename(first)
    job(7)
    assert fit(tmp_path, at=2, ckpt_path=first) == 2
    job(7, restarts=1)
    line = (
        r"hpc_ckpt_1\.ckpt is used, which an earlier start of this SLURM job wrote, and not --ckpt_path .*first\.ckpt"
    )
    with pytest.warns(UserWarning, match=line):
        assert fit(tmp_path, ckpt_path=first) == 1
    trainer = trainer_of(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*hpc_ckpt")
        trainer.validate(Scored(), numbers(2))
        assert trainer.ckpt_path is None
        trainer.validate(Scored(), numbers(2), ckpt_path=first, weights_only=True)
    assert trainer.ckpt_path == first


def test_all_ranks_load_the_file_of_the_first(tmp_path, job):
    job(7)
    fit(tmp_path, at=1)
    fit(tmp_path, at=2)
    first, second = (str(tmp_path / f"hpc_ckpt_{number}.ckpt") for number in (1, 2))

    class OfTheSecondRank(SingleDeviceStrategy):
        def broadcast(self, obj, src=0):
            return first if obj == second else obj

    module, trainer = OneWeight(), trainer_of(tmp_path, strategy=OfTheSecondRank("cpu"))
    trainer.fit(module, numbers(2, 2, 2), ckpt_path=second, weights_only=True)
    assert (trainer.ckpt_path, len(module.rates)) == (first, 2)


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
    line = r"hpc_ckpt_2\.ckpt is not used: .*end is missing.* The one before is used: .*_1\.ckpt"
    with pytest.warns(UserWarning, match=line):
        assert fit(tmp_path) == 2
    damage(tmp_path / "hpc_ckpt_1.ckpt", "cut")
    with pytest.warns(
        UserWarning, match=r"_1\.ckpt is not used: .*end is missing.* no whole one before it; a new training starts\."
    ):
        assert fit(tmp_path, at=2) == 3
    with pytest.warns(UserWarning, match=r"_1\.ckpt is not used: .* it; --ckpt_path .*_3\.ckpt is used\."):
        assert fit(tmp_path, ckpt_path=tmp_path / "hpc_ckpt_3.ckpt") == 1


def test_a_job_that_lost_its_node_goes_on_from_the_newest_checkpoint_of_its_run(tmp_path, job):
    """Nothing was saved for SLURM then; the job of another run saves in a folder beside it, later."""
    last = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    job(7)
    fit(tmp_path, at=1, path=last)
    job(8)
    fit(tmp_path, at=2, path=tmp_path / "version_1" / "checkpoints" / "last.ckpt")
    job(7)
    assert fit(tmp_path) == 3, "the same start: a second fit of the script"
    job(7, restarts=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*ckpt")
        assert fit(tmp_path, at=2) == 2  # writes hpc_ckpt_1.ckpt, which is newer
        job(7, restarts=2)
        assert fit(tmp_path, at=3, path=last) == 1
        job(7, restarts=3)
        assert fit(tmp_path) == 0
    assert fit(tmp_path, run="another") == 3
    damage(last, "cut")
    with pytest.warns(UserWarning, match=r"last\.ckpt is not used: .*end is missing.* used: .*hpc_ckpt_1\.ckpt"):
        assert fit(tmp_path) == 1


def test_tasks_of_an_array_are_jobs_of_their_own():
    environ = {"SLURM_JOB_ID": "12", "SLURM_ARRAY_JOB_ID": "10"}
    one, other = (slurm_job(environ | {"SLURM_ARRAY_TASK_ID": str(i), "SLURM_RESTART_COUNT": str(i)}) for i in (1, 2))
    assert not goes_on(other, one)
    assert goes_on(one | {"restarts": 2}, one)
    assert not goes_on(one, None)
    assert slurm_job({}) is None
