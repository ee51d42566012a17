"""docs/scale.md shows what docs/scale_table.py works out, and that is the arithmetic which the page describes."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
spec = importlib.util.spec_from_file_location("scale_table", ROOT / "docs" / "scale_table.py")
scale = importlib.util.module_from_spec(spec)
spec.loader.exec_module(scale)
VALUES = {key: value for key, (value, *_) in scale.FIGURES.items()}


def printed(capsys, monkeypatch, words) -> str:
    monkeypatch.setattr(sys, "argv", ["scale_table.py", *words])
    scale.main()
    return capsys.readouterr().out


def test_the_page_has_the_tables(capsys, monkeypatch):
    tables = printed(capsys, monkeypatch, []).strip().split("\n\n")
    assert len(tables) == 4
    assert not [table for table in tables if table not in PAGE]
    commands = re.findall(r"^python docs/scale_table\.py (--.*?)(?: *#.*)?$", PAGE, flags=re.MULTILINE)
    other = [printed(capsys, monkeypatch, command.split()).split("\n\n")[1] for command in commands]
    assert [table in PAGE for table in other] == [False, True]  # an example of the user's own, a million panoramas


def test_every_figure_is_there_and_says_where_it_is_from():
    assert all(value > 0 and source for value, _, source in scale.FIGURES.values())
    unmeasured = [source for name, (_, _, source) in scale.FIGURES.items() if name.startswith(("h100", "a6000"))]
    assert all("**not measured here**" in source for source in unmeasured)


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_batch_rate_steps_and_time():
    given = VALUES | {"panoramas": 1000, "epochs": 3, "batch": 4, "lr": 1e-4, "a6000_rate": 0.5, "gpu_rate": 2.0}
    one, sixteen = rows(scale.training(given, [1, 16]))
    assert one == ["1", "4", "1.0e-04", "250", "750", "1.7 h", "25 min", "25 min"]  # 3,000 samples / 0.5 s and / 2 s
    assert sixteen == ["16", "16", "2.0e-04", "62", "186", "6 min", "94 s", "94 s"]


def test_loaders_storage_and_gradients():
    given = VALUES | {"gpu_rate": 2.0, "images_rate": 8.0, "latents_rate": 64.0, "images_mb": 3.0, "latents_mb": 1.0}
    images, latents = rows(scale.feeding(given | {"trained": 250e6}, [4]))
    assert images == ["4", "images", "8", "1", "24", "3"]  # a ring of 4 sends 1.5 x 1 GB a step, two steps a second
    assert latents == ["4", "latents", "8", "0.12", "8", "3"]


def test_a_rate_that_is_not_given_follows_from_the_arithmetic():
    given = VALUES | {"h100_tflops": 1000, "h100_use": 0.5, "step_tflop": 10, "encode_tflop": 15}
    assert scale.gpu_rate(given) == pytest.approx(20)
    assert scale.gpu_rate(given, encoded=True) == pytest.approx(50)


def test_a_figure_that_does_not_exist(capsys, monkeypatch):
    with pytest.raises(SystemExit):
        printed(capsys, monkeypatch, ["--set", "speed=3"])
    assert "gpu_rate; got 'speed'" in capsys.readouterr().err
