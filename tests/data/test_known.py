"""What of a sample is given: the paper's form, pictures at random places, and masks of single views."""

import pytest
import torch

from mvdiff.batch import MultiViewBatch
from mvdiff.data.datamodule import EquirectangularDataModule
from mvdiff.data.known import known_first, known_random, sample_known, view_known
from mvdiff.geometry.cameras import Rig, RingRig
from mvdiff.keyed import keyed_generator
from tests.data.folders import write_equirectangular

RIG = RingRig(num_views=8, height=16, width=24)


def test_the_papers_form_gives_view_0_as_a_whole():
    known = known_first(RIG)
    assert known.shape == (8, 1, 16, 24)
    assert known.mean(dim=(1, 2, 3)).tolist() == [1.0] + [0.0] * 7


def test_a_sample_is_a_function_of_its_keys():
    draws = [sample_known("random", RIG, *keys) for keys in ((0, 1, 2), (0, 1, 2), (0, 1, 3), (0, 2, 2), (1, 1, 2))]
    assert torch.equal(draws[0], draws[1])
    assert all(not torch.equal(draws[0], other) for other in draws[2:])


def test_mixed_is_half_of_each():
    first = [torch.equal(sample_known("mixed", RIG, 0, 0, index), known_first(RIG)) for index in range(200)]
    assert 75 < sum(first) < 125  # 3.5 standard deviations
    assert all(torch.equal(sample_known("first", RIG, 0, 0, index), known_first(RIG)) for index in range(3))


def test_random_pictures_reach_any_view_in_part():
    shares = torch.stack([known_random(RIG, keyed_generator(i)).mean(dim=(1, 2, 3)) for i in range(100)])
    assert bool((shares.sum(1) > 0).all())
    assert bool((shares > 0).any(0).all())  # each view is reached by some
    partial = (shares > 0.05) & (shares < 0.95)
    assert partial.any(1).float().mean() > 0.9
    gap = known_random(Rig([(0, 0, 20)], 8, 8), keyed_generator(0))  # most pictures miss so narrow a view
    assert bool(gap.any())


def test_masks_of_single_views_are_of_every_kind():
    masks = torch.stack([view_known(16, 24, keyed_generator("m", i)) for i in range(400)])
    assert masks.shape == (400, 1, 16, 24)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    shares = masks.mean(dim=(1, 2, 3))
    nothing, all_of_it = (shares == 0).float().mean(), (shares == 1).float().mean()
    assert 0.30 < nothing < 0.55  # 35 %, and pictures that miss the view
    assert 0.06 < all_of_it < 0.25
    assert bool(torch.equal(view_known(16, 24, keyed_generator("m", 5)), masks[5]))


def is_rectangle(mask: torch.Tensor) -> bool:
    rows, columns = mask.any(1), mask.any(0)
    whole = all(side.nonzero()[[0, -1]].diff(dim=0) == side.sum() - 1 for side in (rows, columns))
    return whole and torch.equal(mask, rows[:, None] & columns)


def is_monotone(mask: torch.Tensor) -> bool:
    """Tell whether every row, and every column, turns at most once, all rows the same way, and all columns."""
    steps = [mask.int().diff(dim=dim) for dim in (0, 1)]
    return all(bool((step >= 0).all() or (step <= 0).all()) for step in steps)


def test_parts_of_single_views_are_rectangles_what_is_around_them_and_sides_of_lines():
    masks = [view_known(16, 24, keyed_generator("m", i))[0] > 0 for i in range(400)]
    masks = [mask for mask in masks if mask.any() and not mask.all()]
    inside, around = [mask for mask in masks if is_rectangle(mask)], [mask for mask in masks if is_rectangle(~mask)]
    assert min(len(inside), len(around)) > 12  # 15 % of 400, half of them each, less those of no or every pixel
    assert any(mask[:, 20:].any() for mask in inside)  # not transposed: columns beyond the number of rows
    sides = [mask for mask in masks if is_monotone(mask) and not is_rectangle(mask) and not is_rectangle(~mask)]
    assert len(sides) > 25  # 15 %, likewise
    assert {(bool(mask[0, 0]), bool(mask[-1, -1])) for mask in sides} >= {(True, False), (False, True)}


def test_data_modules_say_what_is_given(tmp_path):
    root = write_equirectangular(tmp_path / "data")
    data = EquirectangularDataModule(root, rig=RIG, num_val=1, known="random", seed=3)
    dataset = data.train_dataset()
    sample = dataset[(2, 1)]
    assert torch.equal(sample["known"], sample_known("random", RIG, 3, 2, sample["sample_index"]))
    batch = MultiViewBatch.collate([dataset[(2, 0)], sample])
    assert batch.known.shape == (2, 8, 1, 16, 24)
    assert torch.equal(data.test_dataset()[0]["known"], known_first(RIG))  # evaluation: the paper's form
    assert "known" not in EquirectangularDataModule(root, rig=RIG, num_val=1).train_dataset()[0]
    with pytest.raises(ValueError, match="known must be one of first, random, mixed, or null; got 'all'"):
        EquirectangularDataModule(root, rig=RIG, num_val=1, known="all").train_dataset()
