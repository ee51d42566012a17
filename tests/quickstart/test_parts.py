import pytest

from mvdiff.eval.bootstrap import Interval
from mvdiff.quickstart import page
from mvdiff.quickstart.methods import BASE, CAA, FOREIGN, METHODS, SILENT, TRUTH
from mvdiff.quickstart.scores import CONTENT, FID, IS, POOLED, PSNR, SHARPNESS
from mvdiff.quickstart.settings import Settings
from mvdiff.quickstart.training import fit_arguments, read_curves


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"test_rooms": 6, "batch_size": 4}, "test_rooms must be a multiple of batch_size"),
        ({"test_rooms": 4, "batch_size": 1}, "which must be at least 2; got 4 and 1"),
        ({"seed": 1}, "seed must not be 1, the world on which the packaged weights were trained"),
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
    won = page.verdict(scores(4.0, interval(0.1, 0.5), interval(0.0, 0.1)))
    assert "+4.0 dB [+3.8, +4.2]; the two intervals do not touch." in won[0]
    assert won[2].startswith("Toy FID, caption agreement and sharpness are no worse")
    lost = page.verdict(scores(0.4, interval(2.0, 0.5), interval(-0.3, 0.1)))
    assert "the two intervals overlap" in lost[0]
    assert lost[2] == "With CAA worse than the base beyond the interval: toy FID, caption agreement."


def test_references_and_controls_do_not_compete():
    methods, differences = page.tables(scores(4.0, interval(0, 1), interval(0, 1)))
    assert {row[0] for row in methods.rows} - set(methods.references) == {CAA, BASE}
    assert len(differences.rows) == 3
    assert methods.rows[0][7] == pytest.approx((2.0, 1.9, 2.1))  # sharpness is shown times 1000
