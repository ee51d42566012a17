import json
import re
import shutil

import pytest

from mvdiff.eval.runner import evaluate, write_results
from mvdiff.seeing.sources import open_sources
from tests.eval.worlds import write_upstream
from tests.seeing.folders import write_panorama


def test_a_root_and_a_sample_are_opened_by_id(tmp_path):
    write_panorama(tmp_path / "mine", "a/b")
    write_panorama(tmp_path / "mine", "c")
    [root] = open_sources([tmp_path / "mine"])
    assert (root.method.name, list(root.method.samples)) == ("mine", ["a/b", "c"])
    [one] = open_sources([tmp_path / "mine" / "c"])
    assert (one.method.name, list(one.method.samples), one.truth, one.results) == ("c", ["c"], None, None)


def test_what_mvdiff_test_wrote_brings_truth_and_scores(tmp_path):
    for name in ("generated", "reference"):
        write_panorama(tmp_path / name, "a")
    write_results(evaluate(tmp_path / "generated", tmp_path / "reference", ["sharpness"]), tmp_path / "results.json")
    [source] = open_sources([tmp_path], ["run"])
    assert source.method.root == tmp_path / "generated"
    assert (source.truth.name, source.truth.root) == ("ground truth", tmp_path / "reference")
    assert "sharpness_gradient_energy" in source.results["metrics"]


def test_results_say_where_their_samples_lie_also_after_a_move(tmp_path):
    for name in ("out", "real"):
        write_panorama(tmp_path / "then" / name, "a")
    results = evaluate(tmp_path / "then" / "out", tmp_path / "then" / "real", ["sharpness"])
    write_results(results, tmp_path / "then" / "results.json")
    (tmp_path / "then").rename(tmp_path / "now")
    [source] = open_sources([tmp_path / "now" / "results.json"])
    assert (source.method.name, source.method.root) == ("now", tmp_path / "now" / "out")
    assert source.truth.root == tmp_path / "now" / "real"


def test_samples_that_are_gone_are_said(tmp_path):
    for name in ("out", "real"):
        write_panorama(tmp_path / name, "a")
    write_results(evaluate(tmp_path / "out", tmp_path / "real", ["sharpness"]), tmp_path / "results.json")
    shutil.rmtree(tmp_path / "out")
    [source] = open_sources([tmp_path / "results.json"], ["mine"])
    assert source.method.samples == {}
    assert source.method.problems == [f"samples of mine: scored at {tmp_path / 'out'}, which is not there"]
    assert source.results["metrics"]


def test_upstream_folders_bring_their_ground_truth(tmp_path):
    [source] = open_sources([write_upstream(tmp_path / "theirs", num=2)])
    assert list(source.truth.samples) == list(source.method.samples) == ["scene0", "scene1"]
    assert source.truth.natural
    assert not source.method.natural


def test_other_json_is_no_results(tmp_path):
    write_panorama(tmp_path, "a")
    (tmp_path / "results.json").write_text(json.dumps({"scores": {}}))
    assert open_sources([tmp_path])[0].results is None
    with pytest.raises(ValueError, match=r"DIR must be a folder, or results of `mvdiff evaluate`; got another file"):
        open_sources([tmp_path / "results.json"])
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results must be JSON; got .*results\.json\. Evaluate again\."):
        open_sources([tmp_path])


def test_broken_and_incomplete_samples_are_counted(tmp_path):
    write_panorama(tmp_path, "a")
    (write_panorama(tmp_path, "b") / "3.png").unlink()
    (write_panorama(tmp_path, "c") / "sample.json").unlink()
    [source] = open_sources([tmp_path])
    assert list(source.method.samples) == ["a"]
    incomplete, missing = source.method.problems
    assert re.search(r"c: incomplete, its sample\.json is missing", incomplete)
    assert re.search(r"b must hold every view; \['3\.png'\] missing", missing)


def test_names_that_do_not_fit(tmp_path):
    paths = [tmp_path / "one" / "out", tmp_path / "two" / "out"]
    for path in paths:
        write_panorama(path, "a")
    assert [source.method.name for source in open_sources(paths)] == list(map(str, paths))
    with pytest.raises(ValueError, match=r"--names must be one for each DIR \(2\); got 1\."):
        open_sources(paths, ["one"])
    with pytest.raises(ValueError, match=r"--names must differ from each other and from 'ground truth'; got x, x\."):
        open_sources(paths, ["x", "x"])
    with pytest.raises(FileNotFoundError, match=r"DIR must exist; got .*three"):
        open_sources([tmp_path / "three"])
    with pytest.raises(ValueError, match=r"DIR must hold each sample once; got 'a' in .*one/out/a and in .*two/out/a"):
        open_sources([tmp_path])
