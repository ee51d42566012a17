"""The ablations on a tiny base: equal parameters, a run that is stopped and goes on, and the tables."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mvdiff.cli.benchmark import COMMANDS
from mvdiff.cli.options import CommandParser
from mvdiff.cli.train import run_trainer
from mvdiff.eval.intervals import Interval
from mvdiff.eval.protocol_files import read_protocol
from mvdiff.models.adapter import MultiViewAdapter
from mvdiff.models.backbone import load_backbone
from mvdiff.recipes.benchmarks.ablation_numbers import SeedMean
from mvdiff.recipes.benchmarks.ablation_rows import KERNEL, ZNCC, AblationOutcome, AblationRow
from mvdiff.recipes.benchmarks.ablation_settings import BASE, VARIANTS, AblationScale, AblationSettings
from mvdiff.recipes.benchmarks.ablation_table import ablation_sentences, ablation_tables, ablation_values
from mvdiff.recipes.benchmarks.ablations import run_ablations
from mvdiff.recipes.benchmarks.makers import this_process
from mvdiff.recipes.scoring import CONTENT, PSNR
from mvdiff.training.trained_part import TrainedPartModule
from tests.tiny import tiny_base

PROTOCOL = """
title: two panoramas of two rooms
task: panorama
images: {num_samples: 2, num_reference_samples: 2, num_views: 4, height: 64, width: 64,
  rig: [[0, 0, 100], [90, 0, 100], [180, 0, 100], [270, 0, 100]]}
sampling: {seed: 0, num_inference_steps: 2, guidance_scale: 2, precision: float32}
metrics: [caption_agreement, overlap_psnr, overlap_zncc]
settings: {judge_heads: [object, colour], overlap_size: 0, overlap_pairs: adjacent, overlap_depth_error: 0.5, seed: 0,
  num_resamples: 100}
"""
STEPS, KILLED_AT = 3, 2
CHOSEN = ("caa-k3", "all-views")


def test_variants_have_equally_many_parameters_on_the_toy_base():
    unet = load_backbone("mvdiff://toy-base").unet
    counts = {
        variant.name: sum(one.numel() for one in MultiViewAdapter.from_unet(unet, variant.attention).parameters())
        for variant in VARIANTS
    }
    assert counts[BASE] > 1_000_000
    assert all(abs(count / counts[BASE] - 1) < 0.05 for count in counts.values()), counts


def test_the_issues_variants_are_there_with_their_settings():
    settings = {variant.name: variant.attention for variant in VARIANTS}
    assert settings["caa-k3"]["init_args"]["kernel_size"] == 3
    assert settings["caa-k1"] == settings["caa-k3"] | {"init_args": {"kernel_size": 1}}
    assert settings["caa-no-displacement"]["init_args"] == {"kernel_size": 3, "wavelengths": None}
    assert settings["release-2023"]["class_path"].endswith("UpstreamAttention")
    assert settings["all-views"]["class_path"].endswith("AllViewAttention")


def test_test_rooms_are_those_of_the_protocol_and_no_room_is_trained_on_twice():
    scale = AblationScale()
    protocol = read_protocol(scale.protocol)
    assert scale.test_world["test_rooms"] == protocol.images.num_samples
    assert len({scale.train_seed, scale.test_world["seed"], 1}) == 3  # 1: the world of the base
    with pytest.raises(ValueError, match=r"train_seed must be neither .* \(1\) nor .* \(0\); got 0"):
        AblationScale(train_seed=0)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--only", "caa-k3", "caa"], "--only must be some of caa-k3, caa-k1, .*; got caa"),
        (["--seeds", "0", "-2"], "--seeds must be 0 or more; got -2"),
        (["--size", "paper"], "--size.*paper"),
    ],
)
def test_wrong_options_exit_with_2(words, text, capsys):
    (command,) = (one for one in COMMANDS if one.name == "benchmark ablations")
    with pytest.raises(SystemExit) as stopped:
        CommandParser(command).settings(words)
    assert stopped.value.code == 2
    assert re.search(text, capsys.readouterr().err)


class Killed(Exception):
    """Stands for the end of the process: Lightning saves nothing when it is raised."""


@pytest.fixture(scope="module")
def scale(tmp_path_factory) -> AblationScale:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "two-rooms.yaml").write_text(PROTOCOL)
    saver = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}
    saver["init_args"] = {"save_last": True, "every_n_train_steps": 1}
    rig = {"num_views": 3, "fov_deg": 150.0, "height": 32, "width": 32}
    config = {
        "extends": "toy/ablation.yaml",
        "trainer": {"callbacks+": [saver], "enable_progress_bar": False},
        "data": {"init_args": {"rig": {"class_path": "mvdiff.geometry.cameras.RingRig", "init_args": rig}}},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return AblationScale(
        config=str(folder / "tiny.yaml"),
        base=str(tiny_base(folder / "base")),
        protocol=str(folder / "two-rooms.yaml"),
        max_steps=STEPS,
        batch_size=2,
        rooms=3,
        test_world={"seed": 0, "rooms": 3, "test_rooms": 2},
    )


def run(out: Path, scale: AblationScale, trainer=run_trainer, only=CHOSEN, seeds=(0,)):
    return run_ablations(AblationSettings(out=out, only=only, seeds=seeds, num_workers=0), trainer, scale)


@pytest.fixture(scope="module")
def finished(scale, tmp_path_factory):
    """A folder whose runs were never stopped, and one that was stopped in a training, in samples and in scores."""
    root = tmp_path_factory.mktemp("out")
    run(root / "whole", scale)
    patch = pytest.MonkeyPatch()

    def kill_when_due(self, batch, batch_idx):
        if self.trainer.global_step == KILLED_AT:
            raise Killed

    patch.setattr(TrainedPartModule, "on_train_batch_start", kill_when_due)
    with pytest.raises(Killed):
        run(root / "stopped", scale)
    patch.undo()
    runs = root / "stopped" / "runs"
    assert not (runs / "caa-k3-0" / "train" / "model").exists()
    started = []

    def note(arguments):
        started.append(arguments)
        run_trainer(arguments)

    run(root / "stopped", scale, note, only=CHOSEN[:1])
    (runs / "caa-k3-0" / "scores.json").unlink()
    lost = next((runs / "caa-k3-0" / "samples").glob("*/sample.json"))
    lost.unlink()
    run(root / "stopped", scale, note)
    return root / "whole", root / "stopped", started


def numbers_of(out: Path) -> dict:
    rows = json.loads((out / "ablations.json").read_text())["rows"]
    return {name: {key: row[key] for key in ("numbers", "differences", "num_parameters")} for name, row in rows.items()}


def test_a_stopped_run_goes_on_and_gives_the_same_weights_pixels_and_numbers(finished):
    whole, stopped, started = finished
    assert [any("ckpt_path=last" in word for word in words) for words in started] == [True, False]
    for name in ("caa-k3-0", "all-views-0"):
        weights = [
            next((out / "runs" / name / "train" / "model" / "adapter").glob("*.safetensors"))
            for out in (whole, stopped)
        ]
        first, second = map(load_file, weights)
        assert all(torch.equal(first[key], second[key]) for key in first.keys() | second.keys())
        views = [sorted((out / "runs" / name / "samples").rglob("*.png")) for out in (whole, stopped)]
        assert [path.read_bytes() for path in views[0]] == [path.read_bytes() for path in views[1]]
        assert json.loads((stopped / "runs" / name / "train" / "cost.json").read_text())["num_steps"] == STEPS
    assert numbers_of(whole) == numbers_of(stopped)


def test_a_finished_folder_trains_nothing_and_keeps_its_numbers(finished, scale):
    whole, *_ = finished
    before = numbers_of(whole)
    outcome = run(whole, scale, trainer=lambda arguments: pytest.fail(f"trained {arguments}"))
    assert numbers_of(whole) == before
    assert list(outcome.rows) == [*CHOSEN, "ground-truth", "base-alone"]
    difference = outcome.rows["all-views"].differences[PSNR]
    means = [outcome.rows[name].numbers[PSNR].by_seed[0] for name in ("all-views", "caa-k3")]
    assert difference.by_seed[0] == pytest.approx(means[0] - means[1])
    assert (KERNEL in outcome.rows["caa-k3"].numbers) != ("mvdiff[realnet]" in outcome.missing.get(KERNEL, ""))
    assert outcome.rows["caa-k3"].num_parameters == outcome.rows["all-views"].num_parameters
    text = (whole / "ablations.md").read_text()
    (maker,) = json.loads((whole / "ablations.json").read_text())["made_by"]
    assert maker == {**this_process()._asdict(), "runs": ["caa-k3-0", "all-views-0", "ground-truth", "base-alone"]}
    assert f"Runs made at: {this_process()}: caa-k3-0, all-views-0, ground-truth, base-alone." in text
    assert "CAA, K = 3" in text
    assert f"{means[1]:.1f}" in text
    assert "no difference shown" in text  # two panoramas have no interval
    page = (whole / "ablations.html").read_text()
    for row in ("CAA, K = 3, seed 0", "all views, seed 0", "ground truth", "base alone"):
        assert row in page
    assert page.count("data:image/png") == 2 * 4 * 4  # rooms, rows, views


def test_every_variant_trains_on_the_same_data_with_the_same_settings(finished):
    _, _, started = finished
    first, second = ({word.partition("=")[0]: word.partition("=")[2] for word in words} for words in started)
    differing = {key for key in first.keys() | second.keys() if first.get(key) != second.get(key)}
    folders = {"--trainer.default_root_dir", "--trainer.logger.save_dir"}
    assert differing == {"--model.adapter.attention", "--ckpt_path", *folders}


def test_another_size_is_refused(finished, scale):
    whole, *_ = finished
    other = AblationScale(**{name: getattr(scale, name) for name in vars(scale)} | {"max_steps": STEPS + 1})
    with pytest.raises(ValueError, match=rf"max_steps must be that of .*, {STEPS}; got {STEPS + 1}"):
        run(whole, other)


def mean(value: float, margin: float, *by_seed: float) -> SeedMean:
    return SeedMean(Interval(value, value - margin, value + margin, 0.95, "rule"), dict(enumerate(by_seed)))


def test_tables_tell_values_seeds_verdicts_and_what_is_missing():
    base, other = VARIANTS[0], VARIANTS[4]
    costs = {"seconds_per_step": 1.25, "cpu_seconds_per_step": 1.1, "peak_memory_bytes": 1.5e9}
    common = {"runs": {0: None, 1: None}, "costs": costs, "num_parameters": 1000}
    rows = {
        base.name: AblationRow(base.title, variant=base, numbers={PSNR: mean(26.0, 0.5, 25.9, 26.1)}, **common),
        other.name: AblationRow(
            other.title,
            variant=other,
            numbers={PSNR: mean(24.0, 0.5, 23.9, 24.1), CONTENT: mean(0.7, 0.1, 0.6, 0.8)},
            differences={PSNR: mean(-2.0, 0.4, -2.1, -1.9), ZNCC: mean(0.01, 0.02, 0.03, -0.01)},
            **common,
        ),
        "ground-truth": AblationRow("ground truth", {0: None}, numbers={PSNR: mean(46.0, 1.0, 46.0)}),
    }
    outcome = AblationOutcome(rows, {KERNEL: "its package is not installed"})
    variants, differences = ablation_tables(outcome, AblationScale(), read_protocol("toy-pano-v1"))
    assert variants.rows[0] == [base.title, 2, 1000, (26.0, 25.5, 26.5), None, None, None, 1.25, 1.1, 1500.0]
    assert variants.rows[2][1:4] == [None, None, (46.0, 45.0, 47.0)]
    assert variants.references == ["ground truth"]
    assert [list(row[2:]) for row in differences.rows] == [
        ["−2.00 [−2.40, −1.60]", "−2.10, −1.90", "lower"],
        ["+0.0100 [−0.0100, +0.0300]", "+0.0300, −0.0100", "no difference shown"],
    ]
    said = " ".join(ablation_sentences(outcome))
    assert (
        "all views against CAA, K = 3: overlap PSNR, mean of pairs lower by 2.00 dB; "
        "no difference shown in overlap correlation (ZNCC)." in said
    )
    assert "its package is not installed" in said
    assert ablation_values(outcome)["rows"][other.name]["differences"][PSNR]["by_seed"] == {"0": -2.1, "1": -1.9}
    del rows[base.name]
    rows[other.name].differences = {}
    assert "caa-k3 is not trained yet" in " ".join(ablation_sentences(outcome))
