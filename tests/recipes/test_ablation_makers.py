"""Commits and machines of the ablations' runs: who is noted, what older runs tell, and the page's warning."""

import json

import pytest

from mvdiff.eval.protocol_files import read_protocol
from mvdiff.eval.provenance import code_name
from mvdiff.recipes.benchmarks.ablation_makers import FILE, makers_of, note_maker
from mvdiff.recipes.benchmarks.ablation_rows import AblationOutcome, AblationRow
from mvdiff.recipes.benchmarks.ablation_runs import AblationRun
from mvdiff.recipes.benchmarks.ablation_settings import VARIANTS, AblationScale
from mvdiff.recipes.benchmarks.ablation_table import ablation_sentences, ablation_tables, ablation_values
from mvdiff.recipes.benchmarks.makers import Maker, code_warnings, machine_warnings, this_process, told_makers

OLD = Maker("1" * 40, "another processor, 8 cores, Python 3.12.1")


def write_makers(run: AblationRun, *makers: Maker) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / FILE).write_text(json.dumps({"made_by": [maker._asdict() for maker in makers]}))


def test_every_process_is_noted_once_beside_those_before(tmp_path):
    run = AblationRun(tmp_path / "runs" / "caa-k3-0", VARIANTS[0])
    note_maker(run)
    note_maker(run)
    assert makers_of(run) == [this_process()]
    assert this_process().commit == code_name()
    write_makers(run, OLD)
    note_maker(run)
    assert makers_of(run) == [OLD, this_process()]


def test_runs_of_earlier_versions_tell_the_commit_of_their_scores_or_nothing(tmp_path):
    finished, begun = (AblationRun(tmp_path / name, VARIANTS[0]) for name in ("finished", "begun"))
    finished.folder.mkdir()
    scores = {"schema_version": 2, "protocol": {"id": "a", "hash": "b"}, "generated": {"path": "a"}, "metrics": {}}
    scores["run"] = {"commit": "2" * 40}
    (finished.folder / "scores.json").write_text(json.dumps(scores))
    assert makers_of(finished) == [Maker("2" * 40, None)]
    (begun.train / "checkpoints").mkdir(parents=True)
    note_maker(begun)
    assert makers_of(begun) == [Maker(None, None), this_process()]


@pytest.mark.parametrize(
    "content", [{}, {"made_by": []}, {"made_by": [{"commit": ["a"], "machine": "b"}]}, {"made_by": 3}]
)
def test_a_damaged_note_is_named(tmp_path, content):
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{FILE} must name commits and machines under made_by"):
        makers_of(AblationRun(tmp_path))


def test_the_page_lists_all_commits_and_warns_of_more_than_one():
    new = Maker("3" * 40, OLD.machine)
    base = VARIANTS[0]
    rows = {base.name: AblationRow(base.title, {0: None}, base)}
    outcome = AblationOutcome(rows, makers={OLD: ["ground-truth", "caa-k3-0"]})
    assert not [line for line in ablation_sentences(outcome) if "Warning" in line]
    outcome.makers[new] = ["caa-k3-1"]
    (warning,) = [line for line in ablation_sentences(outcome) if "Warning" in line]
    assert "made at 2 commits" in warning
    told = told_makers(outcome.makers)
    assert told == f"{OLD.commit} on {OLD.machine}: ground-truth, caa-k3-0; {new.commit} on {new.machine}: caa-k3-1"
    assert told in warning
    assert told in ablation_tables(outcome, AblationScale(), read_protocol("toy-pano-v1"))[0].note
    assert ablation_values(outcome)["made_by"][1] == {**new._asdict(), "runs": ["caa-k3-1"]}
    assert not machine_warnings(outcome.makers)
    (line,) = machine_warnings({OLD: ["a"], OLD._replace(machine=None): ["b"]})
    assert "on 2 machines, so their times and memory do not compare" in line
    assert "a machine that was not recorded: b" in line


@pytest.mark.parametrize("commit", ["2" * 40 + "-dirty", None])
def test_code_that_no_commit_holds_is_warned_about(commit):
    changed = Maker(commit, OLD.machine)
    (line,) = code_warnings({changed: ["a"]})
    assert "the code that made these results is not known" in line
    assert f"{changed}: a." in line
    more, only = code_warnings({OLD: ["a"], changed: ["b"]})
    assert "made at 2 commits" in more
    assert only == line.replace(": a.", ": b.")
    outcome = AblationOutcome({}, makers={changed: ["caa-k3-0"]})
    assert ablation_sentences(outcome)[0] == line.replace(": a.", ": caa-k3-0.")
