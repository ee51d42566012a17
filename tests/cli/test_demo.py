import re
import sys

import pytest

from mvdiff.cli.main import main


def test_without_gradio_the_error_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo"]) == 1
    error = capsys.readouterr().err
    assert 'Install it with: pip install "mvdiff[demo]"' in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("mvdiff://toy-depth", r"model must be one for the task panorama; got a depth model"),
        ("nowhere", r"model must be a model folder with mvdiff\.json; got nowhere"),
    ],
)
def test_models_that_it_cannot_show(model, expected, capsys):
    assert main(["demo", "--model", model]) == 1
    assert re.search(expected, capsys.readouterr().err)
