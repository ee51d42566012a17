"""Text as people's programs write it, and text that was never text."""

import json
import re
from pathlib import Path

import pytest
import yaml

import mvdiff
from mvdiff.cli.main import main
from mvdiff.cli.rig_files import read_rig
from mvdiff.data.captions import read_caption
from mvdiff.data.frame_files import read_key_frames
from mvdiff.files.text import MAX_DEPTH, read_json, read_lines, read_text, read_yaml
from mvdiff.geometry.cameras import RingRig
from mvdiff.pipelines.prompt_files import read_prompts
from mvdiff.samples import read_sample
from tests.files.kinds import KINDS

BOM = b"\xef\xbb\xbf"
ENDS = {"LF": b"\n", "CR LF": b"\r\n", "CR": b"\r"}


@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_lines(tmp_path, mark, end):
    path = tmp_path / "a.txt"
    path.write_bytes(mark + end.join(["café a".encode(), b" b ", b"", b"c\xe2\x80\xa8d\xc2\x85e"]) + end)
    assert read_lines(path) == ["café a", "b", "", "c\u2028d\x85e", ""]


def test_a_joined_list_has_a_mark_in_its_midst(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"a\r\n" + BOM + b"b\r\n")
    assert read_lines(tmp_path / "a.txt") == ["a", "b", ""]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a".encode("utf-16"), "it is in UTF-16. Save it as UTF-8"),
        ("a".encode("utf-16-le"), "it holds NUL characters"),
        (b"caf\xe9", "byte 3 is not"),
        (b"\xef\xbb", "byte 0 is not"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, content, text):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.txt must be text in UTF-8; {text}"):
        read_text(tmp_path / "a.txt")


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="must be a file; it is a folder"):
        read_text(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"a\.txt does not exist"):
        read_text(tmp_path / "a.txt")
    with open(tmp_path / "large.txt", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match=r"large\.txt must be a text file of at most 64 MiB"):
        read_text(tmp_path / "large.txt")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested too deeply"),
        ("1" * 5000, "at most 64 bits"),
        (str(2**64), "at most 64 bits"),
        (r'["\ud800"]', "surrogate"),
        (r'{"a\u0000": 1}', "NUL"),
        ("{,}", "Expecting property name"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_none(tmp_path, text, reason):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json must be JSON \(.*{reason}"):
        read_json(tmp_path / "a.json")


def test_json_at_its_limits(tmp_path):
    text = "[" * MAX_DEPTH + r'"\ud83d\ude00", 18446744073709551615, -9223372036854775808, NaN' + "]" * MAX_DEPTH
    (tmp_path / "a.json").write_text(text)
    value = read_json(tmp_path / "a.json")
    for _ in range(MAX_DEPTH - 1):
        [value] = value
    assert value[:3] == ["😀", 2**64 - 1, -(2**63)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("a0: &a0 x\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9)), "aliases"),
        ("a0: &a0 {x: 1}\n" + "".join(f"a{i + 1}: &a{i + 1} {{<<: [*a{i}, *a{i}]}}\n" for i in range(40)), "aliases"),
        ("a: &a [*a]", "nested too deeply|recursive"),
        ("a: [", "expected"),
        ("2020-99-99", "month"),
        ("? {a: b}\n: c", "unhashable"),
    ],
)
def test_yaml_that_is_none(tmp_path, text, reason):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.yaml must be YAML \(.*({reason})"):
        read_yaml(tmp_path / "a.yaml")


def test_yaml_keeps_its_aliases(tmp_path):
    text = "a: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}\ne: 1.5\nf: yes"
    (tmp_path / "a.yaml").write_text(text)
    assert read_yaml(tmp_path / "a.yaml") == yaml.safe_load(text)
    (tmp_path / "a.yaml").write_text("")
    assert read_yaml(tmp_path / "a.yaml") is None


TEXTS = [name for name, kind in KINDS.items() if Path(kind.file).suffix in (".txt", ".json", ".jsonl", ".yaml", ".csv")]
LIBRARIES = ("base", "adapter")  # diffusers and transformers read these, and write them
HASHED = ("shards: train",)  # any other byte is damage


@pytest.mark.parametrize("name", [name for name in TEXTS if not name.startswith(LIBRARIES + HASHED)])
def test_every_reader_takes_marks_and_the_ends_of_lines(tmp_path, name):
    """Each kind of text, as an editor on another system saves it; what follows the mark is what was there."""
    kind = KINDS[name]
    kind.write(tmp_path / "a")
    path = tmp_path / "a" / kind.file
    path.write_bytes(BOM + path.read_bytes().replace(b"\n", b"\r\n"))
    kind.read(tmp_path / "a")


def test_readers_return_what_follows_the_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(BOM + b"7\r\n9\r")
    assert read_key_frames(tmp_path / "a.txt") == [7, 9]
    assert read_caption(tmp_path / "a.txt") == "7"
    assert [entry.prompt for entry in read_prompts(tmp_path / "a.txt")] == ["7", "9"]
    (tmp_path / "rig.json").write_bytes(BOM + json.dumps(RingRig(2).to_dict()).encode())
    assert read_rig(tmp_path / "rig.json") == RingRig(2)


def test_prompts_may_hold_the_web_s_ends_of_lines(tmp_path):
    prompts = ["a sofa\u2028by the window", "a bed\x85and a lamp", "a\u2029b\x0bc\x0cd\x1ce"]
    (tmp_path / "p.txt").write_text("\n".join(prompts), encoding="utf-8")
    lines = [json.dumps({"prompt": prompt, "id": f"{i}"}, ensure_ascii=False) for i, prompt in enumerate(prompts)]
    (tmp_path / "p.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "p.json").write_text(json.dumps(prompts, ensure_ascii=False), encoding="utf-8")
    for name in ("p.txt", "p.jsonl", "p.json"):
        assert [entry.prompt for entry in read_prompts(tmp_path / name)] == prompts, name
    KINDS["prompt.txt"].write(tmp_path / "sample")
    (tmp_path / "sample" / "prompt.txt").write_text(prompts[0] + "\n", encoding="utf-8")
    assert read_sample(tmp_path / "sample").record.prompts == [prompts[0]] * 8


NESTED = "[" * 100_000
JSON = (
    *("mvdiff.json", "model_index.json", "scheduler_config.json", "adapter's config.json", "feature network", "truth"),
    *("transforms.json", "sample.json", "captions of a panorama", "rig", "results of a report", "prompts.json"),
    *("results for a model card", "config", "source"),
)


@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("content", [NESTED, "3", "{", ""], ids=["nested", "a number", "half", "empty"])
def test_json_that_is_something_else_is_one_sentence(tmp_path, name, content):
    kind = KINDS[name]
    kind.write(tmp_path / "a")
    (tmp_path / "a" / kind.file).write_text(content)
    with pytest.raises(ValueError, match=Path(kind.file).name.replace(".", r"\.")) as caught:
        kind.read(tmp_path / "a")
    assert "\n" not in str(caught.value)


def test_the_command_line_has_a_sentence_for_a_nested_file(tmp_path, capsys):
    KINDS["mvdiff.json"].write(tmp_path / "model")
    (tmp_path / "model" / "mvdiff.json").write_text(NESTED)
    status = main(
        ["generate", "panorama", "--model", str(tmp_path / "model"), "--prompt", "a", "--out", str(tmp_path / "out")]
    )
    error = capsys.readouterr().err
    assert status in (1, 2)
    assert "mvdiff.json must be JSON (it is nested too deeply)" in error
    assert "Traceback" not in error


def test_all_text_goes_through_one_reader():
    """Outside `mvdiff/files` nobody decodes files; the exceptions read no user's file as text."""
    allowed = {
        "cli/train_help.py": "own source",
        "training/cost.py": "/proc",
        "models/loading.py": "as libraries do",
    } | {
        "eval/checks.py": "own values",
        "cli/run_config.py": "own settings",
    }
    reading = re.compile(
        r"\.read_text\(|json\.loads?\((?!json\.dumps)|safe_load|yaml\.load|np\.load|genfromtxt|loadtxt"
    )
    package = Path(mvdiff.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.parent.name != "files" and reading.search(path.read_text(encoding="utf-8"))
    }
    assert found == set(allowed)


def test_comments_may_hold_any_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(BOM + b"# caf\xe9 \0\r\n" + BOM + b" # \xff\ra # b\n")
    assert read_lines(path, comment="#") == ["", "", "a # b", ""]
    path.write_bytes(b"# caf\xe9\ncaf\xe9")
    for comment in (None, "#"):
        with pytest.raises(ValueError, match=r"a\.txt must be text in UTF-8"):
            read_lines(path, comment)
