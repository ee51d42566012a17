"""Runs of several families in processes of their own, each of which starts once for all of them.

python -m tests.training.family_runs kill CONFIG...  # fit each, and kill it as `kill -9` does after its first step
python -m tests.training.family_runs predict FLAGS... -- CONFIG:CHECKPOINT:OUT...
"""

import os
import signal
import sys
from importlib import import_module

from mvdiff.cli.main import main
from tests.training.kill_at import kill_at

NEEDED = ("mvdiff.cli.train", "mvdiff.training.multi_view", "mvdiff.data.datamodule", "mvdiff.training.callbacks")


def killed(config: str) -> bool:
    """Fit in a forked process; return True if it was killed."""
    child = os.fork()
    if not child:
        kill_at(1)
        os._exit(main(["fit", "--config", config]))
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def predict(flags: list[str], run: str) -> int:
    """Write the samples of the test split with a checkpoint."""
    config, checkpoint, out = run.split(":")
    return main(["predict", "--config", config, "--ckpt_path", checkpoint, "--model.output.dir", out, *flags])


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    for name in NEEDED:  # once for all that are forked
        import_module(name)
    if kind == "kill":
        sys.exit(not all([killed(config) for config in arguments]))
    end = arguments.index("--")
    sys.exit(any([predict(arguments[:end], run) for run in arguments[end + 1 :]]))
