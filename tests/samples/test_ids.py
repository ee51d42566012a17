"""Ids of samples name one folder each, and are found once below a root."""

import json

import numpy as np
import pytest

from mvdiff.eval.sources import FolderSource
from mvdiff.files.paths import ignores_case
from mvdiff.pipelines.prompt_files import PromptEntry, read_prompts, repeated
from mvdiff.report.sources import open_sources
from mvdiff.samples import SampleRecord, find_samples, read_sample, sample_folder, write_sample
from mvdiff.samples.ids import check_ids

LONG = "客厅" * 20
NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("sample_id", "reason"),
    [
        ("", "must be able to name a folder; got ''"),
        (" ", "must be able to name a folder; got ' '"),
        (".", r"must be able to name a folder; got '\.'"),
        ("..", r"must be able to name a folder; got '\.\.'"),
        ("x" * 256, "must be at most 255 bytes.*got 256 bytes, 'xxx"),
        (LONG, "must be at most 255 bytes.*got 360 bytes"),
    ],
)
def test_ids_that_name_no_folder_are_refused_where_they_are_read(tmp_path, sample_id, reason):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "x", "id": "ok"}) + "\n" + json.dumps({"prompt": "x", "id": sample_id}))
    with pytest.raises(ValueError, match=rf"id {reason}.*in .*p\.jsonl:2"):
        read_prompts(path)
    with pytest.raises(ValueError, match=f"id {reason}"):
        sample_folder(tmp_path, sample_id)
    values = {"schema_version": 1, "sample_id": sample_id, "prompts": ["x"]}
    with pytest.raises(ValueError, match=r"id must .*in sample\.json"):
        SampleRecord.from_dict(values, "sample.json")


def test_half_a_surrogate_pair_is_no_id(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "x", "id": "\ud800"}))
    with pytest.raises(ValueError, match=r"p\.jsonl:1 must be JSON .*surrogate"):
        read_prompts(path)
    with pytest.raises(ValueError, match="id must be Unicode text"):
        sample_folder(tmp_path, "\ud800")


@pytest.mark.parametrize("value", [None, True, ["a"], 1.5, {}])
def test_ids_of_other_types_are_refused(tmp_path, value):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"prompt": "x", "id": value}]))
    with pytest.raises(ValueError, match=r"id must be a text or a whole number; got .*in .*p\.json entry 0"):
        read_prompts(path)


def test_an_id_is_there_once(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "x", "id": "hall"}) for _ in range(2)))
    with pytest.raises(ValueError, match=r"id must be unique; got 'hall' again, in .*:2, first in .*:1"):
        read_prompts(path)


def test_ids_that_differ_in_case_are_refused_where_they_share_a_folder(tmp_path, caplog):
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "x", "id": name}) for name in ("Hall", "hall", "HALL")))
    entries = read_prompts(path)
    assert [entry.sample_id for entry in entries] == ["Hall", "hall", "HALL"]
    assert "differ only in case" in caplog.text
    assert len(repeated(entries, 2)) == 6
    ids = [("Hall", "line 1"), ("hall", "line 2")]
    check_ids(ids, lambda: False)
    with pytest.raises(ValueError, match=r"more than case, .* ignores; got 'hall' in line 2 and 'Hall' in line 1"):
        check_ids(ids, lambda: True)
    check_ids([("É", "line 1"), ("é", "line 2"), ("a", "line 3")], pytest.fail)  # percent-encoded, they differ


def test_the_file_system_is_asked(tmp_path):
    (tmp_path / "a").touch()
    assert ignores_case(tmp_path / "new" / "folder") is (tmp_path / "A").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_ids_are_compared_in_nfc(tmp_path):
    with pytest.raises(ValueError, match="id must be unique"):
        check_ids([(NFC, "line 1"), (NFD, "line 2")])
    assert sample_folder(tmp_path, NFC) == sample_folder(tmp_path, NFD)
    assert SampleRecord(NFD, ["x"]).sample_id == NFC
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{"prompt": "x", "id": NFD}]))
    assert read_prompts(path) == [PromptEntry(NFC, "x")]


def test_copies_keep_within_the_limit():
    with pytest.raises(ValueError, match="at most 255 bytes"):
        repeated([PromptEntry("x" * 255, "a hall")], 2)


def written(folder, sample_id):
    return write_sample(folder, SampleRecord(sample_id, ["x"]), np.zeros((1, 4, 4, 3), np.uint8))


def test_one_id_in_two_folders_names_both(tmp_path):
    one, other = written(tmp_path / "a" / "0", NFC), written(tmp_path / "b" / "1", NFD)
    with pytest.raises(ValueError, match="must be unique") as caught:
        find_samples(tmp_path)
    assert str(one) in str(caught.value)
    assert str(other) in str(caught.value)
    for read in (FolderSource, lambda root: open_sources([root])):
        with pytest.raises(ValueError, match=r"sample ids below .* must be unique"):
            read(tmp_path)
    assert find_samples(tmp_path / "a") == [one]


def test_samples_behind_links_and_hidden_ones(tmp_path):
    root = tmp_path / "root"
    near, far = written(root / "near", "near"), written(tmp_path / "disk" / "far", "far")
    (root / "linked").symlink_to(tmp_path / "disk")
    (root / "alias").symlink_to(near)
    (root / "near" / "up").symlink_to(root)
    (tmp_path / "disk" / "up").symlink_to(root)
    written(root / ".partial", "hidden")
    written(root / "__MACOSX" / "near", "near")
    assert find_samples(root) == [root / "linked" / far.name, near]
    assert read_sample(root / "alias").record.sample_id == "near"
