import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.training.features import FeatureNetModule


def batch(epoch: int, *indices: int) -> MultiViewBatch:
    views = {"images": torch.zeros(2, 3, 4, 6), "K": torch.eye(3).repeat(2, 1, 1), "R": torch.eye(3).repeat(2, 1, 1)}
    named = [{"prompts": ["", ""], "sample_id": f"s{i}", "sample_index": i, "epoch": epoch} for i in indices]
    return MultiViewBatch.collate([views | one for one in named])


def test_noise_is_a_function_of_seed_epoch_and_sample():
    module = FeatureNetModule("world", "out", width=8, noise=0.5, seed=3)
    together, alone = module.noised(batch(1, 4, 7)), module.noised(batch(1, 7))
    assert torch.equal(together[1], alone[0])
    assert 0 < together.std() < 0.5
    other_seed = FeatureNetModule("world", "out", width=8, noise=0.5, seed=4)
    for other in (together[0], module.noised(batch(2, 7))[0], other_seed.noised(batch(1, 7))[0]):
        assert not torch.allclose(other, alone[0])
