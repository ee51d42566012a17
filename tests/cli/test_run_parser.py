"""Values of nested options reach the settings as they were written."""

import json

import pytest

from mvdiff.cli.train import MVDiffCLI
from mvdiff.recipes.benchmarks.ablation_runs import AblationRuns
from mvdiff.recipes.benchmarks.ablation_settings import VARIANTS, AblationScale
from mvdiff.settings import AdapterSettings

ATTENTION = "--model.adapter.attention"
CLASS = "mvdiff.models.attention.CorrespondenceAwareAttention"


class Parsed(MVDiffCLI):
    """The command line without models and data."""

    def instantiate_classes(self):
        pass

    def _run_subcommand(self, subcommand):
        pass


def settings_of(*words):
    """Return the settings of a run on a small config."""
    config = Parsed(["fit", "--config", "toy/pano.yaml", "--data.root", "anywhere", *words]).config["fit"]
    return config["model"]["init_args"], config["data"]["init_args"]


def attention_of(*words):
    """Return the attention of a run, as its adapter gets it."""
    return AdapterSettings(attention=settings_of(*words)[0]["adapter"]["attention"]).attention


@pytest.mark.parametrize("null", ["null", "~", "None"])
def test_null_below_a_mapping_is_null(null):
    assert attention_of(f"{ATTENTION}.init_args.wavelengths={null}")["init_args"]["wavelengths"] is None


def test_a_mapping_on_the_command_line_keeps_its_values():
    values = {"a": None, "b": [None, True, 1e-5], "c": "both ' and \"", "d": "C:\\new\n", "e": "None", "f": {"g": None}}
    attention = attention_of(ATTENTION, json.dumps({"class_path": CLASS, "init_args": values}))
    assert attention == {"class_path": CLASS, "init_args": values}


def test_lists_and_mappings_of_data_and_output_keep_null():
    source = {"class_path": "mvdiff.data.matterport3d.Matterport3DPanoramas", "init_args": {"root": "r", "skip": None}}
    metrics = [{"class_path": "my.Metric", "init_args": {"level": None}}]
    model, data = settings_of(f"--data.source={json.dumps(source)}", f"--model.output.metrics={json.dumps(metrics)}")
    assert data["source"] == source
    assert model["output"]["metrics"] == metrics


def test_yaml_text_is_read_as_before():
    lists = attention_of(f"{ATTENTION}.init_args.neighbours", "[[1], [0, 2], []]")["init_args"]
    assert lists["neighbours"] == [[1], [0, 2], []]
    mixed = attention_of(ATTENTION, "{init_args: {a: yes, b: 'null', c: [x, null]}}")["init_args"]
    assert mixed == {"a": True, "b": "null", "c": ["x", None]}


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_each_attention_of_the_ablations_reaches_its_training(variant, tmp_path):
    runs = AblationRuns(tmp_path, AblationScale(), run_trainer=None)
    _, *words = runs.fit_arguments(runs.run_of(variant, 1), resumes=False)
    config = Parsed(["fit", *words]).config["fit"]["model"]["init_args"]
    assert AdapterSettings(attention=config["adapter"]["attention"]).attention == variant.attention
