"""Processes of their own that start at once: forked from a server that has imported the package.

A fresh Python takes most of its time to import; a process of this server is as separate from the test and from its ranks,
dies, exits and takes signals as a fresh one. Not for what a fresh start is part of: launchers of others, and the wheel.
"""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])
TWO_RANKS = ("--trainer.devices=2", "--trainer.strategy=ddp")
KILLED = -signal.SIGKILL


def rank_variables(count: int) -> list[dict[str, str]]:
    """Environments of the ranks of a job on this machine, as torch and Lightning read them; of one rank: nothing."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    return [job | {"NODE_RANK": "0", "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start(log: Path, function: Callable, *arguments, **environ: str) -> BaseProcess:
    """Start a function of a module in a process whose output goes into a file."""
    process = SERVER.Process(target=_run, args=(log, environ, function, arguments))
    process.start()
    return process


def end(*processes: BaseProcess) -> list[int]:
    """Wait for processes; return their exit statuses, that of a signal as minus its number."""
    try:
        for process in processes:
            process.join(300)
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()


def run(log: Path, function: Callable, *arguments, ranks: int = 1) -> list[int]:
    """Run a function in each rank of a job; return exit statuses. The output of rank r is in the file LOG.r."""
    processes = [
        start(log.with_name(f"{log.name}.{rank}"), function, *arguments, **environ)
        for rank, environ in enumerate(rank_variables(ranks))
    ]
    return end(*processes)


def command(words: Sequence[str], killed_at: int | None = None) -> None:
    """Run `mvdiff`, and end with its status; kill it at the first batch after some optimizer steps, as `kill -9` does."""
    from mvdiff.cli.main import main
    from tests.training.kill_at import kill_at

    if killed_at is not None:
        kill_at(killed_at)
    sys.argv = ["mvdiff", *words]
    sys.exit(main(words))


def run_command(log: Path, *words: str, ranks: int = 1, killed_at: int | None = None, status: int = 0) -> str:
    """Run `mvdiff` in one process or as each rank of a job; check how it ends and return what all of them printed."""
    flags = TWO_RANKS if ranks == 2 else ()
    statuses = run(log, command, [*words, *flags], killed_at, ranks=ranks)
    said = "".join(log.with_name(f"{log.name}.{rank}").read_text() for rank in range(ranks))
    assert statuses == [status] * ranks, said[-6000:]
    return said


def _run(log: Path, environ: dict[str, str], function: Callable, arguments: tuple) -> None:
    with open(log, "wb", buffering=0) as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.environ |= environ
    multiprocessing.set_start_method("fork", force=True)  # of loaders, whose workers then end with this process
    function(*arguments)
