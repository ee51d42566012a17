"""Precisions that would round cameras and depths are refused before anything is built; the remedy trains."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import HalfPrecision

from mvdiff.cli.main import main
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.single_view import SingleViewModule
from tests.training.test_families import config_of, weights
from tests.training.tiny_run import tiny_config, write_config

PRECISIONS = ("bf16-true", "16-true")
MODULES = {
    "multi-view": lambda base, out: MultiViewModule(base=base),
    "single-view": lambda base, out: SingleViewModule(base=base, out=out),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("precisions")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("loop", ["fit", "validate", "predict"])
def test_every_loop_of_every_module_refuses_it(folder, tmp_path, kind, precision, loop):
    tiny_config(folder)
    module = MODULES[kind](str(folder / "base"), str(tmp_path / "out"))
    own = {"plugins": [HalfPrecision(precision)]} if loop == "validate" else {"precision": precision}
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path, **own)
    with pytest.raises(ValueError, match=f"trainer.precision must .* got {precision}.*bf16-mixed"):
        getattr(trainer, loop)(module, [])


@pytest.mark.parametrize("name", ["sdxl", "sana"])
def test_the_command_names_what_to_set_instead_and_that_trains(folder, tmp_path, capsys, name):
    out = tmp_path / "out"
    run = write_config(tmp_path / "run.yaml", config_of(folder, name, out, base_dtype="bfloat16"))
    assert main(["fit", "--config", str(run), "--trainer.precision", "bf16-true"]) == 1
    assert "got bf16-true" in (error := capsys.readouterr().err)
    assert "model.base_dtype: bfloat16" in error
    assert "Traceback" not in error
    assert main(["fit", "--config", str(run), "--trainer.precision", "bf16-mixed"]) == 0
    assert {value.dtype for value in weights(out / "step=2.ckpt").values()} == {torch.float32}
