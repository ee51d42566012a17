import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.batch import MultiViewBatch


def sample(index=0, views=3, height=4, width=6, epoch=2, **changes):
    generator = torch.Generator().manual_seed(index)
    return {
        "images": torch.rand(views, 3, height, width, generator=generator) * 2 - 1,
        "K": torch.rand(views, 3, 3, generator=generator),
        "R": torch.rand(views, 3, 3, generator=generator),
        "prompts": [f"sample {index} view {view}" for view in range(views)],
        "sample_id": f"s{index}",
        "sample_index": index,
        "epoch": epoch,
    } | changes


def test_collate_stacks_samples_in_order():
    samples = [sample(5, yaw_deg=30.0, mirrored=True), sample(1, yaw_deg=45.0, mirrored=False)]
    batch = MultiViewBatch.collate(samples)
    assert (batch.batch_size, batch.num_views, batch.epoch) == (2, 3, 2)
    assert torch.equal(batch.images[1], samples[1]["images"])
    assert torch.equal(batch.K[0], samples[0]["K"])
    assert batch.t.shape == (2, 3, 3)
    assert not batch.t.any()
    assert batch.sample_id == ["s5", "s1"]
    assert batch.sample_index.tolist() == [5, 1]
    assert batch.sample_index.dtype == torch.long
    assert batch.prompts[1][2] == "sample 1 view 2"
    assert batch.view_valid.all()
    assert batch.yaw_deg.tolist() == [30, 45]
    assert batch.mirrored.tolist() == [True, False]
    assert batch.depths is None


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_collate_pads_views_by_invalid_ones(counts):
    batch = MultiViewBatch.collate([sample(i, views=n, depths=torch.ones(n, 4, 6)) for i, n in enumerate(counts)])
    assert batch.num_views == max(counts)
    assert batch.view_valid.sum(1).tolist() == counts
    padded = ~batch.view_valid
    assert not batch.images[padded].any()
    assert not batch.depths[padded].any()
    assert torch.equal(batch.K[padded], torch.eye(3).expand(int(padded.sum()), 3, 3))
    assert torch.equal(batch.R[padded], torch.eye(3).expand(int(padded.sum()), 3, 3))
    assert all(len(prompts) == max(counts) for prompts in batch.prompts)


def test_collate_of_single_batches_equals_collate_of_samples():
    samples = [
        sample(0, known=torch.ones(3, 1, 4, 6), yaw_deg=0.0),
        sample(1, known=torch.zeros(3, 1, 4, 6), yaw_deg=9.0),
    ]
    whole = MultiViewBatch.collate(samples)
    again = MultiViewBatch.collate([MultiViewBatch.collate([one]) for one in samples])
    for field in dataclasses.fields(whole):
        left, right = getattr(whole, field.name), getattr(again, field.name)
        assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def test_one_view_of_each_sample_keeps_its_name():
    fields = {"depths": torch.arange(3.0).reshape(3, 1, 1).expand(3, 4, 6), "view_names": ["x", "y", "z"]}
    batch = MultiViewBatch.collate([sample(0, **fields), sample(1, **fields)])
    one = batch.one_view(1).check()
    assert (one.num_views, one.names_of(1), one.prompts) == (1, ["y"], [["sample 0 view 1"], ["sample 1 view 1"]])
    for name in ("images", "K", "R", "t", "depths", "view_valid"):
        assert torch.equal(getattr(one, name)[:, 0], getattr(batch, name)[:, 1]), name
    assert (one.known, one.sample_id) == (None, ["s0", "s1"])
    assert MultiViewBatch.collate([sample()]).one_view(2).names_of(0) == [2]


def test_to_moves_tensors_and_keeps_the_rest():
    batch = MultiViewBatch.collate([sample()])
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert moved.view_valid.is_meta
    assert moved.view_valid.dtype == torch.bool
    assert moved.prompts == batch.prompts
    assert moved.depths is None
    assert not batch.images.is_meta


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"images": torch.zeros(3, 4, 4, 6)}, r"images must have shape \[B, V, 3, H, W\]"),
        ({"images": torch.full((3, 3, 4, 6), 255.0)}, r"images must lie in \[-1, 1\]; got \[255, 255\]"),
        ({"images": torch.full((3, 3, 4, 6), torch.nan)}, r"images must lie in \[-1, 1\]; got \[nan, nan\]"),
        ({"images": torch.zeros(3, 3, 4, 6, dtype=torch.uint8)}, "images must be floating point"),
        ({"K": torch.zeros(2, 3, 3)}, "K must have shape"),
        ({"prompts": ["only", "two"]}, r"prompts must be 1 lists of 3 texts, one per view; got lists of \[2\]"),
        ({"view_valid": torch.ones(3)}, "view_valid must be bool"),
        ({"known": torch.zeros(3, 4, 6)}, "known must have shape"),
    ],
)
def test_what_does_not_fit_is_named(changes, text):
    with pytest.raises(ValueError, match=text):
        MultiViewBatch.collate([sample(**changes)])


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"epoch": 3}, r"epochs \(2, 3\)"),
        ({"yaw_deg": 3.0}, "s1 differ in yaw_deg"),
        ({"height": 8}, r"one size; got \[3, 3, 4, 6\] in s0 and \[3, 3, 8, 6\] in s1"),
    ],
)
def test_samples_that_do_not_fit_together_are_named(other, text):
    with pytest.raises(ValueError, match=text):
        MultiViewBatch.collate([sample(0), sample(1, **other)])


def test_empty_collate_is_an_error():
    with pytest.raises(ValueError, match="non-empty"):
        MultiViewBatch.collate([])
