"""The cache of features: numbers do not depend on it, no pass is made twice, and no file is trusted."""

import json
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from mvdiff.cli.main import main
from mvdiff.eval.extractors import FeatureExtractor, toy_extractor
from mvdiff.eval.feature_cache import ROWS_PER_FILE, FeatureCache
from mvdiff.eval.metrics.clip_score import ClipScore, ClipScorer
from mvdiff.eval.metrics.fid import FID
from mvdiff.eval.metrics.inception_score import InceptionScore
from mvdiff.eval.runner import evaluate, evaluate_each
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.eval.sources import FolderSource
from mvdiff.text_context import TextContext
from tests.eval.kill_at import evaluate_until
from tests.eval.worlds import write_judge, write_samples
from tests.faults import full_disk
from tests.forked import KILLED, run

TOY_METRICS = ("toy_fid", "toy_inception_score", "sharpness")


class Pixels:
    """A network that notes the size of each pass."""

    def __init__(self, weights_hash="w", variant="as they are"):
        self.passes = []
        self.network = FeatureExtractor("pixels", weights_hash, 6, self._run, variant)

    def _run(self, images):
        self.passes.append(len(images))
        pixels = images.double().flatten(1)
        return pixels[:, :6], pixels[:, 6:10]

    def score(self, generated, reference=None, cache=None, **settings):
        metrics = [FID(network=self.network, **settings), InceptionScore(network=self.network, num_splits=2)]
        return evaluate(generated, reference, metrics, cache=cache)["metrics"]


@pytest.fixture
def toy(tmp_path):
    return EvaluationSettings(toy_features=str(write_judge(tmp_path / "judge")), num_splits=2, num_resamples=100)


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_numbers_with_a_new_and_a_filled_cache_are_those_without(tmp_path, toy):
    folders = {name: write_samples(tmp_path / name, noise=noise) for name, noise in (("a", 0.2), ("b", 0.4))}
    real = write_samples(tmp_path / "real", num=5)

    def scored(**options) -> dict:
        return {name: evaluate(one, real, TOY_METRICS, toy, **options) | {"run": None} for name, one in folders.items()}

    expected = scored()
    for _ in range(2):
        assert scored(cache=FeatureCache(tmp_path / "cache")) == expected
    each = evaluate_each(folders, real, TOY_METRICS, toy, cache=FeatureCache(tmp_path / "cache"))
    assert {name: one | {"run": None} for name, one in each.items()} == expected
    again = FeatureCache(tmp_path / "cache")
    find = again.rows_of(toy_extractor(toy.toy_features).weights_hash, toy_extractor(toy.toy_features).variant)
    sample = next(iter(FolderSource(real)))
    features, logits = toy_extractor(toy.toy_features)(sample.images_uint8)
    for view, key in enumerate(sample.pixel_hashes):
        assert torch.equal(find(key)["features"], features[view])
        assert torch.equal(find(key)["logits"], logits[view])
    assert find(64 * "0") is None


def test_each_image_passes_a_network_once(tmp_path):
    generated, other = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b", noise=0.4)
    real = write_samples(tmp_path / "real", num=5)
    first = Pixels()
    results = first.score(generated, real, FeatureCache(tmp_path / "cache"))
    assert first.passes == [8] * 9
    second = Pixels()
    assert second.score(generated, real, FeatureCache(tmp_path / "cache")) == results
    assert second.passes == []
    second.score(other, real, FeatureCache(tmp_path / "cache"))
    assert second.passes == [8] * 4  # the reference was measured with the first method
    assert Pixels().score(generated, real) == results


@pytest.mark.parametrize(
    "changed",
    [Pixels("other"), Pixels(variant="resized"), "batch", "device"],
    ids=["weights", "variant", "batch", "device"],
)
def test_rows_of_something_else_are_not_used(tmp_path, changed):
    folder, cache = write_samples(tmp_path / "a", num=2), FeatureCache(tmp_path / "cache")
    Pixels().score(folder, folder, cache)
    pixels = changed if isinstance(changed, Pixels) else Pixels()
    if changed == "device":
        cache.device = "tpu"
        sample = next(iter(FolderSource(folder)))
        pixels.network.cache = cache
        pixels.network.of_sample(sample)
        assert pixels.passes == [8]
        return
    pixels.score(folder, folder, cache, **({"batch_size": 3} if changed == "batch" else {}))
    assert pixels.passes == ([3, 3, 2] * 2 if changed == "batch" else [8, 8])


def test_a_network_without_a_hash_is_not_cached(tmp_path):
    folder, pixels = write_samples(tmp_path / "a", num=2), Pixels(weights_hash="")
    for _ in range(2):
        pixels.score(folder, folder, FeatureCache(tmp_path / "cache"))
    assert pixels.passes == [8] * 8
    assert not (tmp_path / "cache").exists()


def test_files_are_written_every_256_images_and_rows_in_memory_are_few(tmp_path):
    cache, pixels = FeatureCache(tmp_path), torch.arange(4.0)
    for number in range(2 * ROWS_PER_FILE + 1):
        cache.fetch({"network": "n"}, [f"{number:064x}"], lambda number=number: {"features": pixels[None] + number})
        assert len(files(tmp_path)) == (number + 1) // ROWS_PER_FILE
    cache.flush()
    assert len(files(tmp_path)) == 3
    again = FeatureCache(tmp_path)
    for number in (0, 255, 256, 512):
        row = again.fetch({"network": "n"}, [f"{number:064x}"], lambda: pytest.fail("computed again"))
        assert torch.equal(row["features"][0], pixels + number)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-8])


def one_bit(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def foreign(path):
    save_file({"value": torch.ones(3)}, path)


def of_another_network(path):
    other = FeatureCache(path.parents[1])
    keys = [f"{number:064x}" for number in range(8)]
    other.fetch({"network": "other"}, keys, lambda: {"features": torch.zeros(8, 6)})
    other.flush()
    shutil.move(next(one for one in files(path.parents[1]) if one.parent != path.parent), path)


@pytest.mark.parametrize("damage", [truncated, one_bit, foreign, of_another_network], ids=lambda f: f.__name__)
def test_a_damaged_or_foreign_file_is_named_and_its_rows_computed_again(tmp_path, caplog, damage):
    folder = write_samples(tmp_path / "a", num=3)
    results = Pixels().score(folder, folder, FeatureCache(tmp_path / "cache"))
    [path] = files(tmp_path / "cache")
    damage(path)
    pixels = Pixels()
    assert pixels.score(folder, folder, FeatureCache(tmp_path / "cache")) == results
    assert pixels.passes == [8] * 3
    [line] = [record.getMessage() for record in caplog.records]
    assert str(path) in line
    assert "is no file of this cache (" in line
    caplog.clear()
    Pixels().score(folder, folder, FeatureCache(tmp_path / "cache"))
    assert not caplog.records  # the same rows replaced the file


def test_a_large_pass_after_rows_that_wait_is_kept_in_order(tmp_path):
    cache, rows = FeatureCache(tmp_path), torch.arange(1400).view(700, 2)
    keys = [f"{number:064x}" for number in range(700)]
    for part in (slice(0, 5), slice(5, 605), slice(605, 700)):  # 5 wait when 600 come; the storage is used again
        found = cache.fetch({"network": "n"}, keys[part], lambda part=part: {"numbers": rows[part]})
        assert torch.equal(found["numbers"], rows[part])
    cache.flush()
    read = FeatureCache(tmp_path).fetch({"network": "n"}, keys, dict)["numbers"]
    assert torch.equal(read, rows)


def test_a_feature_that_is_not_finite_is_not_kept(tmp_path):
    cache, key = FeatureCache(tmp_path), 64 * "a"
    for _ in range(2):
        rows = cache.fetch({"network": "n"}, [key], lambda: {"features": torch.tensor([[1.0, float("nan")]])})
        assert torch.isnan(rows["features"][0, 1])
    cache.flush()
    assert not files(tmp_path)


def test_scores_of_clip_are_kept_by_image_and_prompt(tmp_path):
    passes = []

    def embed(images, prompts):
        passes.append(len(prompts))
        return images.double().flatten(1)[:, :4] + 1, torch.tensor([[len(p), 1.0, 2.0, 3.0] for p in prompts])

    def score(root, cache=None):
        scorer = ClipScorer("clip", "w", embed, TextContext(77, list, str))
        return evaluate(root, None, [ClipScore(network=scorer)], cache=cache)["metrics"]

    root = write_samples(tmp_path / "a", num=3, noise=0.2)
    expected = score(root)
    passes.clear()
    assert score(root, FeatureCache(tmp_path / "cache")) == expected
    assert score(root, FeatureCache(tmp_path / "cache")) == expected
    assert passes == [8] * 3
    record = json.loads((root / "s1" / "sample.json").read_text())
    record["prompts"][2] = "a blue lamp"
    (root / "s1" / "sample.json").write_text(json.dumps(record))
    assert score(root, FeatureCache(tmp_path / "cache")) == score(root)
    assert passes == [8] * 3 + [8] + [8] * 3  # one sample anew, then all three without a cache


def test_a_full_disk_costs_the_cache_and_not_the_numbers(tmp_path, monkeypatch, capsys):
    root, judge = write_samples(tmp_path / "a", num=2, noise=0.2), write_judge(tmp_path / "judge")
    words = ["evaluate", "--generated", str(root), "--reference", str(root), "--metrics", "toy_fid"]
    words += ["--toy_features", str(judge), "--num_workers", "0"]
    with monkeypatch.context() as patch:
        full_disk(patch, call=1)
        assert main([*words, "--cache", str(tmp_path / "cache")]) == 3
    out = capsys.readouterr()
    assert "toy_fid" in out.out
    assert "--cache" in out.err
    assert "No space left on device" in out.err
    assert main([*words, "--cache", str(tmp_path / "cache")]) == 0
    assert main([*words, "--cache", str(root / "cache")]) == 1
    assert "--generated and --cache must not contain each other" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_gives_the_same_results(tmp_path):
    """Of 46 samples of 8 views, 32 lie in the cache when the process is killed at the 40th."""
    generated, real = write_samples(tmp_path / "a", num=40, noise=0.2), write_samples(tmp_path / "b", num=6)
    words = ["evaluate", "--generated", str(generated), "--reference", str(real), "--metrics", *TOY_METRICS, "kid"]
    words = [word if word != "kid" else "tests.eval.gathering.ToyKID" for word in words]
    words += ["--toy_features", str(write_judge(tmp_path / "judge")), "--num_splits", "2", "--num_resamples", "100"]
    words += ["--fid_resamples", "100", "--num_workers", "0"]
    due = 2 * 40 - 1  # two metrics see each sample
    killed = [*words, "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "killed.json")]
    run(tmp_path / "log", evaluate_until, due, killed, status=KILLED)
    assert not (tmp_path / "killed.json").exists()
    assert len(files(tmp_path / "cache")) == 1
    passes, call = [], FeatureExtractor.__call__

    def counted(self, images, batch_size=32):
        passes.append(len(images))
        return call(self, images, batch_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractor, "__call__", counted)
        assert main(killed) == 0
    assert passes == [8] * (46 - 32)
    assert main([*words, "--cache", str(tmp_path / "other"), "--out", str(tmp_path / "whole.json")]) == 0
    assert main([*words, "--out", str(tmp_path / "without.json")]) == 0
    first, second, third = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("killed", "whole", "without"))
    for results in (first, second, third):
        results.pop("run", None)  # seconds and command
    assert first == second == third
    assert "less its bias, 40 samples, 100 resamples" in first["metrics"]["toy_fid"]["interval_rule"]


class Watched(FolderSource):
    """Samples that note how many images are in memory at once."""

    images, most = [], 0

    def __iter__(self):
        for sample in super().__iter__():
            Watched.images.append(weakref.ref(sample.images_uint8))
            Watched.most = max(Watched.most, sum(image() is not None for image in Watched.images))
            yield sample


@pytest.mark.parametrize("caches", [False, True])
def test_features_are_kept_and_images_are_not(tmp_path, toy, caches):
    generated, real = (Watched(write_samples(tmp_path / name, num=9, noise=0.2)) for name in ("a", "b"))
    Watched.images, Watched.most = [], 0
    metrics = (*TOY_METRICS, "overlap_psnr", "caption_agreement")
    cache = FeatureCache(tmp_path / "cache") if caches else None
    evaluate(generated, real, metrics, replace(toy, overlap_size=0), cache=cache)
    assert len(Watched.images) == 18
    assert Watched.most <= 3  # the one that is measured, the one before, and the one being read


def test_batches_of_another_size_change_no_more_than_the_last_digits(tmp_path, toy):
    generated, real = write_samples(tmp_path / "a", noise=0.2), write_samples(tmp_path / "b")
    metrics = (*TOY_METRICS, "tests.eval.gathering.ToyKID", "overlap_psnr", "border_ratio")
    first, *others = [
        evaluate(generated, real, metrics, replace(toy, batch_size=size, overlap_size=0))["metrics"]
        for size in (1, 3, 64)
    ]
    for other in others:
        for name, entry in first.items():
            assert other[name]["value"] == pytest.approx(entry["value"], rel=1e-5, abs=1e-8), name
