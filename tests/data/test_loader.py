"""What a reader raises comes out of the loader as it is, with workers as without."""

import os
import signal
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from mvdiff.cli.mistakes import dead_worker, of_worker
from mvdiff.data.loader import BatchLoader, Reported, collate_or_report


class Refused(ValueError):
    """As errors of a user's reader may be: it cannot be made from its own text."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")


def read(key):
    """Return the key, or raise the error that it stands for."""
    if key == "text":
        b"\xff".decode()
    if key == "missing":
        Path("no/such/file.png").read_bytes()
    if key == "own":
        raise Refused("a.png", "too dark:\nblack")
    if key == "bug":
        raise KeyError("images")
    if key == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return key


def join(items):
    if "unequal" in items:
        raise ValueError("cannot batch samples of two sizes")
    return "".join(items)


class Collate:
    def __call__(self, items):
        return collate_or_report(join, items)


def loader(*keys, num_workers=0, batch_size=2):
    settings = {"batch_size": batch_size, "num_workers": num_workers, "collate_fn": Collate()}
    return BatchLoader(Reported(read), sampler=keys, **settings)


def error_of(batches):
    """Return what is raised, without its frames: they would keep the workers waiting until they are collected."""
    try:
        list(batches)
    except Exception as error:
        return error.with_traceback(None)
    pytest.fail("nothing was raised")


@pytest.mark.parametrize("key", ["text", "missing", "own", "unequal"])
def test_a_mistake_is_the_same_with_workers_as_without(key):
    errors = []
    for num_workers in (0, 2):
        batches = iter(loader("a", "b", "c", key, num_workers=num_workers))
        assert next(batches) == "ab"
        errors.append(error_of(batches))
        assert isinstance(errors[-1], ValueError | OSError)
    assert str(errors[0]) == str(errors[1])
    assert "Traceback" not in str(errors[1])
    assert "in read" in errors[1].__notes__[0] or key == "unequal"  # for --debug
    if key != "own":
        assert type(errors[0]) is type(errors[1])


def test_a_fault_of_the_program_keeps_its_traceback():
    error = error_of(loader("bug", num_workers=1))
    assert isinstance(error, KeyError)
    assert "Original Traceback" in str(error)


class Raising(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, key):
        raise Refused("a.png", "too dark:\nblack")


def test_the_text_of_another_loaders_worker_is_taken_out_of_its_traceback():
    error = error_of(DataLoader(Raising(), num_workers=1))
    assert isinstance(error, RuntimeError)  # torch cannot make a `Refused`
    assert of_worker(str(error)) == "a.png: too dark:\nblack"
    assert of_worker("plain: text") == "plain: text"


def test_a_worker_that_is_killed_is_one_sentence():
    error = error_of(loader("a", "b", "killed", "c", num_workers=1))
    assert isinstance(error, RuntimeError)
    text = dead_worker(error)  # torch notices either the signal or the missing process
    assert text.startswith(("a process that reads data was killed (Killed)", "a process that reads data ended unexp"))
    assert "Lower num_workers" in dead_worker(error)
    assert dead_worker(RuntimeError("DataLoader worker (pid(s) 3, 4) exited unexpectedly")) is not None
    assert dead_worker(RuntimeError("expected all tensors to be on one device")) is None
