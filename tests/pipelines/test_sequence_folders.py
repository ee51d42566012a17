"""Frames with depth in sample folders: what is written, what a rerun skips, and what it refuses."""

import pytest
import torch

from mvdiff.data.scannet import ScanNetScene
from mvdiff.data.sequences import full_sequence, key_sequence
from mvdiff.data.toyworld.write import write_walk
from mvdiff.pipelines.sample_folders import GenerationCounts, generate_samples
from mvdiff.pipelines.sequence_folders import generate_sequence_folder, write_real_sequence
from mvdiff.pipelines.two_stage import generate_sequence
from mvdiff.samples import find_samples, read_sample, to_uint8
from mvdiff.settings import Sampling
from tests.models.test_depth_geometry import HEIGHT, WIDTH
from tests.pipelines.depth_pipelines import make_depth_pipeline
from tests.training.tiny_depth import wall_batch

STEPS = {"sampling": Sampling(num_inference_steps=1, guidance_scale=2.0)}
WRITTEN, SKIPPED = GenerationCounts(1, 0), GenerationCounts(0, 1)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return make_depth_pipeline(tmp_path_factory.mktemp("depth"))


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    root = tmp_path_factory.mktemp("scannet") / "test"
    path = root / write_walk(root, seed=3, index=0, size=32, num_frames=8)
    (path / "key_frame_0.6.txt").write_text("1\n4\n5\n")
    return full_sequence(ScanNetScene(path), HEIGHT, WIDTH)


def stamps(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*.png")}


def test_a_batch_is_written_with_depth_and_poses_and_without_padding(pipeline, tmp_path):
    batch = wall_batch(0, 1)  # three frames to generate, padded to the four of an interpolation
    assert generate_samples(pipeline, batch, tmp_path, seed=4, **STEPS) == GenerationCounts(2, 0)
    samples = [read_sample(folder) for folder in find_samples(tmp_path)]
    assert [sample.record.sample_id for sample in samples] == ["wall0", "wall1"]
    assert [sample.num_views for sample in samples] == [3, 4]
    assert [sample.record.settings["given"] for sample in samples] == [[], [0, 3]]
    direct = pipeline(
        batch.prompts,
        **{name: getattr(batch, name) for name in ("depths", "K", "R", "t", "view_valid", "images", "known")},
        seed=4,
        sample_ids=batch.sample_id,
        output_type="uint8",
        num_inference_steps=1,
        guidance_scale=2.0,
    ).images.movedim(-1, 2)
    for i, (sample, views) in enumerate(zip(samples, (3, 4), strict=True)):
        assert (sample.images_uint8().int() - direct[i, :views].int()).abs().max() <= 1
        assert (sample.depths() - batch.depths[i, :views]).abs().max() <= 0.00051
        K, R, height, width = sample.record.camera_tensors()
        assert torch.equal(K, batch.K[i, :views])
        assert torch.equal(R, batch.R[i, :views])
        assert torch.equal(sample.record.translations(), batch.t[i, :views])
        assert (height, width) == (HEIGHT, WIDTH)
        assert sample.record.prompts == batch.prompts[i][:views]
        assert sample.record.settings["num_inference_steps"] == 1
        assert not list(sample.folder.glob("panorama*"))
    given = to_uint8(batch.images[1, 0])
    assert not torch.equal(samples[1].images_uint8()[0], given)  # what is scored is always generated


def test_a_batch_again_writes_what_is_missing(pipeline, tmp_path):
    batch = wall_batch(0, 2, 4)
    generate_samples(pipeline, batch, tmp_path, **STEPS)
    before = stamps(tmp_path)
    first = read_sample(tmp_path / "wall2").images_uint8()
    (tmp_path / "wall2" / "sample.json").unlink()
    assert generate_samples(pipeline, batch, tmp_path, **STEPS) == GenerationCounts(1, 2)
    changed = {path for path, stamp in stamps(tmp_path).items() if before[path] != stamp}
    assert {path.relative_to(tmp_path).parts[0] for path in changed} == {"wall2"}
    assert (read_sample(tmp_path / "wall2").images_uint8().int() - first.int()).abs().max() <= 1
    assert generate_samples(pipeline, batch, tmp_path, **STEPS) == GenerationCounts(0, 3)
    assert generate_samples(pipeline, batch, tmp_path, overwrite=True, **STEPS).written == 3
    with pytest.raises(ValueError, match=r"seed of a complete sample must equal that of this run, 5; got 0"):
        generate_samples(pipeline, batch, tmp_path, seed=5, **STEPS)
    batch.t = batch.t + 1
    with pytest.raises(
        ValueError, match=r"cameras.views of a complete sample must equal that of this run, .{0,210}got"
    ):
        generate_samples(pipeline, batch, tmp_path, **STEPS)


def test_a_sequence_is_one_sample_in_the_order_of_time(pipeline, sequence, tmp_path):
    seen = []
    counts = generate_sequence_folder(
        pipeline, sequence, tmp_path, seed=2, progress=lambda frame: seen.append(frame.position), **STEPS
    )
    assert counts == WRITTEN
    assert seen == [0, 3, 4, 1, 2]
    (folder,) = find_samples(tmp_path)
    sample = read_sample(folder)
    assert sample.record.sample_id == "toy00000"
    assert sample.record.settings["frames"] == [1, 2, 3, 4, 5]
    assert sample.record.settings["key_frames"] == [1, 4, 5]
    assert sample.record.prompts == [sequence.prompt(i) for i in range(5)]
    expected = {frame.position: frame.image_uint8 for frame in generate_sequence(pipeline, sequence, seed=2, **STEPS)}
    assert torch.equal(sample.images_uint8().movedim(1, -1), torch.stack([expected[i] for i in range(5)]))
    frames = [sequence.frame(i) for i in range(5)]
    torch.testing.assert_close(sample.record.translations(), torch.stack([frame.t for frame in frames]).float())
    torch.testing.assert_close(sample.record.camera_tensors()[1], torch.stack([frame.R for frame in frames]).float())
    assert (sample.depths() - torch.stack([frame.depths for frame in frames])).abs().max() <= 0.00051


def test_a_stopped_sequence_is_no_sample_and_a_rerun_completes_it(pipeline, sequence, tmp_path):
    def stop(frame):
        if frame.position == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_sequence_folder(pipeline, sequence, tmp_path, progress=stop, **STEPS)
    assert len(stamps(tmp_path)) == 6  # three frames and their depths
    assert not find_samples(tmp_path)
    assert generate_sequence_folder(pipeline, sequence, tmp_path, **STEPS) == WRITTEN
    before = stamps(tmp_path)
    assert generate_sequence_folder(pipeline, sequence, tmp_path, batch_size=3, **STEPS) == SKIPPED
    assert stamps(tmp_path) == before
    for changed, message in (
        ({"seed": 1}, "seed of a complete sample must equal that of this run, 1; got 0"),
        ({"num_views": 5}, "settings.num_views of a complete sample must equal that of this run, 5; got 12"),
        ({"prompt": "a ball"}, "was made with another prompt"),
        ({"settings": {"mode": "full"}}, "settings.mode of a complete sample"),
    ):
        with pytest.raises(ValueError, match=message):
            generate_sequence_folder(pipeline, sequence, tmp_path, **STEPS | changed)
    with pytest.raises(ValueError, match="was made with another prompt"):
        generate_sequence_folder(pipeline, key_sequence(sequence.scene, HEIGHT, WIDTH), tmp_path, **STEPS)
    with pytest.raises(KeyboardInterrupt):
        generate_sequence_folder(pipeline, sequence, tmp_path, overwrite=True, progress=stop, seed=1, **STEPS)
    assert stamps(tmp_path) == before  # the sample of before stays until the new one is complete
    assert read_sample(tmp_path / "toy00000").record.seed == 0
    assert generate_sequence_folder(pipeline, sequence, tmp_path, overwrite=True, prompt="a ball", **STEPS) == WRITTEN
    assert read_sample(tmp_path / "toy00000").record.prompts == ["a ball"] * 5


def test_a_broken_frame_is_named_and_nothing_looks_complete(pipeline, sequence, tmp_path):
    path = sequence.scene.path / "depth" / "3.png"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:50])
        with pytest.raises(ValueError, match=r"depth/3\.png"):
            generate_sequence_folder(pipeline, sequence, tmp_path, **STEPS)
    finally:
        path.write_bytes(whole)
    assert not find_samples(tmp_path)


def test_the_real_frames_are_a_sample_of_the_same_views(pipeline, sequence, tmp_path):
    generate_sequence_folder(pipeline, sequence, tmp_path / "generated", **STEPS)
    assert write_real_sequence(sequence, tmp_path / "real") == WRITTEN
    assert write_real_sequence(sequence, tmp_path / "real") == SKIPPED
    generated, real = (read_sample(tmp_path / name / "toy00000") for name in ("generated", "real"))
    assert generated.record.cameras == real.record.cameras
    assert generated.record.prompts == real.record.prompts
    assert torch.equal(generated.depths(), real.depths())
    assert torch.equal(real.images_uint8()[2], to_uint8(sequence.frame(2).image))
    assert real.record.seed is None
