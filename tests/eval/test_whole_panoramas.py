"""Metrics of panoramas as a whole on planted panoramas: wrap_ratio, ds, erp_fid."""

import pytest
import torch

from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.metrics.ds import CONSTANT, discontinuity_score
from mvdiff.eval.metrics.erp_fid import PanoramaFID
from mvdiff.eval.metrics.fid import frechet_distance
from mvdiff.eval.metrics.wrap_ratio import wrap_ratio
from mvdiff.eval.panorama_images import panorama_images
from mvdiff.eval.runner import evaluate
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.samples import save_panorama
from tests.eval.worlds import write_samples

SETTINGS = EvaluationSettings(device="cpu", num_resamples=100)


def zigzag(step_at_wrap, width=512):
    """Neighbouring columns differ by 4 levels, the last and the first by 2; a ramp over all columns adds to that."""
    columns = torch.tensor([0.0, 4.0]).repeat(width // 2)
    columns[-1] = 2
    return 60 + (columns + torch.linspace(0, step_at_wrap, width)).expand(3, width // 2, width)


def test_planted_steps_at_the_wrap_give_their_ratios():
    """Steps of 2 + s over steps of 4; an independent implementation gave 0.5, 1.6, 5.5, 10.4 on another picture."""
    ratios = [wrap_ratio(zigzag(step)) for step in (0, 5, 20, 40)]
    assert ratios == pytest.approx([0.5, 1.75, 5.5, 10.5], abs=0.02)  # (2 + step) / 4
    assert wrap_ratio(zigzag(20).roll(100, -1)) == pytest.approx(1, abs=0.02)  # the step is elsewhere
    assert wrap_ratio(torch.full((3, 4, 8), 7, dtype=torch.uint8)) is None


def written_out_score(panorama, c):
    """The formula of the paper, pixel by pixel."""
    grey = panorama.double().mean(0) / 255
    height, width = grey.shape

    def edge(row, column):
        rows = [max(row - 1, 0), row, min(row + 1, height - 1)]
        right, left = ([grey[y, (column + side) % width] for y in rows] for side in (1, -1))
        return abs(sum(w * (a - b) for w, a, b in zip((3, 10, 3), right, left, strict=True))) / 32

    total = 0.0
    for y in range(height):
        total += edge(y, width - 1) / (edge(y, width - 2) + c) + edge(y, 0) / (edge(y, 1) + c)
    return float(total / (2 * height))


def test_discontinuity_score_is_its_formula():
    panorama = torch.randint(0, 256, (3, 6, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for c in (CONSTANT, 0.1):
        assert discontinuity_score(panorama, c) == pytest.approx(written_out_score(panorama, c), rel=1e-12)


def test_planted_steps_at_the_wrap_give_their_discontinuity_scores():
    """A ramp of g levels a column beside a step of s levels: (g + (s - g) / 2) / (g + 1)."""
    columns = 100 + 2 * torch.arange(16).roll(8)
    for step in (2, 12, 42):
        panorama = columns.clone()
        panorama[8:] += 2 - step  # the last column is in the middle of the ramp
        expected = (2 + (step - 2) / 2) / (2 + 1)
        assert discontinuity_score(panorama.clamp(0, 255).expand(3, 8, 16).to(torch.uint8)) == pytest.approx(expected)


def test_folders_are_measured_and_a_sample_without_panorama_is_named(tmp_path):
    for name, steps in (("a", (0, 40)), ("b", (20, 20))):
        root = write_samples(tmp_path / name, num=2)
        for number, step in enumerate(steps):
            save_panorama(root / f"s{number}" / "panorama.png", zigzag(step).permute(1, 2, 0).round().to(torch.uint8))
    results = evaluate(tmp_path / "a", tmp_path / "b", ["wrap_ratio", "ds"], SETTINGS)["metrics"]
    assert list(results["wrap_ratio"]["per_sample"].values()) == pytest.approx([0.5, 10.5], rel=0.02)
    assert results["wrap_ratio"]["reference"] == pytest.approx(5.5, rel=0.02)
    assert list(results["ds"]["per_sample"].values()) == sorted(results["ds"]["per_sample"].values())
    (tmp_path / "a" / "s1" / "panorama.png").unlink()
    (tmp_path / "b" / "s0" / "panorama.png").unlink()
    for name in ("wrap_ratio", "ds", "sharpness"):
        results = evaluate(tmp_path / "a", None, [name], SETTINGS)["metrics"]
        if name == "sharpness":
            assert all("value" in entry for entry in results.values())
        else:
            assert "stored as panorama.png" in results[name]["missing"]
            assert "(at generated sample 's1')" in results[name]["missing"]


def test_distances_of_panoramas_are_those_of_their_images(tmp_path):
    """Noise everywhere, and on one side panoramas whose halves differ: a step at the wrap."""

    def run(images):
        return torch.nn.functional.adaptive_avg_pool2d(images.float(), (1, 2)).flatten(1), None

    network = FeatureExtractor("pixels", "", 6, run, "as they are")
    generator, panoramas = torch.Generator().manual_seed(0), {}
    for name, step in (("a", 30), ("b", 0)):
        root = write_samples(tmp_path / name, num=2)
        panoramas[name] = torch.randint(0, 200, (2, 3, 512, 1024), generator=generator).to(torch.uint8)
        panoramas[name][..., :512] += torch.tensor(step, dtype=torch.uint8)
        for number, panorama in enumerate(panoramas[name]):
            save_panorama(root / f"s{number}" / "panorama.png", panorama.permute(1, 2, 0))
    metrics = evaluate(tmp_path / "a", tmp_path / "b", [PanoramaFID(network=network)], SETTINGS)["metrics"]
    parts = {
        "erp_fid": "whole",
        "erp_fid_rolled": "rolled",
        "erp_fid_8_views": "ring",
        "erp_fid_20_views": "icosahedron",
    }
    assert list(metrics) == list(parts)
    images = {name: [panorama_images(one) for one in panoramas[name]] for name in panoramas}
    for column, part in parts.items():
        own, real = (torch.cat([run(one[part])[0] for one in images[name]]) for name in ("a", "b"))
        assert metrics[column]["value"] == pytest.approx(frechet_distance(own, real), rel=1e-6)
        assert metrics[column]["num_images"] == len(own)
        assert metrics[column]["num_samples"] == 2
    assert len({entry["variant"] for entry in metrics.values()}) == 4
    assert metrics["erp_fid"]["value"] > 500
    alone = evaluate(tmp_path / "a", None, [PanoramaFID(network=network)], SETTINGS)["metrics"]
    assert all("no reference images" in entry["missing"] for entry in alone.values())
