import re
import socket
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
        ("mvdiff://toy-depth", r"model must be a panorama model; got a depth model"),
        ("nowhere", r"model must be a model folder with mvdiff\.json; got nowhere"),
    ],
)
def test_models_that_it_cannot_show(model, expected, capsys):
    assert main(["demo", "--model", model]) == 1
    assert re.search(expected, capsys.readouterr().err)


@pytest.mark.parametrize("port", [99999, 65536, 0, -1])
def test_a_port_that_cannot_be_is_told_before_the_model_is_opened(port, capsys):
    assert main(["demo", "--model", "nowhere", "--port", str(port)]) == 1
    assert f"error: --port must lie between 1 and 65535; got {port}." in capsys.readouterr().err


@pytest.mark.parametrize("model", ["mvdiff://toy-caa", "mvdiff://toy-outpaint"])
def test_a_taken_port_is_told_by_the_options_of_the_command(model, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main(["demo", "--model", model, "--device", "cpu", "--port", str(port)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"--port must be free, and --host an address of this machine; got {port} on 127.0.0.1, which" in error
    assert "GRADIO" not in error


def test_a_device_that_does_not_work_here(capsys):
    assert main(["demo", "--device", "foo"]) == 1
    assert "--device must be one that works on this machine; got 'foo' (" in capsys.readouterr().err
