"""`mvdiff compare`, in-process, over results of small methods."""

import json

import pytest

from mvdiff.cli.main import main
from tests.cli.last_lines import next_commands
from tests.eval.scored import score_methods


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Return the folder and the results of three methods."""
    tmp_path = tmp_path_factory.mktemp("scored")
    return tmp_path, score_methods(tmp_path, {"clean": 0.05, "noisy": 0.3, "noisier": 0.6})


def words(scored, *names):
    return ["compare", *(str(scored[1][name]) for name in names)]


def test_tables_page_and_json(scored, tmp_path, capsys):
    page, out = tmp_path / "deep" / "compare.html", tmp_path / "compare.json"
    cache = ["--cache", str(scored[0] / "cache"), "--fid_resamples", "100", "--num_resamples", "100"]
    assert main([*words(scored, "clean", "noisy", "noisier"), *cache, "--html", str(page), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "noisy compared with clean" in text
    assert "noisier − clean" in text
    assert "not compared: overlap_psnr_pooled, toy_inception_score: it is no mean over samples" in text
    lines = [line.split() for line in text.splitlines() if line.startswith("overlap PSNR, mean of pairs (dB) ↑")]
    assert [line[-1] for line in lines] == ["worse", "worse"]
    assert all(line[-6].startswith("−") for line in lines)
    html = page.read_text()
    assert "noisier compared with clean" in html
    assert str(scored[0]) not in html
    results = json.loads(out.read_text())
    assert str(scored[0]) not in out.read_text()
    entry = results["differences"]["noisy"]["overlap_psnr_mean_of_pairs"]
    assert entry["difference"] == pytest.approx(entry["value"] - entry["base"])
    assert entry["interval"][0] < entry["difference"] < entry["interval"][1] < 0
    assert (entry["better"], entry["verdict"], entry["num_paired_samples"]) == ("higher", "worse", 8)
    assert results["differences"]["noisier"]["kid"]["interval_rule"] == "Student's t, 8 samples"
    assert "not_compared" in results["differences"]["noisy"]["toy_inception_score"]
    assert results["base"] == "clean"
    assert results["files"] == {name: f"{name}.json" for name in ("clean", "noisy", "noisier")}
    assert results["reference"]


def test_base_and_names(scored, tmp_path, capsys):
    out = tmp_path / "compare.json"
    named = [*words(scored, "clean", "noisy"), "--names", "A", "B", "--base", "B", "--out", str(out)]
    assert main(named) == 0
    printed = capsys.readouterr().out
    assert "A compared with B" in printed
    assert "Run mvdiff evaluate with --cache DIR for each method" in printed
    assert json.loads(out.read_text())["differences"]["A"]["overlap_psnr_mean_of_pairs"]["verdict"] == "better"
    assert next_commands(printed) == ["report"]
    assert main(words(scored, "clean", "noisy")) == 0
    assert next_commands(capsys.readouterr().out) == ["compare"]


def test_results_that_differ_are_refused_unless_allowed(scored, tmp_path, capsys):
    other = json.loads(scored[1]["noisy"].read_text())
    other["reference"]["content_hash"] = 64 * "0"
    del other["generated"]["images"]["s3"]
    del other["metrics"]["overlap_psnr_mean_of_pairs"]["per_sample"]["s3"]
    path, page = tmp_path / "other.json", tmp_path / "page.html"
    path.write_text(json.dumps(other))
    arguments = [*words(scored, "clean"), str(path), "--cache", str(scored[0] / "cache"), "--html", str(page)]
    assert main(arguments) == 3
    printed = capsys.readouterr()
    assert "the results differ in more than the method, in 2 points" in printed.err
    assert "samples: only clean has s3" in printed.err
    assert "reference: content hash" in printed.err
    assert not printed.out
    assert not page.exists()
    assert main([*arguments, "--allow_different"]) == 0
    printed = capsys.readouterr().out
    assert "differs: samples: only clean has s3" in printed
    assert "the references differ" in printed
    assert "samples: only clean has s3" in page.read_text()


def test_code_and_devices_that_differ_are_told_and_compared(scored, tmp_path, capsys):
    page, out = tmp_path / "page.html", tmp_path / "compare.json"
    written = ["--html", str(page), "--out", str(out)]
    assert main([*words(scored, "clean", "noisy"), *written]) == 0
    assert "Warning" not in capsys.readouterr().out
    assert json.loads(out.read_text())["warning"] is None
    other = json.loads(scored[1]["noisy"].read_text())
    commit = json.loads(scored[1]["clean"].read_text())["run"]["commit"]
    other["run"] |= {"commit": "0123abc", "device": "cuda (H200)"}
    other["run"]["versions"]["torch"] = "1.0"
    del other["run"]["versions"]["scipy"]  # as an earlier version of mvdiff wrote it
    (tmp_path / "old.json").write_text(json.dumps(other))
    assert main([*words(scored, "clean"), str(tmp_path / "old.json"), *written]) == 0
    printed = capsys.readouterr().out
    [line] = [line for line in printed.splitlines() if line.startswith("Warning: these results were made with")]
    for told in (f"commit ({commit}: clean; 0123abc: old)", "device (cpu: clean; cuda (H200): old)", "; 1.0: old)."):
        assert told in line
    assert "scipy" not in line
    assert "python" not in line
    assert "so a difference between them may come from those: commit (" in page.read_text()
    assert json.loads(out.read_text())["warning"] == line


def test_a_number_that_is_missing_ends_with_status_3(scored, tmp_path, capsys):
    other = json.loads(scored[1]["noisy"].read_text())
    other["metrics"]["toy_fid"] = {"missing": "no weights"}
    path = tmp_path / "other.json"
    path.write_text(json.dumps(other))
    assert main([*words(scored, "clean"), str(path)]) == 3
    assert "toy_fid: missing in other: no weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "status", "text"),
    [
        ([], 2, "FILE must be two or more results; got 1"),
        (["{noisy}", "--names", "a"], 2, "--names must be one for each FILE (2); got 1"),
        (["{noisy}", "--names", "a", "a"], 2, "--names must differ"),
        (["{noisy}", "--base", "truth"], 2, "--base must be one of clean, noisy; got truth"),
        (["{noisy}", "--num_resamples", "99"], 2, "--num_resamples must be at least 100; got 99"),
        (["{noisy}", "--fid_resamples", "1"], 2, "--fid_resamples must be at least 100; got 1"),
        (["{clean}"], 2, "FILE must be different files; got"),
        (["{noisy}", "{folder}/../{folder_name}/noisy.json"], 2, "noisy.json twice"),
        (["{noisy}", "--cache", "nowhere"], 1, "--cache must be a folder that mvdiff evaluate --cache wrote"),
        (["{noisy}", "--html", "page.txt"], 1, "--html must end in .html"),
        (["{noisy}", "--out", "{noisy}"], 1, "FILE and --out must not be the same file"),
        (["{noisy}/none.json"], 1, "none.json"),
    ],
)
def test_wrong_options_are_one_line(scored, capsys, more, status, text):
    places = {**scored[1], "folder": scored[0], "folder_name": scored[0].name}
    try:
        found = main([*words(scored, "clean"), *(word.format(**places) for word in more)])
    except SystemExit as exit_:
        found = exit_.code
    assert found == status
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1
