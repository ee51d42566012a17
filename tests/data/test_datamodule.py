from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mvdiff.cli.main import _one_line
from mvdiff.data.datamodule import EquirectangularDataModule, Matterport3DDataModule
from mvdiff.geometry.cameras import RingRig
from tests.data.folders import face_path, truncate, write_equirectangular, write_matterport3d

RIG = RingRig(num_views=4, height=4, width=6)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_matterport3d(tmp_path_factory.mktemp("mp3d"), num_train=9, num_test=3, size=8)


def module(root, **settings):
    return Matterport3DDataModule(root, RIG, **{"num_val": 2, "seed": 5, "mirror": True} | settings)


def seen(batches):
    """What each sample of some batches showed, by its key."""
    return {
        (batch.epoch, batch.sample_index[i].item()): (
            batch.images[i].double().sum().item(),
            batch.yaw_deg[i].item(),
            batch.mirrored[i].item(),
            tuple(batch.prompts[i]),
        )
        for batch in batches
        for i in range(batch.batch_size)
    }


def test_splits(root):
    data = module(root)
    data.setup("fit")
    train, val, test = data.train_dataset(), data.val_dataset(), data.test_dataset()
    assert (len(train), len(val), len(test)) == (7, 2, 3)
    assert [val[index]["sample_id"] for index in range(2)] == ["scene7_pano7", "scene8_pano8"]
    assert (val[1]["yaw_deg"], val[1]["mirrored"], test[0]["yaw_deg"]) == (0, False, 0)
    assert test[0]["sample_id"] == "scene9_pano9"
    from_test = module(root, val_from="test")
    assert (len(from_test.train_dataset()), from_test.val_dataset()[0]["sample_id"]) == (9, "scene9_pano9")
    few = module(root, max_samples=3, max_test_samples=1, num_val=0)
    assert (len(few.train_dataset()), len(few.test_dataset())) == (3, 1)
    assert few.val_dataloader() == []
    assert len(Matterport3DDataModule(root, num_val=0).train_dataset()[0]["images"]) == 8


def test_samples_do_not_depend_on_ranks_workers_or_batches(root):
    alone = seen(module(root).train_dataloader())
    assert len(alone) == 7
    assert seen(module(root, num_workers=2).train_dataloader()) == alone
    assert seen(module(root, batch_size=4).train_dataloader()) == alone
    ranks = {}
    for rank in range(2):
        data = module(root, batch_size=2)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2, accumulate_grad_batches=2)
        loader = data.train_dataloader()
        assert len(loader) == 2, "7 samples fill one step of 2 ranks x 2 accumulated batches of 2"
        ranks |= seen(loader)
    assert ranks == alone


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_evaluation_covers_each_sample_once_over_ranks(root, world_size):
    """Copies, which give all ranks equally many, leave with `originals`."""
    indices, lengths = [], set()
    for rank in range(world_size):
        data = module(root, eval_batch_size=2)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size)
        batches = list(data.predict_dataloader())
        lengths.add(sum(batch.batch_size for batch in batches))
        originals = [batch.originals() for batch in batches]
        indices += [index for batch in originals if batch is not None for index in batch.sample_index.tolist()]
    assert sorted(indices) == [0, 1, 2]
    assert lengths == {-(-3 // world_size)}


def test_equirectangular(tmp_path):
    data = EquirectangularDataModule(write_equirectangular(tmp_path), RIG, batch_size=2, num_val=1)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (2, 4, 3, 4, 6)


def test_errors(root, tmp_path):
    with pytest.raises(ValueError, match=r"num_val must be below the number of training panoramas \(9\); got 9"):
        module(root, num_val=9).setup("fit")
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        module(root, batch_size=0)
    with pytest.raises(FileNotFoundError, match=r"train\.npy does not exist"):
        module(tmp_path).setup("fit")
    with pytest.raises(FileNotFoundError, match=r"data\.root must be a folder .*absent does not exist"):
        module(tmp_path / "absent").setup("fit")
    broken = write_matterport3d(tmp_path)
    (broken / "scene0/blip3/pano0_0.txt").unlink()
    with pytest.raises(FileNotFoundError, match="incomplete"):
        module(broken).setup("fit")
    skipping = module(broken, on_broken="skip", num_val=1)
    assert len(skipping.train_dataset()) == 3


def test_broken_file_met_by_a_loading_process_is_one_clear_line(tmp_path):
    broken = write_matterport3d(tmp_path)
    truncate(broken / face_path("scene2", "pano2", 3))
    with pytest.raises(ValueError, match="must be a whole image file") as caught:
        list(module(broken, num_workers=1).train_dataloader())
    line = _one_line(caught.value)
    assert line.startswith(str(broken / face_path("scene2", "pano2", 3)))
    assert "Traceback" not in line


class Recorder(LightningModule):
    """Learns one number from the pictures and notes what it saw; may stop as a killed run does."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.stop_at = stop_at
        self.batches = []
        self.validated = []

    def training_step(self, batch, batch_idx):
        if self.stop_at == self.global_step:
            raise InterruptedError
        assert batch.epoch == self.current_epoch
        self.batches.append(batch)
        return (self.weight - batch.images.mean()).square()

    def validation_step(self, batch, batch_idx):
        self.validated.append((batch.epoch, *batch.sample_index.tolist()))

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0  # asks for the loader before the loops are restored
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root, folder, stop_at=None, ckpt_path=None, num_workers=0, **settings):
    model, data = Recorder(stop_at), module(root, batch_size=2, num_workers=num_workers)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=3,
        accelerator="cpu",
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=-1)],
        **settings,
    )
    try:
        trainer.fit(model, data, ckpt_path=ckpt_path)
    except InterruptedError:
        assert stop_at is not None
    return model


def assert_same_run(whole, parts):
    batches = [batch for part in parts for batch in part.batches]
    assert [(b.epoch, b.sample_index.tolist()) for b in batches] == [
        (b.epoch, b.sample_index.tolist()) for b in whole.batches
    ]
    assert seen(batches) == seen(whole.batches)
    assert torch.equal(parts[-1].weight, whole.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_run_equals_uninterrupted_run(root, tmp_path, num_workers):
    """Cut in the middle of an epoch, after an epoch's last step, and in a later epoch: 4 steps an epoch."""
    whole = fit(root, tmp_path / "whole")
    assert len(whole.batches) == 12
    for stop_at in (2, 4, 7) if num_workers == 0 else (6, 8):
        folder = tmp_path / f"cut{stop_at}"
        first = fit(root, folder, stop_at, num_workers=num_workers)
        assert len(first.batches) == stop_at
        last = fit(root, tmp_path / "resumed", ckpt_path=folder / "last.ckpt", num_workers=num_workers)
        assert_same_run(whole, [first, last])
        assert whole.validated == [(0, 7, 8)] * 3
        assert (first.validated + last.validated)[-1] == (0, 7, 8)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "settings",
    [{"limit_train_batches": 3, "num_workers": 1}, {"accumulate_grad_batches": 2}, {"val_check_interval": 2}],
    ids=lambda settings: next(iter(settings)),
)
def test_resume_with_trainer_settings(root, tmp_path, settings):
    whole = fit(root, tmp_path / "whole", **settings)
    for stop_at in (1, 3):
        folder = tmp_path / f"cut{stop_at}"
        first = fit(root, folder, stop_at, **settings)
        last = fit(root, tmp_path / "resumed", ckpt_path=folder / "last.ckpt", **settings)
        done = stop_at * settings.get("accumulate_grad_batches", 1)
        first.batches = first.batches[:done]
        assert_same_run(whole, [first, last])


@pytest.mark.filterwarnings("ignore")
def test_predict_keeps_the_keys(root):
    class Predictor(LightningModule):
        def predict_step(self, batch, batch_idx):
            return batch.epoch, batch.sample_index.tolist()

    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert trainer.predict(Predictor(), module(root, eval_batch_size=2)) == [(0, [0, 1]), (0, [2])]


def test_checkpointed_state_is_plain_numbers(root):
    data = module(root)
    assert data.state_dict() == {}
    data.load_state_dict({})
    assert len(list(data.train_dataloader())) == 7
    data.load_state_dict({"epoch": 0, "position": 5, "stride": 1})
    assert len(list(data.train_dataloader())) == 2
    assert len(list(data.train_dataloader())) == 7


@pytest.mark.parametrize(
    ("size", "settings", "held_out", "said"),
    [
        (9, {"num_val": None}, 1, True),
        (9, {"num_val": 3}, 3, False),
        (9, {"num_val": 6}, 6, True),
        (79, {"num_val": None}, 15, True),
        (80, {"num_val": None}, 16, False),
        (9, {"num_val": None, "val_from": "test"}, 0, False),
        (9, {"num_val": 0}, 0, False),
    ],
)
def test_by_default_at_most_a_fifth_is_held_out(tmp_path, caplog, size, settings, held_out, said):
    data = module(tmp_path, **settings)
    assert data.num_held_out(size, "panoramas") == data.num_held_out(size, "panoramas") == held_out
    text = f"{held_out} of the {size} training panoramas are held out for validation, {size - held_out} are left"
    assert caplog.text.count(text) == said
