"""A stand-in for SLURM on one machine: sbatch reads a script's options, srun starts its tasks, scontrol requeues.

Variables are those that sbatch(1) and srun(1) name. Nodes are all this machine. A task says by a file what happens to
the job, once in the job's life. At `time-is-up` srun sends the signal of `--signal` to every task; at `preempted` it
sends SIGTERM, as SLURM does with PreemptMode=REQUEUE; at `node-lost` the task itself is killed. After these two SLURM
puts the job back, at the first `scontrol requeue` must. It is then started with a higher SLURM_RESTART_COUNT.
`mvdiff` is a rank of `tests.launched`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

JOB_ID = "4711"
RANK = Path(__file__).parents[1] / "rank.py"


def read_options(script: Path, *overrides: str) -> dict[str, str]:
    """Return sbatch's options by name: the script's up to its first command, then those before its name."""
    lines = iter(script.read_text().splitlines()[1:])
    options = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            break
        options += re.findall(r"^#SBATCH (--\S+)", line)
    return dict(one.removeprefix("--").partition("=")[::2] for one in [*options, *overrides])


def sbatch(folder: Path, script: Path, *arguments: str, overrides=(), only_note: bool = False, **environ: str):
    """Run a job until it is not requeued; return the exit status of each start. Its log is `log` in `folder`."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    for name, program in {"srun": f'"{__file__}" srun', "scontrol": f'"{__file__}" scontrol', "mvdiff": RANK}.items():
        (bin_folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {program} "$@"\n')
        (bin_folder / name).chmod(0o755)
    options = read_options(script, *overrides)
    path = os.pathsep.join([str(bin_folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = os.environ | environ | {"PATH": path, "SMALL_SLURM": str(folder)}
    job |= {"SMALL_SLURM_SIGNAL": options["signal"].partition("@")[0], "SMALL_SLURM_ONLY_NOTE": "1" * only_note}
    job |= {"SLURM_JOB_ID": JOB_ID, "SLURM_JOB_NAME": options["job-name"], "SLURM_SUBMIT_DIR": str(folder)}
    job |= {name: options["nodes"] for name in ("SLURM_JOB_NUM_NODES", "SLURM_NNODES")}
    job |= {"SLURM_NTASKS_PER_NODE": options["ntasks-per-node"], "SLURM_CPUS_PER_TASK": options["cpus-per-task"]}
    statuses, restarts = [], 0
    while len(statuses) == restarts:
        job |= {"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}
        with (folder / "log").open("a" if options["open-mode"] == "append" else "w") as log:
            done = subprocess.run(
                ["bash", script, *arguments], cwd=folder, env=job, stdout=log, stderr=log, check=False
            )
        statuses.append(done.returncode)
        restarts = len(noted(folder, "scontrol")) + sum((folder / name).exists() for name in ("preempted", "node-lost"))
    return statuses


def noted(folder: Path, name: str) -> list:
    """Return what a program of the stand-in was called with, call by call."""
    path = folder / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def note(name: str, what: object) -> None:
    with (Path(os.environ["SMALL_SLURM"]) / name).open("a") as file:
        file.write(json.dumps(what) + "\n")


def srun(*words: str) -> int:
    """Start the tasks of a step; return the highest of their exit statuses (that of a signal as a shell has it)."""
    count = next(i for i, word in enumerate(words) if not word.startswith("-"))
    names = ("SRUN_CPUS_PER_TASK", "HF_HUB_OFFLINE")
    note("srun", {"options": words[:count], "command": words[count:], **{n: os.environ.get(n) for n in names}})
    if os.environ["SMALL_SLURM_ONLY_NOTE"]:
        return 0
    nodes, each = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
    tasks = []
    for rank in range(nodes * each):
        task = {"NTASKS": nodes * each, "PROCID": rank, "LOCALID": rank % each, "NODEID": rank // each}
        environ = os.environ | {f"SLURM_{name}": str(value) for name, value in task.items()}
        tasks.append(subprocess.Popen(words[count:], env=environ))
    folder = Path(os.environ["SMALL_SLURM"])
    signals = {"time-is-up": signal.Signals[f"SIG{os.environ['SMALL_SLURM_SIGNAL']}"], "preempted": signal.SIGTERM}
    left = [name for name in signals if not (folder / name).exists()]
    while any(task.poll() is None for task in tasks):
        time.sleep(0.02)
        for name in [name for name in left if (folder / name).exists()]:
            left.remove(name)
            for task in tasks:
                task.send_signal(signals[name])
    return max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks)


def scontrol(*words: str) -> int:
    """Note a job that goes back into the queue."""
    note("scontrol", words)
    return 0


if __name__ == "__main__":
    sys.exit({"srun": srun, "scontrol": scontrol}[sys.argv[1]](*sys.argv[2:]))
