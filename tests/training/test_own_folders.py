"""Runs that start together get folders of their own; a folder that is in use is refused."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from mvdiff.training.own_folders import own_folders
from tests.training.loggers import ServerLogger
from tests.training.one_weight import OneWeight, numbers, quiet_trainer


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


@pytest.mark.parametrize("kind", ["file", "broken link"])
@pytest.mark.parametrize("logger", [CSVLogger, TensorBoardLogger])
def test_a_file_named_like_a_version_takes_up_its_number(tmp_path, logger, kind):
    (tmp_path / "pano").mkdir()
    taken = tmp_path / "pano" / "version_0"
    taken.touch() if kind == "file" else taken.symlink_to(tmp_path / "nowhere")
    run = trainer(tmp_path, logger)
    with own_folders(run, locks=False):
        assert run.logger.version == 1
    assert (tmp_path / "pano" / "version_1").is_dir()


def in_folder(folder, kind):
    """A run with a fixed folder: of a logger of files, of a server, without a logger, or of its checkpoints."""
    root = folder.parent
    if kind == "checkpoints":
        return trainer(root / "other", callbacks=[ModelCheckpoint(folder)])
    if kind == "server":
        return quiet_trainer(root, logger=ServerLogger(root, project="", id=folder.name))
    return quiet_trainer(root, logger=CSVLogger(root, name="", version=folder.name))


def start(run):
    """Come to the place where the folder of a run is known."""
    for callback in run.callbacks:
        callback.setup(run, OneWeight(), "fit")


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and locks")
@pytest.mark.parametrize("kind", ["csv", "server"])
def test_a_folder_in_use_is_refused_until_the_other_run_ends(tmp_path, kind):
    inside, release, folder = os.pipe(), os.pipe(), tmp_path / "mine"
    child = os.fork()
    if child == 0:  # a run in another process
        try:
            with own_folders(run := in_folder(folder, kind), locks=True):
                start(run)
                os.write(inside[1], b"x")
                os.read(release[0], 1)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(inside[1])
    assert os.read(inside[0], 1) == b"x"
    try:
        text = rf"{folder} must not be the folder of a run that is still going on"
        for other in (in_folder(folder, kind), in_folder(folder, "checkpoints")):
            with pytest.raises(ValueError, match=text), own_folders(other, locks=True):
                other.fit(OneWeight(), numbers(2))
            with own_folders(scoring := in_folder(folder, kind), locks=False):  # it writes no checkpoints
                start(scoring)
    finally:
        os.write(release[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    with own_folders(run := in_folder(folder, kind), locks=True):
        start(run)
    assert (folder / ".run.lock").is_file()  # removing it would part the locks of the next two runs


def test_a_trial_claims_nothing(tmp_path):
    with own_folders(trainer(tmp_path, CSVLogger, fast_dev_run=True), locks=True):
        pass
    assert list(tmp_path.iterdir()) == []
