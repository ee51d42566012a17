"""The variants that packaged protocols demand are those that the metrics report."""

import json
from dataclasses import replace

import open_clip
import pytest
import torch

from mvdiff.eval import realnet
from mvdiff.eval.checks import DEFAULT_METRICS
from mvdiff.eval.extractors import FeatureExtractor, inception_extractor
from mvdiff.eval.metrics import metric_class
from mvdiff.eval.metrics.border_ratio import BorderRatio
from mvdiff.eval.metrics.clip_score import ClipScore, clip_scorer
from mvdiff.eval.metrics.erp_fid import PanoramaFID
from mvdiff.eval.metrics.fid import FID
from mvdiff.eval.metrics.inception_score import InceptionScore
from mvdiff.eval.metrics.overlap_chance import OverlapChance
from mvdiff.eval.metrics.overlap_psnr import OverlapPSNR
from mvdiff.eval.metrics.overlap_zncc import OverlapZNCC
from mvdiff.eval.metrics.realnet import Realnet
from mvdiff.eval.metrics.sharpness import Sharpness
from mvdiff.eval.protocol_files import protocol_from, read_protocol
from mvdiff.eval.runner import evaluate
from mvdiff.eval.sample import ScoredSample
from mvdiff.eval.settings import EvaluationSettings
from mvdiff.geometry.cameras import RingRig
from mvdiff.samples import save_panorama
from tests.eval.clip import TINY_NAME, write_open_clip
from tests.eval.inception import write_random_inception
from tests.eval.worlds import write_samples

PAPER = ("mvdiffusion-pano-v1", "mvdiffusion-pano-community-v1", "mvdiffusion-depth-v1")


def variants(name: str) -> dict[str, str]:
    return {number: rule.variant for number, rule in read_protocol(name).numbers.items()}


def test_numbers_of_the_toy_protocol(tmp_path):
    truth = [{"object": "sofa", "colour": "red", "walls": "white"}] * 8
    folder = write_samples(tmp_path / "a", num=2, truth=truth)
    text = json.dumps(read_protocol("toy-pano-v1").values())  # at a small size: 1024 takes ten seconds
    small = json.loads(
        text.replace("resized to 1024", "resized to 16").replace('"overlap_size": 1024', '"overlap_size": 16')
    )
    protocol = protocol_from({"title": "small", **small}, "small")
    results = evaluate(folder, folder, protocol=protocol, settings=EvaluationSettings(device="cpu"))
    assert [name for name, entry in results["metrics"].items() if "missing" in entry] == []
    assert [line for line in results["deviations"] if line.startswith("numbers.")] == []
    fields = {line.partition(" ")[0] for line in results["deviations"]}
    counts = {"images.num_samples", "images.num_reference_samples", "images.height", "images.width"}
    assert fields == counts | {"data.ids", "data.prompts_hash"}


def test_numbers_of_inception(tmp_path):
    path = write_random_inception(tmp_path / "inception.pth")
    extractor = inception_extractor(path, "")
    generator = torch.Generator().manual_seed(0)
    network = replace(
        extractor,
        run=lambda images: (torch.rand(len(images), 2048, generator=generator), torch.rand(len(images), 1008)),
    )
    folder = write_samples(tmp_path / "a", num=2)
    metrics = evaluate(folder, folder, [FID(network=network), InceptionScore(network=network)])["metrics"]
    for name in PAPER:
        for number in ("fid", "inception_score"):
            assert metrics[number]["variant"] == variants(name)[number]
            assert metrics[number]["model"] == read_protocol(name).numbers[number].model


def test_numbers_of_clip(tmp_path):
    weights = write_open_clip(tmp_path)
    metric = ClipScore(network=clip_scorer(TINY_NAME, weights))
    folder = write_samples(tmp_path / "a", num=1)
    entry = evaluate(folder, None, [metric])["metrics"]["clip_score"]
    for name in PAPER:
        protocol = read_protocol(name)
        architecture = protocol.settings["clip_model"]
        config = open_clip.get_model_config(architecture)
        assert config["quick_gelu"]
        assert protocol.settings["clip_weights"] in open_clip.list_pretrained_tags_by_model(architecture)
        size = config["vision_cfg"]["image_size"]
        assert entry["variant"].replace("to 32,", f"to {size},") == variants(name)["clip_score"]
        assert protocol.numbers["clip_score"].model == entry["model"].replace(TINY_NAME, architecture).split(" (")[0]


@pytest.mark.parametrize(
    "name", ["mvdiffusion-pano-community-v1", "mvdiffusion-depth-v1", "toy-depth-v1", "real-cpu-v1"]
)
def test_numbers_of_the_overlap_and_of_what_stands_beside_it(name):
    protocol = read_protocol(name)
    settings = {key: value for key, value in protocol.settings.items() if key.startswith("overlap")}
    size, settings["overlap_size"] = settings["overlap_size"], min(settings["overlap_size"], 16)  # 1024 takes seconds
    pairs = {"overlap_pairs": settings["overlap_pairs"]}
    metrics = [kind(**settings) for kind in (OverlapPSNR, OverlapChance, OverlapZNCC)]
    metrics += [BorderRatio(**pairs), Sharpness()]
    rig = RingRig(num_views=8, height=16, width=16)
    (K, R), images = rig.cameras(), torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    by_depth = {"depths": torch.ones(8, 16, 16), "t": torch.zeros(8, 3)} if protocol.task == "depth" else {}
    results = {}
    for metric in metrics:
        for sample_id in ("a", "b"):
            metric.update(ScoredSample(sample_id, images, K, R, [""] * 8, **by_depth), False)
        results |= metric.compute()
    beside = protocol.numbers.keys() - {"fid", "inception_score", "clip_score", "realnet_distance", "realnet_kid"}
    assert results.keys() == beside
    for number, result in results.items():
        variant = protocol.numbers[number].variant.replace(f"resized to {size}", "resized to 16")
        assert (result.model, result.variant) == (protocol.numbers[number].model, variant)


def standing_in(network: FeatureExtractor) -> FeatureExtractor:
    """Return a network with random features in its place, as many as it has."""
    generator = torch.Generator().manual_seed(0)
    return replace(
        network, run=lambda images: (torch.rand(len(images), network.num_features, generator=generator), None)
    )


def test_numbers_of_whole_panoramas(tmp_path):
    """Name, variant and number of features are those of the extractor that would run Inception."""
    root = write_samples(tmp_path / "a", num=2)
    for number in range(2):
        panorama = torch.randint(0, 256, (32, 64, 3), generator=torch.Generator().manual_seed(number))
        save_panorama(root / f"s{number}" / "panorama.png", panorama.to(torch.uint8))
    network = standing_in(inception_extractor(write_random_inception(tmp_path / "inception.pth"), ""))
    protocol = read_protocol("erp-v1")
    others = [metric_class(name) for name in protocol.metrics if name != "erp_fid"]
    metrics = evaluate(root, root, [PanoramaFID(network=network), *(kind() for kind in others)])["metrics"]
    assert metrics.keys() == protocol.numbers.keys()
    for number, entry in metrics.items():
        assert (entry["model"], entry["variant"]) == (protocol.numbers[number].model, variants("erp-v1")[number])


def test_numbers_of_the_real_network(tmp_path):
    """The package of the weights need not be there: name and variant are those of `mvdiff.eval.realnet`."""
    network = FeatureExtractor(realnet.NAME, realnet.WEIGHTS_HASH, realnet.NUM_FEATURES, print, realnet.VARIANT)
    root = write_samples(tmp_path / "a", num=2)
    metrics = evaluate(root, root, [Realnet(network=standing_in(network))])["metrics"]
    protocol = read_protocol("real-cpu-v1")
    for number in ("realnet_distance", "realnet_kid"):
        rule, entry = protocol.numbers[number], metrics[number]
        assert (entry["model"], entry["variant"], entry["weights_hash"]) == (
            rule.model,
            rule.variant,
            rule.weights_hash,
        )


@pytest.mark.parametrize("name", PAPER)
def test_protocols_of_the_paper_print_what_an_overlap_psnr_needs_beside_it(name):
    assert read_protocol(name).metrics == DEFAULT_METRICS
