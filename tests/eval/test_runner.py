"""The runner over real folders, with real (tiny or random) networks."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mvdiff.data.datamodule import Matterport3DDataModule
from mvdiff.eval.extractors import toy_extractor
from mvdiff.eval.features import ToyFeatureNet
from mvdiff.eval.intervals import interval
from mvdiff.eval.metrics.fid import frechet_distance
from mvdiff.eval.metrics.sharpness import gradient_energy
from mvdiff.eval.overlap import overlap_psnr
from mvdiff.eval.results_file import flat_numbers, write_results
from mvdiff.eval.runner import EvaluationSettings, evaluate, evaluate_each
from mvdiff.eval.settings import SettingError
from mvdiff.eval.sources import DataSource, FolderSource
from mvdiff.eval.table import results_table
from mvdiff.eval.weights import file_hash
from mvdiff.geometry.cameras import Rig
from mvdiff.samples import from_uint8, read_sample, to_uint8
from tests.data.folders import write_matterport3d
from tests.eval.clip import write_transformers_clip
from tests.eval.inception import write_random_inception
from tests.eval.worlds import RIG, views, write_judge, write_samples, write_upstream

TOY_METRICS = ("toy_fid", "toy_inception_score", "overlap_psnr", "caption_agreement", "sharpness")


@pytest.fixture
def toy(tmp_path):
    return EvaluationSettings(
        toy_features=str(write_judge(tmp_path / "judge")), overlap_size=0, num_splits=2, num_resamples=100
    )


def test_every_number_equals_its_function(tmp_path, toy):
    generated, reference = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b", num=5)
    results = evaluate(generated, reference, ("toy_fid", "toy_inception_score", "overlap_psnr", "sharpness"), toy)
    metrics = results["metrics"]
    a, b = (torch.cat([s.images_uint8 for s in FolderSource(root)]) for root in (generated, reference))
    extractor = toy_extractor(toy.toy_features)
    assert metrics["toy_fid"]["value"] == pytest.approx(frechet_distance(extractor(a)[0], extractor(b)[0]), rel=1e-4)
    assert metrics["toy_fid"]["model"] == "toy-features"
    assert metrics["toy_fid"]["weights_hash"] == extractor.weights_hash
    assert (metrics["toy_fid"]["num_images"], metrics["toy_fid"]["num_reference_images"]) == (32, 40)
    K, R = RIG.cameras()
    batch = a.unflatten(0, (4, 8))
    expected = overlap_psnr(batch, K.expand(4, 8, 3, 3), R.expand(4, 8, 3, 3), size=None)
    for name in ("overlap_psnr_mean_of_pairs", "overlap_psnr_pooled"):
        assert metrics[name]["value"] == pytest.approx(expected[name], abs=1e-6)
        assert metrics[name]["ratio_to_reference"] == pytest.approx(metrics[name]["value"] / metrics[name]["reference"])
        assert "interval" not in metrics[name]
        assert metrics[name]["interval_rule"] == "none: 4 samples, fewer than 8"
        assert metrics[name]["num_pairs"] == 32
    assert "mean over pairs" in metrics["overlap_psnr_mean_of_pairs"]["variant"]
    assert "pooled" in metrics["overlap_psnr_pooled"]["variant"]
    assert 0 < metrics["overlap_psnr_mean_of_pairs"]["mean_of_pair_ratios"] < 1
    per_sample = metrics["overlap_psnr_mean_of_pairs"]["per_sample"]
    assert list(per_sample) == ["s0", "s1", "s2", "s3"]
    assert np.mean(list(per_sample.values())) == pytest.approx(metrics["overlap_psnr_mean_of_pairs"]["value"])
    assert metrics["sharpness_gradient_energy"]["value"] == pytest.approx(gradient_energy(a).mean().item())
    assert metrics["sharpness_gradient_energy"]["ratio_to_reference"] > 1
    assert results["generated"]["num_samples"] == 4
    assert results["reference"]["num_samples"] == 5


def test_methods_that_share_a_reference_are_scored_as_one_by_one(tmp_path, toy):
    class Counted(FolderSource):
        reads = 0

        def _sample(self, index):
            Counted.reads += 1
            return super()._sample(index)

    root = write_samples(tmp_path / "real", num=5)
    folders = {name: write_samples(tmp_path / name, noise=noise) for name, noise in (("a", 0.2), ("b", 0.4))}
    together = evaluate_each(folders, Counted(root), TOY_METRICS, toy)
    assert Counted.reads == 5
    for reference, results in ((root, together), (None, evaluate_each(folders, None, TOY_METRICS, toy))):
        alone = {name: evaluate(folder, reference, TOY_METRICS, toy) for name, folder in folders.items()}
        for one in (*results.values(), *alone.values()):
            assert one.pop("run")["seconds"] >= 0
        assert results == alone


def test_same_folder_twice_is_perfect(tmp_path, toy):
    folder = write_samples(tmp_path / "a")
    metrics = evaluate(folder, folder, ("toy_fid", "overlap_psnr"), toy)["metrics"]
    assert metrics["toy_fid"]["value"] < 1e-6
    assert metrics["overlap_psnr_pooled"]["ratio_to_reference"] == 1
    assert metrics["overlap_psnr_mean_of_pairs"]["mean_of_pair_ratios"] == 1


def test_default_metrics_with_local_weights(tmp_path):
    rig = Rig([(0, 0, 90), (45, 0, 90)], height=12, width=12)
    generated = write_samples(tmp_path / "a", num=2, noise=0.2, rig=rig)
    reference = write_samples(tmp_path / "b", num=2, rig=rig)
    weights = write_random_inception(tmp_path / "inception.pth")
    settings = EvaluationSettings(
        inception_weights=str(weights),
        inception_hash=file_hash(weights)[:8],
        clip_model=str(write_transformers_clip(tmp_path / "clip")),
        overlap_size=24,
        num_splits=2,
        num_resamples=100,
    )
    results = evaluate(generated, reference, settings=settings)
    metrics = results["metrics"]
    assert [name for name, entry in metrics.items() if "missing" in entry] == []
    assert metrics["fid"]["model"] == metrics["inception_score"]["model"] == "inception-v3-compat"
    assert metrics["fid"]["weights_hash"] == file_hash(weights)
    assert "2048 features" in metrics["fid"]["variant"]
    assert "images than 2048 features" in metrics["fid"]["note"]
    assert metrics["clip_score"]["model"] == "transformers CLIPModel clip"
    assert metrics["clip_score"]["num_images"] == 4
    assert "resized to 24" in metrics["overlap_psnr_pooled"]["variant"]
    beside = {"overlap_chance", "overlap_chance_zncc", "overlap_zncc", "border_ratio", "sharpness_gradient_energy"}
    assert set(flat_numbers(results)) == set(metrics) > beside


def test_what_cannot_be_computed_is_missing_and_the_rest_comes_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    settings = EvaluationSettings(
        overlap_size=0, clip_weights=str(tmp_path / "none.pt"), toy_features=str(tmp_path / "none")
    )
    results = evaluate(
        write_samples(tmp_path / "a"), metrics=("fid", "clip_score", "overlap_psnr", "toy_fid"), settings=settings
    )
    metrics = results["metrics"]
    assert "set inception_weights" in metrics["fid"]["missing"]
    assert "set clip_weights" in metrics["clip_score"]["missing"]
    assert "config.json is missing" in metrics["toy_fid"]["missing"]
    assert "value" in metrics["overlap_psnr_pooled"]
    assert "reference" not in metrics["overlap_psnr_pooled"]
    assert set(flat_numbers(results)) == {"overlap_psnr_mean_of_pairs", "overlap_psnr_pooled"}


def test_no_reference_leaves_out_what_needs_one(tmp_path, toy):
    metrics = evaluate(write_samples(tmp_path / "a"), metrics=TOY_METRICS, settings=toy)["metrics"]
    assert metrics["toy_fid"]["missing"] == "no reference images. Pass --reference DIR or --config YAML."
    assert "no sample has true labels" in metrics["caption_agreement"]["missing"]
    assert "value" in metrics["toy_inception_score"]


def test_broken_samples_are_counted_and_named(tmp_path, toy):
    root = write_samples(tmp_path / "a")
    (root / "s1" / "sample.json").unlink()
    (root / "s2" / "3.png").write_bytes(b"broken")
    results = evaluate(root, metrics=("overlap_psnr",), settings=toy)
    described = results["generated"]
    assert (described["num_samples"], described["num_incomplete"], described["num_unreadable"]) == (2, 1, 1)
    assert "3.png" in described["unreadable"][0]["reason"]
    assert list(results["metrics"]["overlap_psnr_mean_of_pairs"]["per_sample"]) == ["s0", "s3"]


def test_folder_without_samples_is_an_error(tmp_path, toy):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="at least one complete sample; got 0 incomplete"):
        evaluate(tmp_path / "empty", metrics=("overlap_psnr",), settings=toy)
    with pytest.raises(ValueError, match=r"metrics must be .*fid, .*; got 'psnr'"):
        evaluate(tmp_path / "empty", metrics=("psnr",), settings=toy)


def test_upstream_folders_bring_their_ground_truth(tmp_path, toy):
    root = write_upstream(tmp_path / "up")
    results = evaluate(root, metrics=("toy_fid", "overlap_psnr"), settings=toy)
    assert results["reference"]["kind"] == "ground truth beside generated views"
    assert results["metrics"]["toy_fid"]["value"] > 0
    assert results["metrics"]["overlap_psnr_pooled"]["ratio_to_reference"] < 1
    assert evaluate(write_samples(tmp_path / "a"), root, ("toy_fid",), toy)["reference"] == results["reference"]


def test_caption_agreement_uses_truth_of_sample_or_file(tmp_path, toy):
    net = ToyFeatureNet.from_pretrained(toy.toy_features)
    read = net.predict(torch.from_numpy(views(0)).permute(0, 3, 1, 2))
    truth = [{head: read[head][i] for head in read} for i in range(8)]
    judged = [view for view in truth if "none" not in view.values()]
    root = write_samples(tmp_path / "a", num=1, truth=truth)
    metrics = evaluate(root, root, metrics=("caption_agreement",), settings=toy)["metrics"]
    if judged:
        assert metrics["caption_agreement"]["value"] == metrics["caption_agreement"]["reference"] == 1
        assert metrics["caption_agreement"]["num_images"] == len(judged)
    wrong = [{"object": "sofa", "colour": "red", "walls": "white"}, *[None] * 7]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"s0": wrong}))
    settings = EvaluationSettings(toy_features=toy.toy_features, truth=str(path))
    entry = evaluate(root, metrics=("caption_agreement",), settings=settings)["metrics"]["caption_agreement"]
    assert entry["value"] == float((read["object"][0], read["colour"][0], read["walls"][0]) == ("sofa", "red", "white"))
    assert set(entry["per_head"]) == {"object", "colour", "walls"}
    assert entry["per_sample"] == {"s0": entry["value"]}


def test_label_agreement_counts_labels_of_the_chosen_heads(tmp_path, toy):
    net = ToyFeatureNet.from_pretrained(toy.toy_features)
    read = [net.predict(torch.from_numpy(views(seed)[:1]).permute(0, 3, 1, 2)) for seed in range(3)]
    thing, walls = read[0]["object"][0], read[0]["walls"][0]
    assert thing != "none"  # else it would not be judged
    half = {"object": thing, "walls": "green" if walls == "white" else "white", "colour": "not asked"}
    lone = {"object": "none", "walls": read[2]["walls"][0]}
    root, path = write_samples(tmp_path / "a", num=3), tmp_path / "truth.json"
    settings = replace(toy, truth=str(path), judge_heads=["object", "walls"])

    def score(settings, **truth):  # first views only
        path.write_text(json.dumps({name: [stated, *[None] * 7] for name, stated in truth.items()}))
        metrics = evaluate(root, metrics=("caption_agreement",), settings=settings)["metrics"]
        return metrics["caption_agreement"], metrics["label_agreement"]

    by_view, by_label = score(settings, s0=half, s1=None, s2=lone)
    assert by_label["per_sample"] == {"s0": 0.5, "s2": 1.0}
    assert (by_label["value"], by_label["num_samples"]) == (0.75, 2)
    assert by_label["variant"] == "share of stated labels that are read (of object, walls), mean over samples"
    assert by_view["per_sample"] == {"s0": 0.0}  # a view of which not every head is stated is not judged as a whole
    by_view, by_label = score(settings, s0=half | {"walls": walls})
    assert by_view["value"] == by_label["value"] == 1
    with pytest.raises(SettingError, match=r"judge_heads must be among object, colour, walls; got \['floor'\]"):
        score(replace(settings, judge_heads=["floor"]), s0=lone)


def test_reference_that_breaks_off_is_reported_not_used_in_part(tmp_path, toy):
    class BreaksOff(FolderSource):
        def __iter__(self):
            yield next(super().__iter__())
            raise ValueError("panorama 2 must have six faces; got five")

    generated = write_samples(tmp_path / "a")
    results = evaluate(generated, BreaksOff(generated), ("toy_fid", "overlap_psnr"), toy)
    assert results["reference"] == {"missing": "panorama 2 must have six faces; got five"}
    assert results["metrics"]["toy_fid"]["missing"] == "reference: panorama 2 must have six faces; got five"
    assert "reference" not in results["metrics"]["overlap_psnr_pooled"]
    assert "six faces" in results["metrics"]["overlap_psnr_pooled"]["lacks"][0]


class Plain:
    """Samples and a description, and nothing else that a Source has."""

    def __init__(self, root):
        self.samples = list(FolderSource(root))

    def __iter__(self):
        return iter(self.samples)

    def describe(self):
        return {"num_samples": len(self.samples)}


def test_any_object_with_samples_and_a_description_is_a_source(tmp_path, toy):
    generated, reference = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b", num=3)
    seen, names = [], (*TOY_METRICS[:3], "sharpness")
    plain = Plain(generated)
    results = evaluate(plain, Plain(reference), names, toy, progress=lambda *call: seen.append(call))
    assert results["metrics"] == evaluate(generated, reference, names, toy)["metrics"]
    assert [results[side]["num_samples"] for side in ("generated", "reference")] == [4, 3]
    assert [results[side]["num_images"] for side in ("generated", "reference")] == [32, 24]
    assert seen[:2] == [("generated", "s0", 0), ("generated", "s1", 0)]


def test_processes_cannot_share_an_object_that_is_no_source(tmp_path, toy):
    folder = write_samples(tmp_path / "a", num=1)
    with pytest.raises(ValueError, match=r"generated must be .*Source.*; got Plain"):
        evaluate(Plain(folder), metrics=("sharpness",), settings=toy, distributed=True)
    with pytest.raises(ValueError, match=r"reference must be .*Source.*; got Plain"):
        evaluate(folder, Plain(folder), ("sharpness",), toy, distributed=True)


def test_data_module_as_reference(tmp_path, toy):
    K, R = RIG.cameras()

    class Data:
        def eval_dataset(self, split):
            assert split == "test"
            return Views()

    class Views(Dataset):
        def __len__(self):
            return 2

        def __getitem__(self, key):
            epoch, seed = key
            return {
                "images": from_uint8(torch.from_numpy(views(seed)).permute(0, 3, 1, 2)),
                "K": K,
                "R": R,
                "prompts": ["a sofa"] * 8,
                "sample_id": f"s{seed}",
                "sample_index": seed,
                "epoch": epoch,
            }

    folder = write_samples(tmp_path / "a", num=2)
    metrics = evaluate(folder, DataSource(Data()), ("toy_fid", "overlap_psnr"), toy)["metrics"]
    assert metrics["toy_fid"]["value"] < 1e-6
    assert metrics["overlap_psnr_mean_of_pairs"]["mean_of_pair_ratios"] == pytest.approx(1)
    assert next(iter(DataSource(Data()))).prompts == ["a sofa"] * 8
    with pytest.raises(ValueError, match="split must be 'train', 'val' or 'test'; got 'dev'"):
        DataSource(Data(), "dev")


def test_every_split_is_read_in_order_at_yaw_0_each_sample_once(tmp_path):
    root = write_matterport3d(tmp_path / "mp3d", num_train=6, num_test=2)
    data = Matterport3DDataModule(root, RIG, batch_size=4, num_val=1, mirror=True)
    for split, scenes in (("train", range(5)), ("val", [5]), ("test", [6, 7])):
        samples = list(DataSource(data, split))
        assert [sample.sample_id for sample in samples] == [f"scene{i}_pano{i}" for i in scenes]
        assert [sample.prompts[1] for sample in samples] == [f"pano{i} towards 45" for i in scenes]
        K, R = RIG.cameras()
        source = data.source("test" if split == "test" else "train")
        expected = [source.views(i % 6, K, R, RIG.height, RIG.width) for i in scenes]
        for sample, truth in zip(samples, expected, strict=True):
            assert torch.equal(sample.images_uint8, to_uint8(truth))
    with pytest.raises(ValueError, match="num_val must be at least 1 for a val split; got 0"):
        list(DataSource(Matterport3DDataModule(root, RIG, num_val=0), "val"))


def test_images_at_another_size_than_their_cameras(tmp_path, toy):
    """A record made at 24 pixels whose views were saved at 12: K follows the images."""
    folder = write_samples(tmp_path / "a", num=1)
    record = json.loads((folder / "s0" / "sample.json").read_text())
    record["rig"] = RIG.resized(24, 24).to_dict()
    before = evaluate(folder, metrics=("overlap_psnr",), settings=toy)["metrics"]
    (folder / "s0" / "sample.json").write_text(json.dumps(record))
    assert read_sample(folder / "s0").record.camera_tensors()[2] == 24
    after = evaluate(folder, metrics=("overlap_psnr",), settings=toy)["metrics"]
    assert after["overlap_psnr_pooled"]["value"] == pytest.approx(before["overlap_psnr_pooled"]["value"], abs=1e-4)


def test_fid_interval_is_over_panoramas(tmp_path, toy):
    settings = EvaluationSettings(toy_features=toy.toy_features, fid_resamples=100)
    generated, reference = write_samples(tmp_path / "a", num=8, noise=0.2), write_samples(tmp_path / "b")
    entry = evaluate(generated, reference, ("toy_fid",), settings)["metrics"]["toy_fid"]
    extractor = toy_extractor(toy.toy_features)
    samples = sorted(FolderSource(generated), key=lambda sample: sample.sample_id)
    own = torch.stack([extractor(s.images_uint8)[0] for s in samples]).numpy()
    truth = torch.cat([extractor(s.images_uint8)[0] for s in FolderSource(reference)])
    expected = interval(lambda x: frechet_distance(torch.from_numpy(x).flatten(0, 1), truth), own, num_resamples=100)
    assert entry["interval"] == pytest.approx([expected.low, expected.high], rel=1e-4)
    assert entry["interval_rule"] == expected.rule


def test_results_file_is_json_and_atomic(tmp_path, toy):
    results = evaluate(write_samples(tmp_path / "a"), metrics=("overlap_psnr", "toy_fid"), settings=toy)
    path = write_results(results, tmp_path / "deep" / "results.json")
    written = json.loads(path.read_text())
    assert written["metrics"] == json.loads(json.dumps(results["metrics"]))
    assert written["generated"]["path"] == "../a"
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="--out must be writable"):
        write_results(results, tmp_path / "file" / "results.json")


def test_two_runs_give_the_same_bytes_but_for_the_time(tmp_path, toy):
    generated, reference = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b")
    first, second = (evaluate(generated, reference, TOY_METRICS, toy) for _ in range(2))
    first["run"]["seconds"] = second["run"]["seconds"]
    paths = [write_results(results, tmp_path / f"{i}.json") for i, results in enumerate((first, second))]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_table_shows_numbers_and_reasons(tmp_path, toy):
    results = evaluate(write_samples(tmp_path / "a"), metrics=("overlap_psnr", "toy_fid"), settings=toy)
    text = results_table(results, 80)
    assert "overlap_psnr_pooled" in text
    assert f"{results['metrics']['overlap_psnr_pooled']['value']:.4g}" in text
    assert "homography; 32 pairs; squared error pooled over all pixels" in " ".join(text.split())
    assert "toy_fid: missing: no reference images." in text
    assert "ratio" not in text  # no reference, no such column
