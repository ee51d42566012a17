import json

import numpy as np
import pytest

from mvdiff.data.toyworld import write_toyworld
from mvdiff.eval.bootstrap import Interval, paired_difference
from mvdiff.quickstart import page
from mvdiff.quickstart.compared import BASE, CAA, FOREIGN, METHODS, ROUND_TRIP, SILENT, TRUTH, samples_of
from mvdiff.quickstart.comparison import CONTENT, FID, IS, POOLED, PSNR, SHARPNESS, number
from mvdiff.quickstart.methods import held_out, toy_rig
from mvdiff.quickstart.scores import score_all
from mvdiff.quickstart.settings import Settings
from mvdiff.quickstart.training import fit_arguments, read_curves
from mvdiff.samples import SampleRecord, sample_folder, to_uint8, write_sample


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
        Settings(**settings).check()


def test_the_default_settings_work():
    assert Settings().check() == Settings()


def test_training_is_the_command_a_user_types(tmp_path):
    arguments = fit_arguments(Settings(out=tmp_path, num_validations=4), "from scratch", 40, None, lr=1e-3)
    assert arguments[:3] == ["fit", "--config", "toy/pano.yaml"]
    assert "--trainer.max_steps=40" in arguments
    assert "--trainer.val_check_interval=10" in arguments
    assert not any(argument.startswith("--model.init_adapter") for argument in arguments)


def test_curves_skip_empty_cells(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/overlap_psnr\n0,4,0.5,\n0,9,,17.25\n1,14,0.25,\n")
    assert read_curves(path) == {"train/loss": ([5, 15], [0.5, 0.25]), "val/overlap_psnr": ([10], [17.25])}


def interval(estimate: float, margin: float) -> Interval:
    return Interval(estimate, estimate - margin, estimate + margin, 0.95)


def scores(gain: float, fid: Interval, content: Interval) -> dict:
    def method(psnr: float) -> dict:
        value = {PSNR: interval(psnr, 0.5), POOLED: psnr, "ratio_to_ground_truth": psnr / 40, FID: 3.0}
        return value | {IS: 2.0, CONTENT: interval(0.7, 0.1), SHARPNESS: interval(0.002, 0.0001)}

    difference = {PSNR: interval(gain, 0.2), FID: fid, CONTENT: content, SHARPNESS: interval(0, 1e-4)}
    return {
        "methods": {name: method(40 if name == TRUTH else 16 + gain * (name == CAA)) for name in METHODS},
        "differences": {name: difference for name in (CAA, FOREIGN, SILENT)},
        "num_panoramas": 24,
        "num_reference_panoramas": 176,
        "feature_network": {"name": "toy-features", "weights_hash": "0" * 64, "variant": ""},
    }


def test_the_verdict_says_what_the_intervals_show():
    won = page.story_of_scores(scores(4.0, interval(0.1, 0.5), interval(0.0, 0.1)))
    assert "+4.0 dB [+3.8, +4.2]; the two intervals do not touch." in won[0]
    assert won[2].startswith("Toy FID, caption agreement and sharpness are no worse")
    lost = page.story_of_scores(scores(0.4, interval(2.0, 0.5), interval(-0.3, 0.1)))
    assert "the two intervals overlap" in lost[0]
    assert lost[2] == "With CAA worse than the base beyond the interval: toy FID, caption agreement."
    blurred = scores(4.0, interval(0.1, 0.5), interval(0.0, 0.1))
    blurred["differences"][CAA][SHARPNESS] = interval(-0.0005, 1e-4)
    assert (
        "sharpness (75% of the base's; real views through the autoencoder have 100%)."
        in page.story_of_scores(blurred)[2]
    )


def test_references_and_controls_do_not_compete():
    methods, differences = page.tables(scores(4.0, interval(0, 1), interval(0, 1)))
    assert {row[0] for row in methods.rows} - set(methods.references) == {CAA, BASE}
    assert len(differences.rows) == 3
    assert methods.rows[0][7] == pytest.approx((2.0, 1.9, 2.1))  # sharpness is shown times 1000


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Settings and scores of a world whose methods are the held-out views, each with noise of its own strength."""
    settings = Settings(out=tmp_path_factory.mktemp("quickstart"), rooms=5, test_rooms=2, batch_size=2)
    write_toyworld(settings.out / "data", rooms=5, seed=0, test_rooms=2, num_frames=0, num_workers=0)
    dataset, rng = held_out(settings), np.random.default_rng(0)
    for method, noise in zip((TRUTH, ROUND_TRIP, CAA, BASE, FOREIGN, SILENT), (0, 2, 10, 20, 30, 40), strict=True):
        for sample in (dataset[i] for i in range(len(dataset))):
            views = to_uint8(sample["images"]).permute(0, 2, 3, 1).numpy()
            views = (views + rng.normal(0, noise, views.shape)).round().clip(0, 255).astype(np.uint8)
            record = SampleRecord(sample["sample_id"], sample["prompts"], toy_rig().to_dict())
            write_sample(sample_folder(samples_of(settings, method), sample["sample_id"]), record, views)
    return settings, score_all(settings)


def test_methods_are_scored_by_evaluate(scored):
    settings, scores = scored
    assert (scores["num_panoramas"], scores["num_reference_panoramas"]) == (2, 3)
    truth, caa, base = (scores["methods"][name] for name in (TRUTH, CAA, BASE))
    assert truth["ratio_to_ground_truth"] == 1
    assert truth[PSNR].estimate > caa[PSNR].estimate > base[PSNR].estimate
    assert truth[CONTENT].estimate > 0.5  # of real views the judge reads most; chance is 1 in 8
    written = json.loads((settings.out / "scores" / "caa.json").read_text())["metrics"]
    assert written[PSNR]["value"] == caa[PSNR].estimate
    assert written[CONTENT]["interval"] == [caa[CONTENT].low, caa[CONTENT].high]
    assert "own size" in written[PSNR]["variant"]
    assert "(of object, colour)" in written[CONTENT]["variant"]
    assert written[FID]["num_reference_images"] == 3 * 8
    found = page.tables(scores)[0].rows[0][1]
    assert found == (caa[PSNR].estimate, caa[PSNR].low, caa[PSNR].high)


def test_differences_are_paired(scored):
    settings, scores = scored
    for method, name in ((CAA, "caa"), (FOREIGN, "foreign")):
        differences, own, base = scores["differences"][method], scores["methods"][method], scores["methods"][BASE]
        assert differences[FID].estimate == pytest.approx(own[FID] - base[FID], rel=1e-6)
        theirs, ours = (
            json.loads((settings.out / "scores" / f"{folder}.json").read_text())["metrics"] for folder in ("base", name)
        )
        for metric in (PSNR, SHARPNESS, CONTENT):
            values = (list(part[metric]["per_sample"].values()) for part in (ours, theirs))
            assert differences[metric] == paired_difference(*values)


def test_scores_that_do_not_come_out_are_an_error():
    with pytest.raises(ValueError, match="toy_fid must come out to be compared; got none of with CAA: no reference"):
        number({"missing": "no reference images."}, FID, CAA)
