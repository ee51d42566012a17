"""configs/slurm/fit.sbatch under a stand-in for SLURM: the command, its variables, requeue at a signal, resume."""

import subprocess
import sys

import pytest

from mvdiff.run_files import configs_folder
from tests.training.one_weight import OneWeight, quiet_trainer
from tests.training.signalled import NumbersData, weight_of, yaml_config
from tests.training.small_slurm import JOB_ID, noted, read_options, sbatch
from tests.training.test_stopping_ranks import ROOT
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


def until_signal(folder, **how):
    """Write a run of two epochs of three steps, whose step `at` takes until a signal comes, or is its last one."""
    config = yaml_config(folder / "run") | {"seed_everything": 0}
    del config["trainer"]["devices"]  # the script says it
    model = {"folder": str(folder)} | how
    config["model"] = {"class_path": "tests.training.until_signal.UntilSignal", "init_args": model}
    return write_config(folder / "run.yaml", config)


@pytest.mark.distributed
@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1])  # 2 passes, too, in twice the time
def test_a_job_whose_time_is_up_is_requeued_and_resumes(tmp_path, ranks):
    path = until_signal(tmp_path, at=1)
    overrides = ["--nodes=1", f"--ntasks-per-node={ranks}"]
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    statuses = sbatch(tmp_path, SCRIPT, "--config", str(path), overrides=overrides, **environ)
    log = (tmp_path / "log").read_text()
    assert statuses == [138, 0], log
    assert noted(tmp_path, "scontrol") == [["requeue", JOB_ID]]
    saved = tmp_path / "run" / "hpc_ckpt_1.ckpt"
    text = f"stopped by SIGUSR1 after step 2, which is saved in {saved}; the job is requeued and resumes from it"
    assert log.count(text) == 1
    steps = [line.split() for line in (tmp_path / "steps").read_text().splitlines()]
    for rank in range(ranks):
        own = [(restart, step) for restart, r, step in steps if int(r) == rank]
        assert own == [("0", "0"), ("0", "1"), ("1", "2"), ("1", "3"), ("1", "4"), ("1", "5")]
    assert weight_of(tmp_path / "run" / "checkpoints" / "last.ckpt") == whole_weight(tmp_path)


def whole_weight(folder):
    """Return the weight of the run without a stop."""
    module = OneWeight()
    quiet_trainer(folder / "whole", max_epochs=2).fit(module, datamodule=NumbersData())
    return module.weight


@pytest.mark.distributed
@pytest.mark.slow
def test_a_job_that_loses_its_node_goes_on_from_its_newest_checkpoint(tmp_path):
    """kill -9 in the fifth step; SLURM itself puts such a job back. The steps after the checkpoint are repeated."""
    path = until_signal(tmp_path, at=4, node_lost=True)
    environ = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    overrides = ["--nodes=1", "--ntasks-per-node=1"]
    statuses = sbatch(tmp_path, SCRIPT, "--config", str(path), overrides=overrides, **environ)
    assert statuses == [137, 0], (tmp_path / "log").read_text()
    steps = [line.split() for line in (tmp_path / "steps").read_text().splitlines()]
    assert [int(step) for restart, _, step in steps if restart == "0"] == [0, 1, 2, 3, 4]
    assert [int(step) for restart, _, step in steps if restart == "1"] == [3, 4, 5]
    assert weight_of(tmp_path / "run" / "checkpoints" / "last.ckpt") == whole_weight(tmp_path)
