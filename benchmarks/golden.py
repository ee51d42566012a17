"""Prove that a redesign changes no number: run commit 874fe59 and the present tree, and compare.

    python benchmarks/golden.py                    # every section but the quickstarts
    python benchmarks/golden.py --only depth mesh  # these, and the sections whose files they read

Both trees run on this machine, with the same interpreter and threads, driven by the command line, YAML files and the
pipelines' public calls alone (`golden_sections/`). Tensors are compared bit for bit, numbers to 1e-9 of their size. A
line is printed for each section; the exit status is 1 where anything differs. Names that a tree spells differently are
in `golden_sections/spelling.py`.

The base commit is checked out into a git worktree, which is removed afterwards. Its results are kept in the work folder
under a hash of the commit, processor, threads, libraries and section code, so only the first run pays for them. Editing
the spelling of another tree keeps them.
"""

import argparse
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch
from golden_sections import SECTIONS
from golden_sections.run import section_folder
from golden_sections.spelling import BASE
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
BASE_COMMIT = "874fe59"
TOLERANCE = 1e-9  # of a number's size
SMALL = 1e-3  # numbers below this are compared as if they were as large
LIBRARIES = ("torch", "torchvision", "diffusers", "transformers", "lightning", "numpy", "pillow", "scikit-image")
SHOWN_LINES = 12  # of the error of a section that failed


@dataclass(frozen=True)
class Tree:
    """A tree to run, and the folder where its files and results go."""

    root: Path
    work: Path

    def outcome(self, section: str) -> Path:
        """Return the file that says how a section went: its seconds, and its error if it failed."""
        return self.work / "results" / f"{section}.outcome.json"


def run_sections(tree: Tree, names: Iterable[str], threads: int, jobs: int) -> None:
    """Run sections that have no outcome yet, each in a process of its own, after those that it needs."""
    order = TopologicalSorter({name: SECTIONS[name].needs for name in names})
    order.prepare()
    running = {}
    with ThreadPoolExecutor(jobs) as pool:
        while order.is_active():
            for name in order.get_ready():
                running[pool.submit(run_section, tree, name, threads)] = name
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                order.done(running.pop(future))


def run_section(tree: Tree, name: str, threads: int) -> None:
    """Run a section unless it ran before; a failure is an outcome, too."""
    if tree.outcome(name).exists():
        return
    shutil.rmtree(section_folder(tree.work, name), ignore_errors=True)  # of a run that was stopped, or failed
    start = time.monotonic()
    command = [sys.executable, "-m", "golden_sections", name, "--tree", tree.root, "--work", tree.work]
    with tempfile.TemporaryFile("w+") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=tree.work, env=environment(tree, threads), **streams)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        error = "\n".join(output.read().strip().splitlines()[-SHOWN_LINES:]) if process.returncode else None
    seconds = {"wall": time.monotonic() - start, "cpu": usage.ru_utime + usage.ru_stime}
    tree.outcome(name).write_text(json.dumps({**seconds, "error": error}))


def environment(tree: Tree, threads: int) -> dict[str, str]:
    """Return the environment of a section: its tree first, fixed threads, no network, no GPU."""
    fixed = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    fixed |= {
        "PYTHONPATH": f"{tree.root}{os.pathsep}{HERE}",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "200",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "MVDIFF_DEBUG": "1",
    }
    return os.environ | fixed


def compare(name: str, base: Tree, present: Tree) -> tuple[str, bool]:
    """Return the line of a section, and whether both trees agree."""
    outcomes = [json.loads(tree.outcome(name).read_text()) for tree in (base, present)]
    wall, cpu = ([outcome[clock] for outcome in outcomes] for clock in ("wall", "cpu"))
    seconds = f"{wall[1]:.0f} s, base {wall[0]:.0f} s; CPU {cpu[1]:.0f} s, base {cpu[0]:.0f} s"
    failed = [
        f"{which} failed\n{outcome['error']}"
        for which, outcome in zip(("the base", "this tree"), outcomes, strict=True)
        if outcome["error"]
    ]
    if failed:
        return f"{name:<21} DIFFERENT  {seconds}: " + "\n".join(failed), False
    expected, actual = (results(tree, name) for tree in (base, present))
    differences = [text for key in expected.keys() | actual.keys() if (text := difference(key, expected, actual))]
    counts = [sum(isinstance(value, Tensor) is kind for value in expected.values()) for kind in (True, False)]
    compared = f"{counts[0]:>3} tensors, {counts[1]:>4} numbers"
    if not differences:
        return f"{name:<21} equal      {compared}  ({seconds})", True
    shown = "".join(f"\n    {text}" for text in sorted(differences)[:SHOWN_LINES])
    return f"{name:<21} DIFFERENT  {compared}  ({seconds}); {len(differences)} differ, first:{shown}", False


def results(tree: Tree, name: str) -> dict[str, Any]:
    """Return the tensors and numbers of a section."""
    folder = tree.work / "results"
    return load_file(folder / f"{name}.safetensors") | json.loads((folder / f"{name}.json").read_text())


def difference(key: str, expected: dict[str, Any], actual: dict[str, Any]) -> str | None:
    """Describe how a key differs; None where it does not."""
    if key not in expected or key not in actual:
        return f"{key}: only in {'the base' if key in expected else 'this tree'}"
    a, b = expected[key], actual[key]
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return f"{key}: {a.dtype} {list(a.shape)} in the base, {b.dtype} {list(b.shape)} here"
        if torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8)):
            return None
        return f"{key}: max abs difference {(a.double() - b.double()).abs().max():.3g}"
    if isinstance(a, float | int) and isinstance(b, float | int):
        if a == b or (a != a and b != b) or abs(a - b) <= TOLERANCE * max(abs(a), SMALL):
            return None
        return f"{key}: {a!r} in the base, {b!r} here (difference {abs(a - b):.3g})"
    return None if a == b else f"{key}: {a!r} in the base, {b!r} here"


def with_needs(names: Iterable[str]) -> list[str]:
    """Return sections and those that they need, in the order of `SECTIONS`."""
    wanted = set(names)
    while more := {need for name in wanted for need in SECTIONS[name].needs} - wanted:
        wanted |= more
    return [name for name in SECTIONS if name in wanted]


def base_key(commit: str, threads: int) -> str:
    """Hash what the results of the base depend on."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    files = sorted(path for path in (HERE / "golden_sections").glob("*.py") if path.name != "spelling.py")
    code = [path.read_text() for path in files]
    parts = [commit, processor(), threads, sys.version, versions, code, BASE]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def processor() -> str:
    """Return the name and features of the processor, which choose the kernels of torch."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor()
    lines = {line for line in info.read_text().splitlines() if line.startswith(("model name", "flags"))}
    return "\n".join(sorted(lines))


@contextmanager
def worktree(repository: Path, commit: str, folder: Path) -> Iterator[Path]:
    """Check a commit out into a git worktree that is removed afterwards."""
    git = ("git", "-C", str(repository), "worktree")
    subprocess.run([*git, "add", "--quiet", "--force", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def prepare_base(args: argparse.Namespace, names: list[str]) -> Tree:
    """Run the sections of the base that no earlier run of this machine left behind."""
    git = ["git", "-C", str(args.tree), "rev-parse", f"{args.base}^{{commit}}"]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    work = args.work / f"base-{commit[:7]}-{base_key(commit, args.threads)}"
    (work / "results").mkdir(parents=True, exist_ok=True)
    base = Tree(work / "tree", work)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another golden.py may be making the same results
        for name in names:
            if base.outcome(name).exists() and json.loads(base.outcome(name).read_text())["error"]:
                base.outcome(name).unlink()
        missing = [name for name in names if not base.outcome(name).exists()]
        if missing:
            print(f"running {', '.join(missing)} of {commit[:7]}", flush=True)
            shutil.rmtree(base.root, ignore_errors=True)
            with worktree(args.tree, commit, base.root):
                run_sections(base, names, args.threads, args.jobs)
        for name in set(SECTIONS) - {need for section in SECTIONS.values() for need in section.needs}:
            shutil.rmtree(section_folder(work, name), ignore_errors=True)  # no other section reads these files
    return base


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare this tree with an earlier commit, number by number.")
    add = parser.add_argument
    add("--base", default=BASE_COMMIT, help="commit to compare with (default: %(default)s)")
    add("--tree", type=Path, default=HERE.parent, help="root of the tree to compare (default: the one of this file)")
    add("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    add("--slow", action="store_true", help="run the quickstarts, too")
    add("--threads", type=int, default=1, help="threads of a process (default: %(default)s)")
    add("--jobs", type=int, default=2, help="sections at once (default: %(default)s)")
    add("--work", type=Path, default=Path(tempfile.gettempdir()) / "mvdiff-golden", help="(default: %(default)s)")
    add("--keep", action="store_true", help="keep the files of this tree")
    args = parser.parse_args()
    args.tree, args.work = args.tree.resolve(), args.work.resolve()
    names = with_needs(args.only or [name for name in SECTIONS if args.slow or not SECTIONS[name].slow])
    base = prepare_base(args, names)
    start = time.monotonic()
    present = Tree(args.tree, Path(tempfile.mkdtemp(prefix="present-", dir=args.work)))
    (present.work / "results").mkdir()
    try:
        run_sections(present, names, args.threads, args.jobs)
        compared = [compare(name, base, present) for name in names]
    finally:
        if args.keep:
            print(f"files of this tree: {present.work}")
        else:
            shutil.rmtree(present.work)
    for line, _ in compared:
        print(line)
    differ = sum(not equal for _, equal in compared)
    print(f"{len(names)} sections, {differ} different; this tree took {time.monotonic() - start:.0f} s")
    return int(differ > 0)


if __name__ == "__main__":
    raise SystemExit(main())
