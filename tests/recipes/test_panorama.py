import json
from dataclasses import replace

import pytest

from mvdiff.cli.main import main
from mvdiff.cli.train import run_trainer
from mvdiff.data.toyworld import write_toyworld
from mvdiff.eval.intervals import Interval, paired_difference
from mvdiff.eval.overlap import overlap_psnr
from mvdiff.pipelines.base import MultiViewPipeline
from mvdiff.recipes.compared import BASE, CAA, FOREIGN, METHODS, SILENT, TRUTH, sampled_methods
from mvdiff.recipes.fit_command import Run, read_curves
from mvdiff.recipes.panorama import PanoramaRecipe
from mvdiff.recipes.recipe import Outcome
from mvdiff.recipes.scoring import CONTENT, FID, IS, POOLED, PSNR, SHARPNESS, Number
from mvdiff.recipes.settings import PanoramaSettings
from mvdiff.samples import find_samples, read_sample
from tests.models.test_fresh import small_transformer
from tests.recipes.noisy import STRENGTHS, Noisy

RECIPE = PanoramaRecipe(PanoramaSettings())


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"test_rooms": 6, "batch_size": 4}, "test_rooms must be a multiple of batch_size"),
        ({"test_rooms": 4, "batch_size": 1}, "which must be at least 2; got 4 and 1"),
        ({"seed": 1}, "seed must not be 1, a world on which the packaged weights were trained"),
        ({"max_steps": 2, "num_validations": 3}, "max_steps must be at least num_validations"),
    ],
)
def test_settings_that_cannot_work(settings, text):
    with pytest.raises(ValueError, match=text):
        PanoramaSettings(**settings)


def test_training_is_the_command_a_user_types(tmp_path):
    settings = PanoramaSettings(out=tmp_path, max_steps=40, num_validations=4)
    before, scratch, further = (steps[0] for steps in PanoramaRecipe(settings).trainings().values())
    arguments = scratch.arguments(settings)
    assert arguments[:3] == ["fit", "--config", "toy/pano.yaml"]
    assert "--trainer.max_steps=40" in arguments
    assert "--trainer.val_check_interval=10" in arguments
    assert not any(argument.startswith("--model.init_adapter") for argument in arguments)
    assert (before.name, further.name) == ("before", "packaged, continued")
    assert before.arguments(settings)[0] == "validate"
    assert [one.rpartition("/")[2] for one in further.arguments(settings) if "init_adapter" in one] == ["toy-caa"]
    assert f"--trainer.val_check_interval={settings.continue_steps}" in further.arguments(settings)
    alone = PanoramaRecipe(PanoramaSettings(out=tmp_path, continue_steps=0))
    assert len(alone.trainings()) == 2


def test_curves_skip_empty_cells(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/overlap_psnr\n0,4,0.5,\n0,9,,17.25\n1,14,0.25,\n")
    assert read_curves(path) == {"train/loss": ([5, 15], [0.5, 0.25]), "val/overlap_psnr": ([10], [17.25])}


def interval(estimate: float, margin: float) -> Interval:
    return Interval(estimate, estimate - margin, estimate + margin, 0.95)


def alone(estimate: float) -> Interval:
    return Interval(estimate, None, None, 0.95, "none: 2 samples, fewer than 8")


def scores(gain: float, fid: Interval, content: Interval) -> Outcome:
    def method(psnr: float) -> dict:
        value = {PSNR: interval(psnr, 0.5), POOLED: psnr, "ratio_to_ground_truth": psnr / 40, FID: 3.0}
        return value | {IS: 2.0, CONTENT: interval(0.7, 0.1), SHARPNESS: interval(0.002, 0.0001)}

    difference = {PSNR: interval(gain, 0.2), FID: fid, CONTENT: content, SHARPNESS: interval(0, 1e-4)}
    found = {
        "methods": {name: method(40 if name == TRUTH else 16 + gain * (name == CAA)) for name in METHODS},
        "differences": {name: difference for name in (CAA, FOREIGN, SILENT)},
        "num_panoramas": 24,
        "num_reference_panoramas": 176,
        "feature_network": {"name": "toy-features", "weights_hash": "0" * 64, "variant": ""},
    }
    return Outcome(scores=found)


def test_the_verdict_says_what_the_intervals_show():
    won = RECIPE.sentences(scores(4.0, interval(0.1, 0.5), interval(0.0, 0.1)))
    assert "+4.0 dB [+3.8, +4.2]; the two intervals do not touch." in won[0]
    assert won[2].startswith("Toy FID, caption agreement and sharpness are no worse")
    lost = RECIPE.sentences(scores(0.4, interval(2.0, 0.5), interval(-0.3, 0.1)))
    assert "the two intervals overlap" in lost[0]
    assert lost[2] == "With CAA worse than the base beyond the interval: toy FID, caption agreement."
    blurred = scores(4.0, interval(0.1, 0.5), interval(0.0, 0.1))
    blurred.scores["differences"][CAA][SHARPNESS] = interval(-0.0005, 1e-4)
    assert (
        "sharpness (75% of the base's; real views through the autoencoder have 100%)." in RECIPE.sentences(blurred)[2]
    )


def test_few_panoramas_have_no_intervals_and_no_verdict():
    few = scores(4.0, alone(0.1), alone(0.0))
    few.scores["differences"][CAA] |= {PSNR: alone(4.0), SHARPNESS: alone(0.0)}
    for values in few.scores["methods"].values():
        values |= {name: alone(values[name].estimate) for name in (PSNR, CONTENT, SHARPNESS)}
    first, _, last = RECIPE.sentences(few)
    assert "+4.0 dB (too few samples for an interval); there are too few samples for intervals." in first
    assert last.startswith("Too few samples to say whether toy FID, caption agreement or sharpness are worse")
    assert RECIPE.tables(few)[0].rows[0][7] == pytest.approx(2.0)


def test_references_and_controls_do_not_compete():
    methods, differences = RECIPE.tables(scores(4.0, interval(0, 1), interval(0, 1)))
    assert {row[0] for row in methods.rows} - set(methods.references) == {CAA, BASE}
    assert len(differences.rows) == 3
    assert methods.rows[0][7] == pytest.approx((2.0, 1.9, 2.1))  # sharpness is shown times 1000


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Recipe and scores of a world whose methods are the held-out views, each with noise of its own strength."""
    settings = PanoramaSettings(out=tmp_path_factory.mktemp("quickstart"), rooms=5, test_rooms=2, batch_size=2)
    recipe, outcome = PanoramaRecipe(settings), Outcome()
    write_toyworld(settings.out / "data", rooms=5, seed=0, test_rooms=2, num_frames=0, num_workers=0)
    for method in STRENGTHS:
        recipe.write(Noisy(method))
    recipe.score(outcome)
    return recipe, outcome


def test_methods_are_scored_by_evaluate(scored):
    recipe, outcome = scored
    scores = outcome.scores
    assert (scores["num_panoramas"], scores["num_reference_panoramas"]) == (2, 3)
    truth, caa, base = (scores["methods"][name] for name in (TRUTH, CAA, BASE))
    assert truth["ratio_to_ground_truth"] == 1
    assert truth[PSNR].estimate > caa[PSNR].estimate > base[PSNR].estimate
    assert truth[CONTENT].estimate > 0.5  # of real views the judge reads most; chance is 1 in 8
    written = json.loads((recipe.settings.out / "scores" / "caa.json").read_text())["metrics"]
    assert written[PSNR]["value"] == caa[PSNR].estimate
    assert written[CONTENT]["interval_rule"] == caa[CONTENT].rule == "none: 2 samples, fewer than 8"
    assert "own size" in written[PSNR]["variant"]
    assert "(of object, colour)" in written[CONTENT]["variant"]
    assert written[FID]["num_reference_images"] == 3 * 8
    found = recipe.tables(outcome)[0].rows[0][1]
    assert found == caa[PSNR].estimate


def test_differences_are_paired(scored):
    recipe, outcome = scored
    scores = outcome.scores
    for method, name in ((CAA, "caa"), (FOREIGN, "foreign")):
        differences, own, base = scores["differences"][method], scores["methods"][method], scores["methods"][BASE]
        assert differences[FID].estimate == pytest.approx(own[FID].estimate - base[FID].estimate, rel=1e-6)
        theirs, ours = (
            json.loads((recipe.settings.out / "scores" / f"{folder}.json").read_text())["metrics"]
            for folder in ("base", name)
        )
        for metric in (PSNR, SHARPNESS, CONTENT):
            values = (list(part[metric]["per_sample"].values()) for part in (ours, theirs))
            assert differences[metric] == paired_difference(*values)


def test_scores_that_do_not_come_out_are_an_error():
    with pytest.raises(ValueError, match="toy_fid must come out to be compared; got none of with CAA: no reference"):
        Number.of(FID).read({"metrics": {FID: {"missing": "no reference images."}}}, CAA)


def test_the_story_says_whose_weights_made_the_panoramas():
    run = Run("from scratch", None, {"val/overlap_psnr": ([40, 80], [19.5, 18.0])})
    alone = RECIPE.story(Outcome(runs=[run]))
    assert alone[0] == "The panoramas were made with the attention trained here from scratch."
    assert "(36 steps on 144 rooms) reaches 19.5 dB on the validation captions after 40 steps" in alone[1]
    assert "trained further here for 8 steps" in RECIPE.story(Outcome(runs=[run, run]))[0]


def test_the_base_is_a_line_and_the_start_of_the_first_curve(scored):
    recipe, _ = scored
    runs = [Run(name, None, {"val/overlap_psnr": ([4], [18.0]), "val/loss": ([4], [0.5])}) for name in ("a", "b")]
    psnr, loss = recipe.sections(Outcome(runs=runs, before={"val/overlap_psnr": 17.0}))["charts"]
    assert [(list(line.x), list(line.y)) for line in psnr.series] == [
        ([0, 4], [17, 18]),
        ([4], [18]),
        ([0, 4], [17, 17]),
    ]
    assert [list(line.x) for line in loss.series] == [[4], [4]]


# A transformer as base


def test_attention_on_a_transformer_is_trained_and_sampled_in_the_same_steps(scored, tmp_path):
    """The quickstart with `--base`, in small, on the world that is there."""
    small_transformer().build(0).save_pretrained(tmp_path / "base")
    (tmp_path / "data").symlink_to(scored[0].settings.out / "data")
    sizes = {"max_steps": 2, "num_validations": 1, "num_inference_steps": 2, "precision": "32-true"}
    recipe = PanoramaRecipe(replace(scored[0].settings, out=tmp_path, base=str(tmp_path / "base"), **sizes))
    recipe.check()
    _, [scratch] = recipe.trainings().values()  # none continues packaged layers
    run = scratch.run(recipe.settings, run_trainer)
    assert run.curves["val/loss"][0] == [2]
    pipeline = MultiViewPipeline.from_pretrained(run.folder / "model")
    assert pipeline.adapter.config.sites["channels"] == [32, 32]
    assert all(bool(block.to_out.weight.any()) for block in pipeline.adapter.blocks)
    for method in sampled_methods(pipeline, batch_size=2)[:2]:
        recipe.write(method)
    for method in (CAA, BASE):
        samples = [read_sample(folder).record for folder in find_samples(recipe.folder(method))]
        assert [len(sample.prompts) for sample in samples] == [8, 8]
        assert {sample.settings["scheduler"] for sample in samples} == {"FlowMatchEulerDiscreteScheduler"}
    assert recipe.told.base == "base"


def test_a_base_that_is_not_packaged_is_refused(tmp_path, capsys):
    assert main(["quickstart", "--base", "mvdiff://no", "--out", str(tmp_path / "out")]) == 1
    assert "base must be a packaged one (mvdiff://toy-base, " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_attention_continues_from_the_packaged_layers_of_its_base():
    packaged = {"mvdiff://toy-base": "mvdiff://toy-caa", "mvdiff://toy-dit-base": "mvdiff://toy-dit-caa", "my/base": ""}
    assert {base: PanoramaSettings(base=base).init_adapter for base in packaged} == packaged


def test_the_packaged_layers_on_the_transformer_make_neighbours_agree(scored, tmp_path):
    """Two held-out rooms in six steps from equal noise: with attention, without, and with the other room's views."""
    (tmp_path / "data").symlink_to(scored[0].settings.out / "data")
    sizes = {"num_inference_steps": 6, "precision": "32-true", "base": "mvdiff://toy-dit-base"}
    recipe = PanoramaRecipe(replace(scored[0].settings, out=tmp_path, **sizes))
    psnr = {}
    for method in sampled_methods(MultiViewPipeline.from_pretrained("mvdiff://toy-dit-caa"), batch_size=2)[:3]:
        recipe.write(method)
        samples = [read_sample(folder) for folder in find_samples(recipe.folder(method.name))]
        values = [overlap_psnr(sample.images_uint8(), *RECIPE.rig.cameras(), size=None) for sample in samples]
        psnr[method.name] = sum(value["overlap_psnr_mean_of_pairs"] for value in values) / len(values)
    assert psnr[CAA] > max(psnr[BASE], psnr[FOREIGN]) + 4
