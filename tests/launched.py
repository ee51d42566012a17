"""Ranks as real launchers start them, without the imports: each is `rank.py`, which has its process forked here."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TextIO

from tests.forked import end, free_port, start

ROOT = Path(__file__).resolve().parents[1]
RANK = ROOT / "tests" / "rank.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@contextmanager
def serve_ranks(folder: Path) -> Iterator[dict[str, str]]:
    """Serve the ranks that are started meanwhile; yield the environment of their launcher.

    What a rank prints is in `rank0.log`, `rank1.log`, and so on, in the order of their starts.
    """
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as thread:
        server.settimeout(0.02)
        launcher_ended = threading.Event()
        serving = thread.submit(_serve, server, launcher_ended, folder)
        outside = {name: value for name, value in os.environ.items() if name not in ("WORLD_SIZE", "LOCAL_RANK")}
        port = server.getsockname()[1]
        try:
            yield outside | {"PYTHONPATH": str(ROOT), "MVDIFF_TEST_RANKS": str(port)}
        finally:
            launcher_ended.set()
        serving.result()


def torchrun(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """Run `mvdiff` on two processes that torchrun starts."""
    command = [*TORCHRUN, "--nproc_per_node=2", f"--master_port={free_port()}", str(RANK), *words]
    with serve_ranks(folder) as environ:
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300, check=False)


def said(folder: Path) -> str:
    """Return what all ranks have printed."""
    return "".join(path.read_text() for path in sorted(folder.glob("rank*.log")))


def _serve(server: socket.socket, launcher_ended: threading.Event, folder: Path) -> None:
    running: dict[BaseProcess, TextIO] = {}
    started = 0
    while not launcher_ended.is_set():
        try:
            lines = server.accept()[0].makefile("rw")
        except TimeoutError:
            pass
        else:
            words, where, environ = json.loads(lines.readline())
            process = start(folder / f"rank{started}.log", _program, words, where, **environ)
            print(process.pid, file=lines, flush=True)
            running[process] = lines
            started += 1
        for process in [process for process in running if process.exitcode is not None]:
            print(process.exitcode, file=running.pop(process), flush=True)
    for status, lines in zip(end(*running), running.values(), strict=True):
        print(status, file=lines, flush=True)


def _program(words: Sequence[str], folder: str) -> None:
    from mvdiff.cli.main import main

    os.chdir(folder)
    sys.argv = list(words)  # which Lightning's launcher starts again
    sys.exit(main(words[1:]))
