"""Runs that start together get folders of their own; a folder that is in use is refused."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from mvdiff.training.own_folders import own_folders
from tests.training.one_weight import quiet_trainer


def trainer(folder, *loggers, **settings):
    return quiet_trainer(folder, logger=[logger(folder, name="pano") for logger in loggers] or False, **settings)


@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_runs_that_start_together_have_versions_of_their_own(tmp_path, logger):
    def claim(run):
        with own_folders(run, locks=False):
            return run.logger.version

    with ThreadPoolExecutor(6) as pool:
        versions = list(pool.map(claim, [trainer(tmp_path, logger) for _ in range(6)]))
    assert sorted(versions) == [0, 1, 2, 3, 4, 5]
    assert len(list((tmp_path / "pano").iterdir())) == 6


def test_loggers_of_one_run_share_its_version(tmp_path):
    (tmp_path / "pano" / "version_4").mkdir(parents=True)
    run = trainer(tmp_path, CSVLogger, TensorBoardLogger)
    with own_folders(run, locks=True):
        assert [logger.version for logger in run.loggers] == [5, 5]


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and locks")
def test_a_folder_in_use_is_refused_until_the_other_run_ends(tmp_path):
    inside, release = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # a run in another process
        with own_folders(trainer(tmp_path), locks=True):
            os.write(inside[1], b"x")
            os.read(release[0], 1)
        os._exit(0)
    os.read(inside[0], 1)
    for other in (trainer(tmp_path), trainer(tmp_path / "b", callbacks=[ModelCheckpoint(tmp_path)])):
        text = rf"{tmp_path} must not be the folder of a run that is still going on"
        with pytest.raises(ValueError, match=text), own_folders(other, locks=True):
            pass
        with own_folders(other, locks=False):  # scoring writes no checkpoints
            pass
    os.write(release[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    with own_folders(trainer(tmp_path), locks=True):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_trial_claims_nothing(tmp_path):
    with own_folders(trainer(tmp_path, CSVLogger, fast_dev_run=True), locks=True):
        pass
    assert list(tmp_path.iterdir()) == []
