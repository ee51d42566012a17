import json

import pytest

from mvdiff.pipelines.prompt_files import PromptEntry, read_prompts, repeated


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_text_files_have_one_panorama_a_line(tmp_path):
    entries = read_prompts(write(tmp_path / "p.txt", "a kitchen\n  ein Flur, größer \n"))
    assert entries == [PromptEntry("0000", "a kitchen"), PromptEntry("0001", "ein Flur, größer")]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_json_entries(tmp_path, suffix):
    values = ["a kitchen", ["a door", "a bed"], {"prompt": "a hall", "id": "hall"}, {"prompt": ["x", "y"]}]
    text = json.dumps(values) if suffix == ".json" else "\n".join(map(json.dumps, values))
    assert read_prompts(write(tmp_path / f"p{suffix}", text)) == [
        PromptEntry("0000", "a kitchen"),
        PromptEntry("0001", ("a door", "a bed")),
        PromptEntry("hall", "a hall"),
        PromptEntry("0003", ("x", "y")),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "a kitchen\n\na hall\n", r"prompt must be a non-empty text.*p.txt:2"),
        ("p.txt", "", r"prompts must have at least one entry; got none, in .*p.txt"),
        ("p.json", '{"prompt": "x"}', r"prompts must be a JSON list; got dict, in .*p.json"),
        ("p.json", '["x", 3]', r"prompt must be a non-empty text.*got 3, in .*p.json entry 1"),
        ("p.json", '["x", []]', r"prompt must be a non-empty text.*entry 1"),
        ("p.json", '[["x", " "]]', r"prompt must be a non-empty text.*entry 0"),
        ("p.json", '[{"promt": "x"}]', r"entry must have the key prompt.*\['promt'\], in .*entry 0"),
        ("p.json", '[{"prompt": "x", "id": "a"}, {"prompt": "y", "id": "a"}]', r"id must be unique; got 'a' again"),
        ("p.jsonl", '"x"\n{oops}\n', r"p.jsonl:2 must be JSON "),
    ],
)
def test_broken_files_name_the_place(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(write(tmp_path / name, text))


def test_a_byte_order_mark_is_no_part_of_a_prompt(tmp_path):
    for name, text in (("p.txt", "a kitchen"), ("p.json", '["a kitchen"]'), ("p.jsonl", '"a kitchen"')):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read_prompts(tmp_path / name) == [PromptEntry("0000", "a kitchen")]


def test_a_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n")
    text = r"a\.png must be text in UTF-8; byte 0 is not\."
    with pytest.raises(ValueError, match=text):
        read_prompts(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"prompts must be an existing file; got .*none.txt"):
        read_prompts(tmp_path / "none.txt")


def test_repeated():
    entries = [PromptEntry("a", "x"), PromptEntry("b", ("y", "z"))]
    assert repeated(entries, 1) == entries
    assert [(e.sample_id, e.prompt) for e in repeated(entries, 2)] == [
        ("a-0", "x"),
        ("a-1", "x"),
        ("b-0", ("y", "z")),
        ("b-1", ("y", "z")),
    ]
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        repeated(entries, 0)
