"""A training names the first caption that the text encoder cuts, and counts them all after the first epoch."""

import json
import warnings

import pytest
from lightning.pytorch import Trainer

from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.geometry.cameras import RingRig
from mvdiff.text_context import TextContext
from mvdiff.training.captions import CaptionCounter
from tests.data.folders import write_equirectangular
from tests.tiny import tiny_tokenizer
from tests.training.test_multi_view import make

LONG = " ".join("a" * 80)


def test_captions_are_counted_once():
    counter = CaptionCounter(TextContext.of_tokenizer(tiny_tokenizer()), "a ")
    counter.add(["a ball", "", "a ball"])
    with pytest.warns(UserWarning, match="1 of 2 captions has more tokens than the 77"):
        counter.add([f"{LONG} b", "a chair"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counter.add([f"{LONG} c"])  # only the first is named at once
    cut, empty = counter.report()
    assert cut.startswith("2 of 5 captions have more tokens than the 77")
    assert "(84 tokens, " in cut  # with the prefix
    assert cut.endswith("2 different captions become equal")
    assert empty == "1 of 5 captions are empty"
    assert counter.report() == []


def test_a_training_reports_after_its_first_epoch(tiny_folder, tmp_path):
    root = write_equirectangular(tmp_path / "data")
    for number in (0, 1):
        (root / f"place{number}.json").write_text(json.dumps({"prompt": f"{LONG} {number}"}))
    rig = RingRig(num_views=2, fov_deg=150.0, height=16, width=16)
    module, data = make(tiny_folder), EquirectangularDataModule(root, rig=rig, num_val=1, num_workers=0, batch_size=2)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=2, accelerator="cpu", limit_val_batches=0, default_root_dir=tmp_path, **quiet)
    with pytest.warns(UserWarning, match="captions ha") as told:
        trainer.fit(module, data)
    found = [str(one.message) for one in told if "captions ha" in str(one.message)]
    assert len(found) == 2
    assert found[0].endswith("All captions are counted at the end of the first epoch.")
    assert "2 of 5 captions have more" in found[1] or "2 of 4 captions have more" in found[1]
