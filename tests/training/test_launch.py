import pytest

from mvdiff.training.launch import check_world_size, launcher_settings, with_launcher_settings

TORCHRUN = {"WORLD_SIZE": "6", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "3", "LOCAL_RANK": "1"}
FABRIC = {
    **TORCHRUN,
    "LT_CLI_USED": "1",
    "LT_ACCELERATOR": "cpu",
    "LT_STRATEGY": "ddp",
    "LT_DEVICES": "2",
    "LT_NUM_NODES": "3",
    "LT_PRECISION": "bf16-mixed",
}


def test_torchrun_gives_devices_and_nodes():
    assert launcher_settings(TORCHRUN) == {"devices": "2", "num_nodes": "3"}


def test_fabric_run_gives_all_it_was_told():
    expected = {"accelerator": "cpu", "strategy": "ddp", "precision": "bf16-mixed", "devices": "2", "num_nodes": "3"}
    assert launcher_settings(FABRIC) == expected


def test_fabric_run_names_which_devices():
    assert launcher_settings(FABRIC | {"LT_DEVICES": "2,3"})["devices"] == "2,3"
    assert launcher_settings(FABRIC | {"LT_DEVICES": "auto"})["devices"] == "2"


def test_processes_started_by_lightning_itself_are_left_alone():
    assert launcher_settings({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}) == {}


def test_explicit_flags_win_and_yaml_does_not():
    arguments = ["fit", "--trainer.devices=1", "--config", "run.yaml", "--trainer.precision", "32"]
    added = with_launcher_settings(arguments, FABRIC)[len(arguments) :]
    assert added == ["--trainer.accelerator=cpu", "--trainer.strategy=ddp", "--trainer.num_nodes=3"]


def test_guard():
    check_world_size(6, TORCHRUN)
    check_world_size(4, {})
    with pytest.raises(ValueError, match=r"number of launched processes, 6 \(WORLD_SIZE\); got 1"):
        check_world_size(1, TORCHRUN)
