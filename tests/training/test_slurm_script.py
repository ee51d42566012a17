"""configs/slurm/fit.sbatch under a stand-in for SLURM: the command, its variables, requeue at a signal, resume."""

import subprocess
import sys

import pytest

from mvdiff.run_files import configs_folder
from tests.launched import said, serve_ranks
from tests.training.one_weight import OneWeight, quiet_trainer
from tests.training.signalled import NumbersData, weight_of, yaml_config
from tests.training.small_slurm import JOB_ID, noted, read_options, sbatch
from tests.training.tiny_run import write_config

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="bash and signals of POSIX")
SCRIPT = configs_folder() / "slurm" / "fit.sbatch"


def test_the_script_is_bash_and_asks_for_a_gpu_per_process():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    options = read_options(SCRIPT)
    assert options["gres"] == f"gpu:{options['ntasks-per-node']}"
    assert options["signal"].startswith("USR1@")  # not B:USR1, which only the batch shell would get
    assert "requeue" in options


@pytest.mark.parametrize(
    ("overrides", "counts"), [((), ("1", "4")), (["--nodes=2", "--ntasks-per-node=8"], ("2", "8"))]
)
def test_the_counts_of_the_job_reach_fit(tmp_path, overrides, counts):
    words = ["--config", "a name.yaml", "--trainer.max_epochs", "3"]
    assert sbatch(tmp_path, SCRIPT, *words, overrides=overrides, only_note=True) == [0]
    (call,) = noted(tmp_path, "srun")
    fit = ["mvdiff", "fit", "--trainer.num_nodes", counts[0], "--trainer.devices", counts[1]]
    assert call["command"] == [*fit, *words]
    assert call["SRUN_CPUS_PER_TASK"] == read_options(SCRIPT)["cpus-per-task"]
    assert call["HF_HUB_OFFLINE"] == "1"


def until_signal(folder, events):
    """Write a run of three epochs of three steps, in some of which something happens to its job."""
    config = yaml_config(folder / "run") | {"seed_everything": 0}
    config["trainer"] |= {"max_epochs": 3}
    del config["trainer"]["devices"]  # the script says it
    model = {"folder": str(folder), "events": events}
    config["model"] = {"class_path": "tests.training.until_signal.UntilSignal", "init_args": model}
    return write_config(folder / "run.yaml", config)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_job_goes_on_when_its_time_is_up_when_it_is_preempted_and_when_it_loses_its_node(tmp_path):
    """The steps of a lost node since its newest checkpoint, of the epoch's end, are repeated; no others are."""
    path = until_signal(tmp_path, {1: "time-is-up", 3: "preempted", 7: "node-lost"})
    overrides = ["--nodes=1", "--ntasks-per-node=1"]
    with serve_ranks(tmp_path) as environ:
        statuses = sbatch(tmp_path, SCRIPT, "--config", str(path), overrides=overrides, **environ)
    log = (tmp_path / "log").read_text() + said(tmp_path)
    assert statuses == [138, 143, 137, 0], log
    assert noted(tmp_path, "scontrol") == [["requeue", JOB_ID]]  # SLURM itself does it at the other two
    saved = "stopped by {} after step {}, which is saved in " + str(tmp_path / "run" / "hpc_ckpt_{}.ckpt") + "; {}"
    assert log.count(saved.format("SIGUSR1", 2, 1, "the job is requeued and resumes from it")) == 1, log
    assert log.count(saved.format("SIGTERM", 4, 2, "if SLURM requeues the job it resumes from there")) == 1, log
    steps = [line.split() for line in (tmp_path / "steps").read_text().splitlines()]
    of_starts = [[int(step) for restart, step in steps if int(restart) == start] for start in range(4)]
    assert of_starts == [[0, 1], [2, 3], [4, 5, 6, 7], [6, 7, 8]]
    undisturbed = OneWeight()
    quiet_trainer(tmp_path / "undisturbed").fit(undisturbed, datamodule=NumbersData())
    assert weight_of(tmp_path / "run" / "checkpoints" / "last.ckpt") == undisturbed.weight
