"""Text that other programs wrote: byte order marks, CR LF, and line separators of the web inside a line."""

import pytest

from mvdiff.cli.main import main
from mvdiff.data.equirectangular import EquirectangularPanoramas
from mvdiff.pipelines.prompt_files import read_prompts


def test_byte_order_marks(case, shows, capsys):
    root = case(6) / "data"
    status = main(["data", "check", str(root)])
    shown = capsys.readouterr()
    shows(6, "data check", f"exit {status}: {shown.out.splitlines()[0].partition(': ')[2]}")
    assert "does not exist" not in shown.out + shown.err
    panoramas = EquirectangularPanoramas(root)
    captions = panoramas.captions(0)
    shows(6, "lists and captions", f"{panoramas.sample_id(0)}: {captions}")
    assert [panoramas.sample_id(0), EquirectangularPanoramas(root, "test").sample_id(0)] == ["kitchen", "hall"]
    assert all(text.isascii() for text in captions.values())


@pytest.mark.parametrize(("name", "separator"), [("prompts.jsonl", "\u2028"), ("prompts.txt", "\x85")])
def test_line_separators_inside_a_prompt(case, shows, name, separator):
    entries = read_prompts(case(62) / name)
    shows(62, f"--prompts {name}", f"{len(entries)} panoramas: {[entry.prompt for entry in entries]}")
    assert [entry.prompt for entry in entries] == [f"a kitchen{separator}with a table", "a hall"]
