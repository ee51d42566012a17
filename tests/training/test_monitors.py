"""What ModelCheckpoint and EarlyStopping may monitor."""

from contextlib import nullcontext

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mvdiff.tasks.panorama import PanoramaTask
from mvdiff.training.autoencoder import AutoencoderModule
from mvdiff.training.ema import TrainedWeightsEMA
from mvdiff.training.monitors import check_monitors
from mvdiff.training.multi_view import MultiViewModule
from mvdiff.training.watch import TrainingWatch


class Own(Callback):
    """Logs nobody knows what."""


class Telling(Callback):
    logged_names = ("val/mine",)


class Derived(MultiViewModule):
    """May log more than its base class."""


class OwnModes(PanoramaTask):
    """Does not say which modes its samples may have."""

    def modes(self, batch):
        return ["foo"] * batch.batch_size


def without_samples(kind=MultiViewModule, task="panorama", **settings):
    return kind(task=task, base="none", num_validation_samples=0, **settings)


@pytest.mark.parametrize(
    ("module", "beside", "known"),
    [
        (without_samples(), (), {"val/loss", "train/loss", "train/grad_norm"}),
        (MultiViewModule(base="none"), (), {"val/overlap_psnr"}),
        (without_samples(task="depth"), (), {"val/loss", "val/loss_generation"}),
        (without_samples(task=OwnModes()), (), {"val/loss_foo", "val/loss_generation"}),
        (without_samples(on_nonfinite="skip"), (), {"train/skipped_steps", "val/loss"}),
        (without_samples(), (TrainedWeightsEMA(), TrainingWatch()), {"train/ema_decay", "train/data_wait"}),
        (without_samples(), (Telling(),), {"val/mine", "val/loss"}),
    ],
)
def test_what_is_not_logged_is_refused(module, beside, known):
    unknown = {"val/losss", "val/overlap_psnr", "train/ema_decay", "val/loss_generation", "val/loss_foo"} - known
    unknown |= {"train/skipped_steps"} - known
    for kind in (ModelCheckpoint, EarlyStopping):
        for name in known | unknown:
            said = rf"{kind.__name__}\.monitor \('{name}'\) is not logged in this run\. Logged: .*train/loss"
            refused = pytest.raises(ValueError, match=said)
            with nullcontext() if name in known else refused:
                check_monitors([*beside, kind(monitor=name)], module)


def test_a_run_without_validation_logs_no_number_of_it():
    check_monitors([ModelCheckpoint(monitor="train/loss")], without_samples(), validates=False)
    with pytest.raises(
        ValueError, match=r"'val/loss'\) is not logged in this run, which has no validation\. Logged: t"
    ):
        check_monitors([ModelCheckpoint(monitor="val/loss")], without_samples(), validates=False)


def test_what_lightning_adds_is_known():
    check_monitors([ModelCheckpoint(monitor="epoch"), ModelCheckpoint()], without_samples())
    with pytest.raises(ValueError, match=r"EarlyStopping\.monitor"):
        check_monitors([EarlyStopping(monitor="epoch")], without_samples())


def test_classes_of_others_that_do_not_say_what_they_log_are_left_alone():
    watch = ModelCheckpoint(monitor="val/mine")
    check_monitors([Own(), watch], without_samples())
    check_monitors([watch], without_samples(Derived))


def test_the_autoencoder_logs_no_loss():
    config = {"block_out_channels": (8,), "norm_num_groups": 4}
    module = AutoencoderModule(out="out", vae=config)
    check_monitors([ModelCheckpoint(monitor="val/psnr")], module)
    with pytest.raises(
        ValueError, match=r"\('val/loss'\) is .* Logged: train/grad_norm, train/kl, train/l1, train/lr, val/psnr\."
    ):
        check_monitors([ModelCheckpoint(monitor="val/loss")], module)
