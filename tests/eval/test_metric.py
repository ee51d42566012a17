"""What every metric keeps, and how metrics are chosen: by name, by class path, with arguments of their own."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvdiff.cli.main import main
from mvdiff.eval.checks import DEFAULT_METRICS, PAPER_METRICS
from mvdiff.eval.extractors import FeatureExtractor
from mvdiff.eval.metric import Column, Result, SampleMetric
from mvdiff.eval.metric_specs import MetricBuilder, parse_specs
from mvdiff.eval.metrics import metric_class, metric_columns, metric_names
from mvdiff.eval.metrics.fid import FID
from mvdiff.eval.metrics.inception_score import InceptionScore
from mvdiff.eval.metrics.sharpness import Sharpness
from mvdiff.eval.metrics.thing_colours import ThingColours
from mvdiff.eval.runner import EvaluationSettings, evaluate
from mvdiff.eval.sources import FolderSource
from mvdiff.eval.table import result_column
from tests.eval.worlds import views, write_judge, write_samples
from tests.extend.outside.my_metric import Brightness

OWN = "tests.extend.outside.my_metric.Brightness"
OVERLAPS = ("overlap_psnr", "overlap_chance", "overlap_zncc", "border_ratio")


def test_every_file_holds_the_metric_of_its_name():
    assert set(PAPER_METRICS) < set(DEFAULT_METRICS) < set(metric_names())
    classes = [metric_class(name) for name in metric_names()]
    assert [metric.name for metric in classes] == list(metric_names())
    assert all(issubclass(metric, SampleMetric) and metric.__doc__ for metric in classes)
    assert len(metric_columns()) == sum(len(metric.columns) for metric in classes)


def test_columns_know_direction_and_unit():
    columns = metric_columns()
    panoramas = {
        f"{name}{part}" for name in ("erp_fid", "erp_realnet") for part in ("", "_rolled", "_8_views", "_20_views")
    }
    lower = {"fid", "kid", "toy_fid", "realnet_distance", "realnet_kid", "ds", *panoramas}
    assert {name for name, column in columns.items() if column.higher_is_better is False} == lower
    decibels = {name for name, column in columns.items() if column.unit == "dB"}
    assert decibels == {"overlap_chance"} | {name for name in columns if "psnr" in name}


@pytest.fixture
def toy(tmp_path):
    return EvaluationSettings(
        toy_features=str(write_judge(tmp_path / "judge")),
        overlap_size=0,
        num_splits=2,
        num_resamples=100,
        device="cpu",
    )


def test_a_users_metric_is_taken_by_class_path_with_arguments(tmp_path, toy):
    root = write_samples(tmp_path / "a", num=3)
    expected = [views(seed).mean() / 255 for seed in range(3)]
    results = evaluate(root, None, [OWN, "sharpness"], toy)
    entry = results["metrics"]["brightness"]
    assert entry["value"] == pytest.approx(np.mean(expected))
    assert list(entry["per_sample"].values()) == pytest.approx(expected)
    assert result_column(results, "brightness") == Brightness.columns[0]
    spec = {"class_path": OWN, "init_args": {"scale": 2.0, "num_resamples": 100}}
    assert evaluate(root, None, [spec], toy)["metrics"]["brightness"]["value"] == pytest.approx(2 * np.mean(expected))
    out = tmp_path / "results.json"
    arguments = ["--metrics", json.dumps(spec), "sharpness", "--out", str(out), "--num_workers", "0"]
    assert main(["evaluate", "--generated", str(root), *arguments]) == 0
    assert json.loads(out.read_text())["metrics"]["brightness"]["value"] == pytest.approx(2 * np.mean(expected))


def test_arguments_come_from_settings_of_their_name_unless_they_are_set():
    settings = {"overlap_size": 0, "seed": 3, "num_resamples": 107, "batch_size": 5}
    (metric, init_args), *_ = parse_specs([{"class_path": "overlap_psnr", "init_args": {"seed": 4}}]).items()
    built = MetricBuilder(settings).build(metric, init_args)
    assert (built.size, built.seed, built.num_resamples) == (None, 4, 107)


@pytest.mark.parametrize(
    ("specs", "text"),
    [
        ([], "metrics .* got none"),
        (["psnr"], "metrics .* got 'psnr'"),
        (["nowhere.Metric"], r"metrics .* nowhere\.Metric"),
        (["tests.extend.outside.my_metric.Column"], r"metrics .* got 'tests\.extend\.outside\.my_metric\.Column'"),
        ([{"init_args": {}}], "metrics .* class_path"),
        ([{"class_path": "sharpness", "init_args": {"size": 3}}], r"init_args of Sharpness .* got \['size'\]"),
        (["sharpness", {"class_path": "sharpness", "init_args": {"seed": 1}}], "metrics .* got Sharpness twice"),
        (["sharpness", Sharpness()], "metrics .* got sharpness_gradient_energy, .* twice"),
    ],
)
def test_wrong_metrics_are_named(specs, text):
    with pytest.raises(ValueError, match=text):
        parse_specs(specs)


def test_wrong_choices_on_the_command_line_are_one_line(capsys):
    for wrong in ("psnr", "{"):
        with pytest.raises(SystemExit):
            main(["evaluate", "--generated", "x", "--metrics", wrong])
        assert "--metrics must be some of border_ratio, caption_agreement, clip_score, " in (
            error := capsys.readouterr().err
        )
        assert f"got {wrong!r}" in error


def test_metrics_of_one_network_share_one_pass(tmp_path):
    passes = []

    def run(images):
        passes.append(len(images))
        pixels = images.double().flatten(1)
        return pixels[:, :6], pixels[:, :4]

    network = FeatureExtractor("pixels", "", 6, run, "as they are")
    root = write_samples(tmp_path / "a", num=3)
    metrics = [FID(network=network), InceptionScore(network=network, num_splits=2)]
    results = evaluate(root, root, metrics)
    assert set(results["metrics"]) == {"fid", "inception_score"}
    assert passes == [8] * 6  # 3 generated, 3 real


def test_metrics_that_load_the_same_network_share_it(toy):
    builder = MetricBuilder(vars(toy))
    built = [builder.build(metric_class(name), {}) for name in ("toy_fid", "toy_inception_score")]
    assert built[0].network is built[1].network
    other = builder.build(metric_class("toy_fid"), {"head": "walls"})
    assert other.network is not built[0].network


class NeedsNetwork(Sharpness):
    """A metric whose network never loads."""

    loads = 0

    @staticmethod
    def load_network(device):
        NeedsNetwork.loads += 1
        raise OSError(f"no weights for {device}, at load {NeedsNetwork.loads}")


def test_a_network_that_fails_to_load_is_tried_once():
    builder = MetricBuilder({"device": "cpu"})
    for _ in range(2):
        with pytest.raises(OSError, match=r"cpu, at load 1$"):
            builder.build(NeedsNetwork, {})
    with pytest.raises(OSError, match=r"cuda, at load 2$"):
        builder.build(NeedsNetwork, {"device": "cuda"})


@pytest.mark.parametrize("name", ["toy_fid", "toy_inception_score", "sharpness", *OVERLAPS])
def test_order_and_repetition_of_samples_change_nothing(tmp_path, toy, name):
    samples = list(FolderSource(write_samples(tmp_path / "a", num=4, noise=0.2)))
    real = list(FolderSource(write_samples(tmp_path / "b", num=3)))
    builder, found = MetricBuilder(vars(toy)), []
    for order in ([0, 1, 2, 3], [3, 1, 0, 1, 2, 3]):
        metric = builder.build(metric_class(name), {})
        for index in order:
            metric.update(samples[index], False)
        for sample in reversed(real):
            metric.update(sample, True)
        found.append(metric.compute())
    assert found[0] == found[1]


def test_a_metric_starts_anew_with_each_evaluation(tmp_path):
    metric = Sharpness(num_resamples=100)
    roots = write_samples(tmp_path / "a", num=3), write_samples(tmp_path / "b", num=2, noise=0.2)
    first, second = (evaluate(root, None, [metric])["metrics"] for root in roots)
    assert first["sharpness_gradient_energy"]["num_samples"] == 3
    assert second == evaluate(roots[1], None, [Sharpness(num_resamples=100)])["metrics"]


def test_thing_colours_need_things(tmp_path):
    root = write_samples(tmp_path / "a", num=2)
    assert "things" in evaluate(root, None, ["thing_colours"])["metrics"]["thing_colours"]["missing"]
    red = torch.zeros(8, 12, 12, dtype=torch.long)
    entry = evaluate(root, None, [ThingColours(things={"s1": (red, ["mauve"])})])["metrics"]["thing_colours"]
    assert (entry["value"], entry["num_things"], list(entry["per_sample"])) == (0.0, 8, ["s1"])


def test_workers_read_what_one_process_reads(tmp_path, toy):
    root = write_samples(tmp_path / "a", num=5)
    (root / "s3" / "1.png").write_bytes(b"broken")
    state = torch.get_rng_state()
    metrics = ["toy_fid", "toy_inception_score", "sharpness", *OVERLAPS]
    alone, *others = (evaluate(root, root, metrics, toy, num_workers=n) | {"run": None} for n in (0, 1, 2))
    assert others == [alone, alone]
    assert torch.equal(torch.get_rng_state(), state)
    assert alone["generated"]["num_unreadable"] == 1


def test_progress_has_a_total(tmp_path, toy):
    root, seen = write_samples(tmp_path / "a", num=2), []
    evaluate(root, root, ["sharpness"], toy, progress=lambda *step: seen.append(step))
    assert seen == [(which, name, 2) for which in ("generated", "reference") for name in ("s0", "s1")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_overlap_psnr_on_a_gpu_is_that_of_the_cpu(tmp_path, toy):
    root = write_samples(tmp_path / "a", num=2, noise=0.2)
    for size, pairs in ((0, "adjacent"), (24, "overlapping")):
        settings = replace(toy, overlap_size=size, overlap_pairs=pairs)
        scored = [evaluate(root, None, ["overlap_psnr"], replace(settings, device=d)) for d in ("cpu", "cuda")]
        for name, entry in scored[0]["metrics"].items():
            assert scored[1]["metrics"][name]["value"] == pytest.approx(entry["value"], abs=1e-5)


class CountsInPlace(SampleMetric):
    name = "counts_in_place"
    columns = (Column("counts_in_place", "samples"),)

    def __init__(self, **options):
        super().__init__(**options)
        self.add_state("counts", default=[], dist_reduce_fx=None)

    def update(self, sample, real):
        if not self.counts:
            self.counts.append(torch.zeros(1))
        self.counts[0] += 1

    def compute(self):
        return {self.name: Result(float(self.counts[0]), "counter", "every sample", {"num_samples": 1})}


class BreaksOff:
    def __init__(self, samples):
        self.samples = samples

    def __iter__(self):
        yield from self.samples
        raise ValueError("the disk is gone")

    def describe(self):
        return {"path": "broken", "num_samples": len(self.samples)}


def test_a_reference_that_breaks_off_leaves_no_trace_in_states_changed_in_place(tmp_path):
    write_samples(tmp_path, num=3)
    reference = BreaksOff([*FolderSource(tmp_path)][:2])
    metrics = evaluate(tmp_path, reference, [CountsInPlace()], EvaluationSettings(device="cpu"))["metrics"]
    assert metrics["counts_in_place"]["value"] == 3
