import json
import re
import shutil

import pytest

from mvdiff.eval.results_file import write_results
from mvdiff.eval.runner import evaluate
from mvdiff.report.sources import open_sources
from tests.eval.worlds import write_upstream
from tests.report.folders import write_panorama


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
    assert source.method.problems == ["samples of mine: out does not exist"]
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
    with pytest.raises(
        ValueError, match=r"DIR must be a folder or a results file of `mvdiff evaluate`; got another file"
    ):
        open_sources([tmp_path / "results.json"])
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results\.json must be JSON \("):
        open_sources([tmp_path])


NUMBER = {"value": 1.0, "model": "net"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"known_psnr": {"value": None}}, r"metrics\.known_psnr\.value must be a number; got None"),
        ({"known_psnr": {"value": True, "model": "net"}}, r"metrics\.known_psnr\.value must be a number; got True"),
        ({"known_psnr": {"value": 1.0}}, r"metrics\.known_psnr\.model must be a text; got None"),
        ({"known_psnr": "x"}, r"metrics\.known_psnr must be an object with value and model, or with missing; got 'x'"),
        ({"known_psnr": None}, r"metrics\.known_psnr must be an object with value and model, .* got None"),
        ({"known_psnr": {}}, r"metrics\.known_psnr must be an object with value and model, .* got \{\}"),
        ({"fid": {"missing": None}}, r"metrics\.fid\.missing must be a text; got None"),
        ({"fid": NUMBER | {"interval": [1]}}, r"metrics\.fid\.interval must be two numbers; got \[1\]"),
        ({"fid": NUMBER | {"reference": "a"}}, r"metrics\.fid\.reference must be a number; got 'a'"),
        ({"fid": NUMBER | {"weights_hash": 5}}, r"metrics\.fid\.weights_hash must be a text; got 5"),
        ({"fid": NUMBER | {"note": ["a"]}}, r"metrics\.fid\.note must be a text; got \['a'\]"),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_results_with_an_odd_entry_are_named(tmp_path, changes, message, inside):
    path = tmp_path / ("results.json" if inside else "scores.json")
    write_panorama(tmp_path, "a")
    path.write_text(json.dumps({"generated": {"path": str(tmp_path)}, "metrics": {"fid": NUMBER} | changes}))
    with pytest.raises(ValueError, match=rf"^{message}, in {path}\."):
        open_sources([tmp_path if inside else path])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generated": None}, r"generated must be an object with the path of the samples; got None"),
        ({"generated": {"path": 5}}, r"generated must be an object with the path of the samples; got \{'path': 5\}"),
        ({"reference": 5}, r"reference must be an object or null; got 5"),
        ({"reference": {"path": 5}}, r"reference must be an object with a path; got \{'path': 5\}"),
        ({"columns": 5}, "columns must be an object; got 5"),
        ({"columns": {"a": {"title": 5}}}, r"columns\.a must be an object with title.*; got \{'title': 5\}"),
        ({"columns": {"a": {"unit": "dB"}}}, r"columns\.a must be an object with title.*; got \{'unit': 'dB'\}"),
        ({"columns": {"a": {"title": "", "x": 1}}}, r"columns\.a must be an object with title.*; got \{.*'x': 1\}"),
        ({"columns": {"a": {"title": "", "digits": -1}}}, r"columns\.a must be an object with title.*; got .*-1.*"),
    ],
)
def test_results_that_do_not_say_where_their_samples_lie_are_named(tmp_path, changes, message):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"generated": {"path": "out"}, "reference": None, "metrics": {"fid": NUMBER}} | changes))
    with pytest.raises(ValueError, match=rf"^{message}, in {path}\."):
        open_sources([path])


def test_a_sample_id_twice_says_where_and_what_helps(tmp_path):
    one, other = tmp_path / "multi" / "0000", tmp_path / "multi" / "0001"
    shutil.copytree(write_panorama(tmp_path / "multi", "0000"), other)
    with pytest.raises(ValueError, match="must be unique") as caught:
        open_sources([tmp_path / "multi"])
    assert str(caught.value) == (
        f"sample ids below {tmp_path / 'multi'} must be unique; got '0000' in {one} and in {other}. "
        "Remove one of them, or give it another sample_id in its sample.json."
    )
    record = json.loads((other / "sample.json").read_text())
    (other / "sample.json").write_text(json.dumps(record | {"sample_id": "0001"}))
    assert list(open_sources([tmp_path / "multi"])[0].method.samples) == ["0000", "0001"]  # what it says helps
    nested = shutil.copytree(one, tmp_path / "multi" / "more" / "0000")
    with pytest.raises(ValueError, match=rf"in {one} and in {nested}\. Remove one of them, or give it another"):
        open_sources([tmp_path / "multi"])


def test_a_sample_id_in_the_folders_of_two_methods_says_to_give_both(tmp_path):
    ours, theirs = tmp_path / "all" / "ours", tmp_path / "all" / "theirs"
    for root in (ours, theirs):
        write_panorama(root, "a")
    expected = rf"To compare methods, pass their folders: mvdiff report {ours} {theirs}\.$"
    with pytest.raises(ValueError, match=expected):
        open_sources([tmp_path / "all"])
    assert [source.method.name for source in open_sources([ours, theirs])] == ["ours", "theirs"]


def test_broken_and_incomplete_samples_are_counted(tmp_path):
    write_panorama(tmp_path, "a")
    (write_panorama(tmp_path, "b") / "3.png").unlink()
    (write_panorama(tmp_path, "c") / "sample.json").unlink()
    [source] = open_sources([tmp_path])
    assert list(source.method.samples) == ["a"]
    incomplete, missing = source.method.problems
    assert re.search(r"c: incomplete, its sample\.json is missing", incomplete)
    assert re.search(r"b must hold every view; 3\.png missing", missing)


def test_names_that_do_not_fit(tmp_path):
    paths = [tmp_path / "one" / "out", tmp_path / "two" / "out"]
    for path in paths:
        write_panorama(path, "a")
    assert [source.method.name for source in open_sources(paths)] == ["one/out", "two/out"]
    with pytest.raises(ValueError, match=r"--names must be one for each DIR \(2\); got 1\."):
        open_sources(paths, ["one"])
    with pytest.raises(ValueError, match=r"--names must differ from each other, from 'ground truth' and .* got x, x\."):
        open_sources(paths, ["x", "x"])
    with pytest.raises(FileNotFoundError, match=r"DIR must exist; got .*three"):
        open_sources([tmp_path / "three"])
    with pytest.raises(
        ValueError, match=r"sample ids below .* must be unique; got 'a' in .*one/out/a and in .*two/out/a"
    ):
        open_sources([tmp_path])


def test_results_that_name_a_folder_no_file_system_takes(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"generated": {"path": "a" * 300}, "metrics": {}}))
    with pytest.raises(ValueError, match=r"must name folders; got 'aaa.*, in .*results\.json"):
        open_sources([path])


def test_results_of_both_versions_open(tmp_path):
    path = tmp_path / "results.json"
    old = {"generated": {"path": "none"}, "metrics": {"fid": {"value": 1.0, "model": "m"}}}
    for values in (old, old | {"schema_version": 1}, old | {"schema_version": 2, "protocol": {"id": "a", "hash": "b"}}):
        path.write_text(json.dumps(values))
        assert open_sources([path])[0].results == values
    for changes, text in (
        ({"schema_version": 3}, "schema_version must be 1 or 2; got 3"),
        ({"schema_version": 2}, "protocol must be an object with id and hash; got None"),
        ({"protocol": {"id": 5}}, "protocol must be an object with id and hash; got {'id': 5}"),
        ({"deviations": "none"}, "deviations must be a list of texts; got 'none'"),
    ):
        path.write_text(json.dumps(old | changes))
        with pytest.raises(ValueError, match=f"{text}, in .*results"):
            open_sources([path])
