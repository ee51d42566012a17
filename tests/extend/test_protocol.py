"""A protocol of one's own: the file in docs/extend.md, and `mvdiff test` under a protocol."""

import json
import logging
import re
from pathlib import Path

import pytest
import yaml

from mvdiff.eval.checks import check_complete
from mvdiff.eval.metric_specs import parse_specs
from mvdiff.eval.protocol_files import protocol_from, read_protocol
from mvdiff.eval.settings import EvaluationSettings, SettingError
from mvdiff.training.sample_writing import score_folder
from mvdiff.training.settings import OutputSettings
from tests.eval.conforming import write_protocol
from tests.eval.worlds import write_samples

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extend.md"


def test_the_protocol_of_the_docs_is_complete():
    section = PAGE.read_text(encoding="utf-8").split("## A protocol\n")[1].split("\n## ")[0]
    protocol = protocol_from(yaml.safe_load(re.search(r"```yaml\n(.*?)```", section, re.DOTALL)[1]), "my_protocol")
    check_complete(protocol, parse_specs(protocol.metrics))
    assert protocol.images.num_views == 4


def test_a_test_under_a_protocol_logs_and_stores_its_deviations(tmp_path, caplog):
    for name in ("generated", "reference"):
        write_samples(tmp_path / name, num=3)
    path = write_protocol(tmp_path / "mine.yaml")
    with caplog.at_level(logging.WARNING):
        numbers = score_folder(tmp_path, {"s0", "s1", "s2"}, ["fid"], None, read_protocol(path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(numbers) == set(results["metrics"]) >= {"sharpness_gradient_energy", "overlap_psnr_pooled"}
    assert results["protocol"]["id"] == "mine"
    lines = ["images.num_samples must be 4; got 3", "images.num_reference_samples must be 4; got 3"]
    assert results["deviations"] == lines
    assert [f"deviation from mine: {line}" for line in lines] == [record.message for record in caplog.records]
    with pytest.raises(SettingError, match="--overlap_size must be that of --protocol mine, 0; got 64"):
        score_folder(tmp_path, {"s0"}, [], EvaluationSettings(overlap_size=64), read_protocol(path))


def test_a_test_has_metrics_or_a_protocol():
    with pytest.raises(ValueError, match=r"output\.metrics must be null with output\.protocol erp-v1; got \['fid'\]"):
        OutputSettings(protocol="erp-v1", metrics=["fid"])
