import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvdiff.data.sampler import CopyKey, KeyedSampler, block_permutation


def steps(num_samples, total, world_size, batch_size, epoch):
    """The set of keys of each optimizer step of a total batch, over all ranks."""
    ranks = []
    for rank in range(world_size):
        sampler = KeyedSampler(num_samples, 7, True, rank, world_size, batch_size, multiple_of=total)
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    share = total // world_size
    return [
        sorted(key for keys in ranks for key in keys[start : start + share]) for start in range(0, len(ranks[0]), share)
    ]


@given(num_samples=st.integers(1, 30), epoch=st.integers(0, 3))
def test_steps_are_the_same_for_any_split_of_the_total_batch(num_samples, epoch):
    alone = steps(num_samples, 8, 1, 8, epoch)
    for world_size, batch_size in ((1, 1), (2, 1), (2, 4), (4, 2), (8, 1)):
        assert steps(num_samples, 8, world_size, batch_size, epoch) == alone


@given(num_samples=st.integers(1, 30), epoch=st.integers(0, 3))
def test_training_sees_every_sample_and_few_twice(num_samples, epoch):
    sampler = KeyedSampler(num_samples, multiple_of=4, batch_size=2)
    sampler.set_epoch(epoch)
    indices = [index for _, index in sampler]
    assert set(indices) == set(range(num_samples))
    assert len(indices) - num_samples < 4
    assert {epoch for epoch, _ in sampler} == {epoch}


def test_order_depends_on_seed_and_epoch_alone():
    sampler = KeyedSampler(20, seed=1)
    first = sampler.order(0)
    assert sampler.order(0) == first == KeyedSampler(20, seed=1, rank=1, world_size=2).order(0)
    assert sampler.order(1) != first != KeyedSampler(20, seed=2).order(0)


def test_golden_order():
    # From the keyed hash of ("order", 0, 0) and torch.randperm: a change would break the resuming of every old run.
    assert KeyedSampler(8, seed=0).order(0) == [4, 5, 2, 7, 6, 1, 3, 0]


@given(num_samples=st.integers(1, 30), world_size=st.integers(1, 64), epoch=st.integers(0, 3))
def test_evaluation_counts_each_sample_once_at_epoch_0(num_samples, world_size, epoch):
    """On more devices than samples, too; all ranks have equally many, and what fills them up is marked."""
    counted, lengths = [], set()
    for rank in range(world_size):
        sampler = KeyedSampler(num_samples, shuffle=False, rank=rank, world_size=world_size, batch_size=4)
        sampler.set_epoch(epoch)
        keys = list(sampler)
        counted += [key for key in keys if not isinstance(key, CopyKey)]
        lengths |= {len(keys), len(sampler)}
        assert all(epoch == 0 and index < num_samples for epoch, index in keys)
        assert sampler.has_copies == bool(num_samples % world_size)
    assert sorted(counted) == [(0, index) for index in range(num_samples)]
    assert lengths == {-(-num_samples // world_size)}


@given(num_samples=st.integers(1, 9), world_size=st.integers(1, 5))
def test_training_has_no_copies(num_samples, world_size):
    samplers = [KeyedSampler(num_samples, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert not any(isinstance(key, CopyKey) for sampler in samplers for key in sampler)
    assert not any(sampler.has_copies for sampler in samplers)


@given(
    world_size=st.integers(1, 2),
    batch_size=st.integers(1, 3),
    batches_done=st.integers(0, 5),
    epoch=st.integers(0, 2),
)
def test_resume_continues_where_the_state_was(world_size, batch_size, batches_done, epoch):
    for rank in range(world_size):
        settings = dict(seed=3, rank=rank, world_size=world_size, batch_size=batch_size)
        sampler = KeyedSampler(11, **settings)
        sampler.set_epoch(epoch)
        whole = list(sampler)
        state = sampler.state_dict(batches_done)
        resumed = KeyedSampler(11, **settings)
        resumed.load_state_dict(state)
        assert len(resumed) == len(whole)
        rest = whole[batches_done * batch_size :]
        if rest:
            assert list(resumed) == rest
            assert list(resumed) == whole, "only the first pass is shortened"
        else:
            assert state == {"epoch": epoch + 1, "position": 0, "stride": world_size * batch_size}


def test_epoch_cut_short_by_the_trainer_is_over():
    sampler = KeyedSampler(11)
    assert sampler.state_dict(4, epoch_is_over=True) == {"epoch": 1, "position": 0, "stride": 1}


def test_state_of_another_epoch_is_not_used():
    sampler = KeyedSampler(6)
    sampler.load_state_dict({"epoch": 2, "position": 3, "stride": 1})
    sampler.set_epoch(3)
    assert len(list(sampler)) == 6


def test_errors_name_the_setting():
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        KeyedSampler(0)
    with pytest.raises(ValueError, match=r"multiple of batch_size x devices \(2 x 3\); got 8"):
        KeyedSampler(9, batch_size=2, world_size=3, multiple_of=8)
    with pytest.raises(ValueError, match="must be 4 to resume mid-epoch; got 2"):
        KeyedSampler(9, batch_size=2).load_state_dict({"epoch": 0, "position": 4, "stride": 4})
    KeyedSampler(9, batch_size=2).load_state_dict({"epoch": 1, "position": 0, "stride": 4})


@given(
    size=st.integers(1, 60),
    block=st.integers(1, 12),
    mixed=st.integers(1, 5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_blocks_hold_every_sample_once_and_few_blocks_at_a_time(size, block, mixed, seed, epoch):
    order = block_permutation(size, block, mixed, seed, epoch)
    assert sorted(order) == list(range(size))
    met = [index // block for index in order]
    first = {number: met.index(number) for number in met}
    last = {number: len(met) - 1 - met[::-1].index(number) for number in met}
    for position in range(size):
        assert sum(first[number] <= position <= last[number] for number in first) <= mixed


def test_blocks_change_with_seed_and_epoch_and_mix_their_samples():
    order = block_permutation(400, 20, 4, 0, 0)
    assert order == block_permutation(400, 20, 4, 0, 0)
    assert order != block_permutation(400, 20, 4, 1, 0) != block_permutation(400, 20, 4, 0, 1) != order
    windows = [{index // 20 for index in order[start : start + 20]} for start in range(0, 400, 20)]
    assert sum(len(blocks) for blocks in windows) / len(windows) > 3.5, "20 samples come from nearly all 4 blocks"
    assert len({frozenset(order[:80]), frozenset(block_permutation(400, 20, 4, 0, 1)[:80])}) == 2


@given(num_samples=st.integers(1, 30), epoch=st.integers(0, 3))
def test_blocks_are_split_over_ranks_like_any_order(num_samples, epoch):
    blocks = {"shuffle_block": 4, "mixed_blocks": 2}
    alone = KeyedSampler(num_samples, 7, True, 0, 1, 8, **blocks).order(epoch)
    ranks = [KeyedSampler(num_samples, 7, True, rank, 2, 2, multiple_of=8, **blocks) for rank in range(2)]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    assert [key[1] for pair in zip(*ranks, strict=True) for key in pair] == alone


def test_a_resume_with_other_blocks_is_refused():
    sampler = KeyedSampler(20, batch_size=2, shuffle_block=4)
    state = sampler.state_dict(3)
    again = KeyedSampler(20, batch_size=2, shuffle_block=4)
    again.load_state_dict(state)
    assert list(again) == list(sampler)[6:]
    for other in (KeyedSampler(20, batch_size=2), KeyedSampler(20, batch_size=2, shuffle_block=5)):
        with pytest.raises(ValueError, match=r"shuffle_block and data\.mixed_blocks must be"):
            other.load_state_dict(state)
        other.load_state_dict(sampler.state_dict(10))  # at the end of an epoch they may change


@pytest.mark.parametrize("name", ["shuffle_block", "mixed_blocks"])
def test_blocks_need_samples(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1; got 0"):
        KeyedSampler(5, **{name: 0})
