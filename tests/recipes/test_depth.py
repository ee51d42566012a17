import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.data.sequences import full_sequence
from mvdiff.data.toyworld import write_toyworld
from mvdiff.eval.intervals import Interval, paired_difference
from mvdiff.recipes.compared import BASE, CAA, FOREIGN, METHODS, SILENT, TRUTH
from mvdiff.recipes.depth import COLOURS, PAIR_RATIO, UNOCCLUDED, DepthRecipe
from mvdiff.recipes.depth_sequences import INDEPENDENT, INTERPOLATED, MESH_NAMES, REAL, gap_psnr
from mvdiff.recipes.fit_command import Run, adapter_folder
from mvdiff.recipes.recipe import Outcome
from mvdiff.recipes.runner import write_report
from mvdiff.recipes.scoring import FID, POOLED, PSNR, SHARPNESS
from mvdiff.recipes.settings import DepthSettings
from mvdiff.samples import SampleRecord, camera_record, read_sample, sample_folder, to_uint8, write_sample
from tests.recipes.noisy import STRENGTHS, Noisy

RECIPE = DepthRecipe(DepthSettings())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"test_rooms": 6, "batch_size": 4}, "test_rooms must be a multiple of batch_size"),
        ({"seed": 1}, "seed must not be 1, a world on which the packaged weights were trained"),
        ({"seed": 3}, "seed must not be 3, a world on which the packaged weights were trained"),
        ({"sequences": 9}, r"sequences must be between 1 and test_rooms \(8\); got 9"),
        ({"num_views": 2}, "num_views must be at least 3, two key frames and one between; got 2"),
        ({"stage1_steps": 1}, r"stage1_steps must be at least num_validations \(2\); got 1"),
    ],
)
def test_settings_that_cannot_work(settings, text):
    with pytest.raises(ValueError, match=text):
        DepthSettings(**settings)


def test_a_missing_adapter_is_said_before_anything_is_made(tmp_path):
    settings = DepthSettings(out=tmp_path / "out", init_adapter=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="adapter must be a model folder"):
        adapter_folder(settings.init_adapter)
    assert adapter_folder("") is None
    assert main(["quickstart", "depth", "--out", str(tmp_path / "out"), "--init_adapter", str(tmp_path)]) == 1
    assert not (tmp_path / "out").exists()


def test_both_stages_are_the_commands_a_user_types(tmp_path):
    settings = DepthSettings(out=tmp_path, num_validations=4, max_steps=40, continue_steps=40)
    recipe = DepthRecipe(settings)
    stage1, [before], [two], [further] = recipe.trainings().values()
    assert [training.from_step_0 for training in (*stage1, two)] == [True, True, False]
    scratch, one, before, two, further = (part.arguments(settings) for part in (*stage1, before, two, further))
    assert before[0] == "validate"
    assert not any(argument.startswith(("--model.base", "--model.add_")) for argument in scratch)
    assert one[:3] == ["fit", "--config", "toy/depth_base.yaml"]
    assert {"--model.base=mvdiff://toy-depth-base", "--model.add_input=false"} <= set(one)
    assert two[:3] == ["fit", "--config", "toy/depth.yaml"]
    assert f"--model.base={recipe.trained_base()}" in two
    assert f"--model.out={recipe.trained_base()}" in one
    assert {"--trainer.max_steps=40", "--trainer.val_check_interval=10", "--data.eval_mode=keyframes"} <= set(two)
    assert not any(argument.startswith("--model.init_adapter") for argument in two)
    assert any(one.startswith("--model.init_adapter=") and one.endswith("toy-depth") for one in further)
    assert "--trainer.val_check_interval=40" in further
    work = ("--data.num_views=", "--data.batch_size=", "--total_batch_size=")
    shapes = [
        {name: int(one.removeprefix(name)) for one in run for name in work if one.startswith(name)}
        for run in (two, further)
    ]
    assert [list(shape.values()) for shape in shapes] == [[4, 6, 4], [2, 12, 2]]  # as many views in a step


def interval(estimate: float, margin: float) -> Interval:
    return Interval(estimate, estimate - margin, estimate + margin, 0.95)


def scores(gain: float, fid: Interval, colours: Interval) -> dict:
    def method(psnr: float) -> dict:
        value = {PSNR: interval(psnr, 0.5), POOLED: interval(psnr, 0.5), "ratio_to_ground_truth": psnr / 30}
        value |= {PAIR_RATIO: 0.5, UNOCCLUDED: psnr, FID: 3.0, COLOURS: interval(0.7, 0.1)}
        return value | {SHARPNESS: interval(0.002, 0.0001)}

    difference = {PSNR: interval(gain, 0.2), FID: fid, COLOURS: colours, SHARPNESS: interval(0, 1e-4)}
    counts = {"num_sequences": 12, "num_reference_sequences": 90, "num_views": 12, "num_things": 500}
    return counts | {
        "methods": {name: method(30 if name == TRUTH else 16 + gain * (name == CAA)) for name in METHODS},
        "differences": {name: difference for name in (CAA, FOREIGN, SILENT)},
        "feature_network": {"name": "toy-features", "weights_hash": "0" * 64, "variant": ""},
    }


def agreement(gain: float) -> dict:
    methods = {INTERPOLATED: interval(20 + gain, 1), INDEPENDENT: interval(20, 1), REAL: interval(31, 1)}
    return {"methods": methods, "difference": interval(gain, 0.5), "num_gaps": 9, "num_frames": 40, "num_sequences": 2}


def outcome(found: dict, between: dict) -> Outcome:
    return Outcome(scores=found, more={"interpolation": between})


def test_the_verdict_says_what_the_intervals_show():
    won = RECIPE.sentences(outcome(scores(4.0, interval(0.1, 0.5), interval(0.0, 0.1)), agreement(2.0)))
    assert "+4.0 dB [+3.8, +4.2]; the two intervals do not touch." in won[0]
    assert won[2].startswith("Toy FID, colours of things and sharpness are no worse")
    assert "agree with their key frames better than independent ones: 22.0 against 20.0 dB" in won[3]
    lost = RECIPE.sentences(outcome(scores(0.4, interval(2.0, 0.5), interval(-0.3, 0.1)), agreement(0.2)))
    assert "the two intervals overlap" in lost[0]
    assert lost[2] == "With CAA worse than the base beyond the interval: toy FID, colours of things."
    assert "do not agree with their key frames beyond independent ones" in lost[3]


@pytest.mark.parametrize(("gain", "says"), [(0.4, "better than"), (-0.4, "beyond")])
def test_without_an_interval_the_estimate_decides_and_the_sentence_says_so(gain, says):
    alone = agreement(gain) | {"difference": Interval(gain, None, None, 0.95)}
    said = RECIPE.sentences(outcome(scores(4.0, interval(0.1, 0.5), interval(0.0, 0.1)), alone))[3]
    assert f"agree with their key frames {says} independent ones" in said
    assert said.endswith(f"paired {gain:+.1f} dB (too few samples for an interval).")


def test_references_and_controls_do_not_compete():
    found = outcome(scores(4.0, interval(0, 1), interval(0, 1)), agreement(1))
    methods, differences, between = RECIPE.tables(found)
    assert {row[0] for row in methods.rows} - set(methods.references) == {CAA, BASE}
    assert len(differences.rows) == 3
    assert methods.rows[0][8] == pytest.approx((2.0, 1.9, 2.1))  # sharpness is shown times 1000
    assert [row[0] for row in between.rows] == [INTERPOLATED, INDEPENDENT, REAL]


def test_the_story_says_whose_weights_made_the_frames():
    curves = {"val/overlap_psnr": ([40, 80], [18.0, 19.5]), "val/loss": ([40, 80], [0.21, 0.2])}
    scratch, before = Run("from scratch", None, curves), {"val/overlap_psnr": 16.25, "val/loss": 0.25}
    stage1 = [Run("stage 1", None, {"val/loss": ([0, 8], [0.3, 0.25])})] * 2
    alone = RECIPE.story(Outcome(runs=[*stage1, scratch], before=before))
    assert "attention and image conditions trained here from scratch" in alone[0]
    assert "from 0.300 to 0.250 in 12 steps" in alone[1]
    assert "from 16.2 to 19.5 dB" in alone[1]
    assert "from 0.2500 to 0.2000 in 80 steps" in alone[1]
    made = RECIPE.story(Outcome(runs=[*stage1, scratch, scratch], before=before))[0]
    assert made.startswith("The frames were made with packaged")
    continued = Run("continued", None, {"val/loss": ([12], [0.2])})  # makes no samples of its own
    chart, losses, _ = RECIPE.charts(Outcome(runs=[*stage1, scratch, continued], before=before))
    assert [len(one.series) for one in (chart, losses)] == [1, 2]
    assert (chart.series[0].x, chart.series[0].y) == ([0, 40, 80], [16.25, 18.0, 19.5])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Recipe and a world whose methods are the held-out frames, each with noise of its own strength."""
    out = tmp_path_factory.mktemp("quickstart")
    settings = DepthSettings(out=out, rooms=4, test_rooms=2, batch_size=2, num_frames=18, arc_deg=120, sequences=1)
    write_toyworld(out / "data", rooms=4, seed=0, size=64, test_rooms=2, num_frames=18, arc_deg=120)
    recipe = DepthRecipe(settings)
    rng = np.random.default_rng(0)

    def write(folder, record, images, depths, noise):
        views = to_uint8(images).permute(0, 2, 3, 1).numpy()
        views = (views + rng.normal(0, noise, views.shape)).round().clip(0, 255).astype(np.uint8)
        write_sample(sample_folder(folder, record.sample_id), record, views, depths=depths)

    for method in STRENGTHS:
        recipe.write(Noisy(method))
    for sequence in [full_sequence(recipe.data().scenes("test")[0], 48, 64)]:
        sample = sequence.sample()
        record = SampleRecord(
            sequence.name,
            sample["prompts"],
            cameras=camera_record(*(sample[k] for k in ("K", "R", "t")), 48, 64),
            settings={"frames": sequence.frame_ids, "key_frames": sequence.key_ids},
        )
        for method, noise in ((INTERPOLATED, 8), (INDEPENDENT, 25), (REAL, 0)):
            write(recipe.sequences.folder(method), record, sample["images"], sample["depths"], noise)
    return recipe


def test_held_out_sequences_are_equally_long(made):
    dataset = made.held_out()
    fewest = min(len(scene.key_frames) for scene in dataset.scenes)
    assert len(dataset) == 2
    assert [len(dataset[i]["prompts"]) for i in range(2)] == [min(12, fewest)] * 2
    assert DepthRecipe(replace(made.settings, num_views=4)).held_out().num_views == 4


def test_methods_are_scored_by_evaluate(made):
    outcome = Outcome()
    made.score(outcome)
    found = outcome.scores
    truth, caa, base = (found["methods"][name] for name in (TRUTH, CAA, BASE))
    assert (truth["ratio_to_ground_truth"], truth[PAIR_RATIO], truth[COLOURS].estimate) == (1, 1, 1)
    assert truth[PSNR].estimate > caa[PSNR].estimate > base[PSNR].estimate
    assert truth[UNOCCLUDED] > truth[PSNR].estimate  # what is hidden cannot agree
    assert 0 < base["ratio_to_ground_truth"] < caa["ratio_to_ground_truth"] < 1
    assert (found["num_sequences"], found["num_things"] > 20) == (2, True)
    written, other = (
        json.loads((made.settings.out / "scores" / f"{name}.json").read_text())["metrics"] for name in ("caa", "base")
    )
    assert written[PSNR]["value"] == caa[PSNR].estimate
    assert "consecutive pairs" in written[PSNR]["variant"]
    for metric in (PSNR, COLOURS, SHARPNESS):
        values = (list(part[metric]["per_sample"].values()) for part in (written, other))
        assert found["differences"][CAA][metric] == paired_difference(*values)


def test_frames_between_are_compared_with_the_same_key_frames(made):
    found = made.sequences.agreement(seed=0)
    scene = made.held_out().scenes[0]
    between = len([f for f in range(scene.key_frames[0], scene.key_frames[-1]) if f not in scene.key_frames])
    assert (found["num_sequences"], found["num_frames"]) == (1, between)
    means = {method: value.estimate for method, value in found["methods"].items()}
    assert means[REAL] > means[INTERPOLATED] > means[INDEPENDENT]
    assert found["difference"].estimate == pytest.approx(means[INTERPOLATED] - means[INDEPENDENT])
    assert found["num_gaps"] < len(scene.key_frames)


def test_a_gap_is_measured_against_both_its_ends(tmp_path):
    """Golden: a still camera, key frames 0.2 and 0.4 darker than the frame between: 20 lg 5 and 20 lg 2.5 dB, averaged.

    The frames' own pictures at the places of the key frames do not count.
    """
    K = torch.tensor([[8.0, 0, 4.5], [0, 8.0, 2.5], [0, 0, 1]]).expand(3, 3, 3)
    R, t, depths = torch.eye(3).expand(3, 3, 3), torch.zeros(3, 3), torch.full((3, 6, 10), 2.0)
    frames, keys = torch.full((2, 3, 3, 6, 10), 153, dtype=torch.uint8)
    keys[0], keys[1], keys[2] = 102, 0, 51
    record = SampleRecord("room", ["a"] * 3, cameras=camera_record(K, R, t, 6, 10))
    folder = write_sample(tmp_path / "room", record, frames.permute(0, 2, 3, 1), depths=depths)
    expected = (20 * np.log10(5) + 20 * np.log10(2.5)) / 2
    assert gap_psnr(read_sample(folder), frames, keys, (0, 2)) == pytest.approx(expected)


def test_pages_and_meshes_are_made_of_the_samples(made):
    runs = [Run("from scratch", None, {name: ([4], [0.5]) for name in ("val/overlap_psnr", "val/loss")})] * 3
    found = outcome(scores(4.0, interval(0, 1), interval(0, 1)), agreement(1))
    found.runs, found.before = runs, {"val/overlap_psnr": 0.25, "val/loss": 0.75}
    [fuse] = made.more_steps(found).values()
    fuse()
    [entry] = found.shown["meshes"]
    assert set(entry.meshes) == set(MESH_NAMES.values())
    assert sorted(path.name for path in (made.settings.out / "meshes").iterdir()) == [
        "sequences.glb",
        "sequences_base.glb",
        "sequences_truth.glb",
    ]
    true, wrong = (entry.meshes[MESH_NAMES[method]] for method in (REAL, INDEPENDENT))
    assert np.array_equal(true.vertices, wrong.vertices)  # the depths are given
    assert not np.array_equal(true.colours, wrong.colours)
    text = write_report(made, found, {}).read_text()
    assert "held-out room 2: key frames" in text
    assert "sequence 1: key frames and those between" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert 'id="mesh-viewer"' in text
