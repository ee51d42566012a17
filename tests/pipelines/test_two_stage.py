"""Whole sequences of a toy walk: what the calls of the model are, and that every frame comes out once."""

import shutil

import pytest
import torch
from hypothesis import given, strategies
from PIL import Image

from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.sequences import FrameSequence, full_sequence, key_sequence
from mvdiff.data.toyworld.write import write_walk
from mvdiff.pipelines.two_stage import Part, generate_sequence, plan
from mvdiff.samples import from_uint8
from mvdiff.settings import Controls, Sampling
from tests.models.test_depth_geometry import HEIGHT, WIDTH
from tests.pipelines.depth_pipelines import make_depth_pipeline

KEYS = [2, 5, 6, 12, 14, 17]
STEPS = {"sampling": Sampling(num_inference_steps=1, guidance_scale=2.0)}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return make_depth_pipeline(tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    root = tmp_path_factory.mktemp("scannet") / "test"
    path = root / write_walk(root, seed=3, index=0, size=32, num_frames=24)
    (path / "key_frame_0.6.txt").write_text("".join(f"{frame}\n" for frame in KEYS))
    return ScanNetScene(path)


def generate(pipeline, sequence, **settings):
    return {frame.position: frame for frame in generate_sequence(pipeline, sequence, **STEPS | settings)}


def test_golden_plan():
    # Key frames 0 3 4 10 12 15, four at once, the second window given one: 6 + 1 = 7 frames in two windows, 4 + 3.
    # Between 4 and 10 lie five frames, at most two at once: 2 + 2 + 1.
    windows = [Part([0, 3, 4, 10], []), Part([10, 12, 15], [10])]
    first = [
        Part([0, 1, 2, 3], [0, 3]),
        *(Part([4, *new, 10], [4, 10]) for new in ([5, 6], [7, 8], [9])),
    ]
    second = [Part([10, 11, 12], [10, 12]), Part([12, 13, 14, 15], [12, 15])]
    assert plan([0, 3, 4, 10, 12, 15], 16, 4, 1) == [windows[:1], first, windows[1:], second]


def test_golden_windows():
    def sizes(num_keys, num_views, overlap):
        rounds = plan(list(range(num_keys)), num_keys, num_views, overlap)
        return [(len(part.positions), len(part.given)) for (part,) in rounds]

    assert sizes(12, 12, 1) == [(12, 0)]
    assert sizes(13, 12, 1) == [(7, 0), (7, 1)]  # not 12 and a lonely one
    assert sizes(24, 12, 0) == [(12, 0), (12, 0)]  # the paper's protocol, where it comes out even
    assert sizes(30, 12, 4) == [(11, 0), (11, 4), (10, 4), (10, 4)]  # 30 + 3 x 4 in 4 windows of 12 at most
    assert sizes(1, 12, 1) == [(1, 0)]


@given(
    gaps=strategies.lists(strategies.integers(1, 9), max_size=12),
    num_views=strategies.integers(3, 6),
    overlap=strategies.integers(0, 5),
)
def test_a_plan_makes_every_frame_once_from_what_was_made_before(gaps, num_views, overlap):
    keys = [sum(gaps[:i]) for i in range(len(gaps) + 1)]
    overlap = min(overlap, num_views - 1)
    made = []
    for parts in plan(keys, keys[-1] + 1, num_views, overlap):
        before = set(made)
        for part in parts:
            assert part.positions == sorted(set(part.positions))
            assert set(part.given) <= before
            assert len(part.given) < len(part.positions) <= num_views
            made += [position for position in part.positions if position not in part.given]
            inner = set(part.positions) - set(keys)
            if inner:  # both key frames around what is between are given
                assert part.given == [part.positions[0], part.positions[-1]]
                index = keys.index(part.given[0])
                assert part.given[1] == keys[index + 1]
                assert max(inner) < keys[index + 1]
            else:
                assert part.given == part.positions[: len(part.given)]
    assert sorted(made) == list(range(keys[-1] + 1))


@pytest.mark.parametrize(
    ("keys", "num_frames", "num_views", "overlap", "message"),
    [
        ([], 3, 12, 1, "must begin and end with a key frame; got key frames \\[\\] of 3 frames"),
        ([1, 2], 3, 12, 1, "must begin and end with a key frame"),
        ([0, 1], 3, 12, 1, "must begin and end with a key frame"),
        ([0, 2], 3, 2, 1, "num_views must be at least 3, two key frames and one between; got 2"),
        ([0, 1], 2, 0, 0, "num_views must be at least 1; got 0"),
        ([0, 1], 2, 4, 4, "window_overlap must lie between 0 and num_views - 1 = 3; got 4"),
        ([0, 1], 2, 4, -1, "window_overlap must lie between"),
    ],
)
def test_wrong_plans(keys, num_frames, num_views, overlap, message):
    with pytest.raises(ValueError, match=message):
        plan(keys, num_frames, num_views, overlap)


def test_every_frame_of_a_walk_comes_out_once(pipeline, scene):
    sequence = full_sequence(scene, HEIGHT, WIDTH)
    frames = list(generate_sequence(pipeline, sequence, num_views=4, **STEPS))
    assert sorted(frame.position for frame in frames) == list(range(16))
    assert all(frame.frame.number == sequence.frame_ids[frame.position] for frame in frames)
    assert sequence.frame_ids == list(range(2, 18))
    for frame in frames:
        assert frame.image_uint8.shape == (HEIGHT, WIDTH, 3)
        assert frame.image_uint8.dtype == torch.uint8
        assert torch.equal(frame.frame.depths, sequence.frame(frame.position).depths)
    pictures = {frame.image_uint8.numpy().tobytes() for frame in frames}
    assert len(pictures) == 16


@torch.no_grad()
def test_matches_the_two_stages_written_out(pipeline, scene):
    # Key frames 2, 5, 6 at once; then 3, 4 between 2 and 5, which are given as the 8-bit pictures that came out.
    sequence = FrameSequence(scene, [2, 3, 4, 5, 6], [2, 5, 6], HEIGHT, WIDTH)
    found = generate(pipeline, sequence, seed=7, num_views=4)

    def call(numbers, pictures):
        frames = [sequence.frame(sequence.frame_ids.index(number)) for number in numbers]
        images, known = torch.zeros(1, len(numbers), 3, HEIGHT, WIDTH), torch.zeros(1, len(numbers), 1, HEIGHT, WIDTH)
        for view, picture in pictures.items():
            images[0, view], known[0, view] = from_uint8(picture.permute(2, 0, 1)), 1
        cameras = {name: torch.stack([getattr(f, name) for f in frames])[None].float() for name in ("K", "R", "t")}
        return pipeline(
            [[sequence.scene.prompt(frame.number) for frame in frames]],
            torch.stack([frame.depths for frame in frames])[None],
            **cameras,
            images=images,
            known=known,
            seed=7,
            sample_ids=["toy00000"],
            frame_ids=[numbers],
            output_type="uint8",
            num_inference_steps=1,
            guidance_scale=2.0,
        ).images[0]

    keys = call([2, 5, 6], {})
    between = call([2, 3, 4, 5], {0: keys[0], 3: keys[1]})
    expected = [keys[0], between[1], between[2], keys[1], keys[2]]
    assert all(torch.equal(found[position].image_uint8, image) for position, image in enumerate(expected))
    assert not torch.equal(between[0], keys[0])  # the model renders given frames anew: what is kept is what was given


def test_frames_do_not_depend_on_how_many_parts_run_together(pipeline, scene):
    sequence = full_sequence(scene, HEIGHT, WIDTH)
    one, four = (generate(pipeline, sequence, num_views=4, batch_size=size) for size in (1, 4))
    assert list(one) == list(four)
    assert all((one[i].image_uint8.int() - four[i].image_uint8.int()).abs().max() <= 1 for i in one)


def test_windows_know_of_each_other_only_where_they_overlap(pipeline, scene):
    sequence = key_sequence(scene, HEIGHT, WIDTH)
    apart = generate(pipeline, sequence, num_views=3, window_overlap=0)
    half = FrameSequence(scene, KEYS[3:], KEYS[3:], HEIGHT, WIDTH)
    alone = generate(pipeline, half, num_views=3)
    assert all(torch.equal(apart[3 + i].image_uint8, alone[i].image_uint8) for i in range(3))
    joined = generate(pipeline, sequence, num_views=4, window_overlap=1)  # 2 5 6 12 | 12 14 17
    free = FrameSequence(scene, KEYS[4:], KEYS[4:], HEIGHT, WIDTH)
    assert not torch.equal(joined[4].image_uint8, generate(pipeline, free, num_views=4)[0].image_uint8)
    assert torch.equal(
        joined[0].image_uint8,
        generate(pipeline, FrameSequence(scene, KEYS[:4], KEYS[:4], HEIGHT, WIDTH))[0].image_uint8,
    )


def test_what_is_generated_does_not_know_the_real_pictures(pipeline, scene, tmp_path):
    black = tmp_path / scene.name
    shutil.copytree(scene.path, black)
    for path in (black / "color").iterdir():
        Image.new("RGB", (32, 24)).save(path)
    first, second = (
        generate(pipeline, full_sequence(ScanNetScene(path), HEIGHT, WIDTH), num_views=4)
        for path in (scene.path, black)
    )
    assert all(torch.equal(first[i].image_uint8, second[i].image_uint8) for i in first)


def test_prompts_seeds_and_names(pipeline, scene):
    sequence = FrameSequence(scene, [2, 5], [2, 5], HEIGHT, WIDTH)
    first = generate(pipeline, sequence)[0].image_uint8
    for changed in ({"prompt": "a red ball"}, {"seed": 1}, {"sample_id": "other"}, {"controls": Controls(caa=False)}):
        assert not torch.equal(generate(pipeline, sequence, **changed)[0].image_uint8, first)
    assert torch.equal(generate(pipeline, sequence, sample_id="toy00000")[0].image_uint8, first)


def test_a_model_without_image_condition_makes_key_frames_only(tmp_path, scene):
    pipeline = make_depth_pipeline(tmp_path, image_condition=False)
    sequence = key_sequence(scene, HEIGHT, WIDTH)
    assert len(generate(pipeline, sequence)) == len(KEYS)
    assert len(generate(pipeline, sequence, num_views=3, window_overlap=0)) == len(KEYS)
    for wrong in ({"num_views": 3}, {"sequence": full_sequence(scene, HEIGHT, WIDTH)}):
        with pytest.raises(ValueError, match="model must have image_condition"):
            generate_sequence(pipeline, **({"sequence": sequence} | wrong))
    with pytest.raises(ValueError, match="batch_size must be at least 1; got 0"):
        generate_sequence(pipeline, sequence, batch_size=0)
    with pytest.raises(ValueError, match="negative_prompt must be one text for the whole sequence"):
        generate_sequence(pipeline, sequence, sampling=Sampling(negative_prompt=["fog"] * len(KEYS)))
