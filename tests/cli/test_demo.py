import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

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


@pytest.mark.parametrize(
    ("option", "value", "bounds"),
    [("max_steps", 0, "1 and 1000"), ("max_steps", 1001, "1 and 1000"), ("max_waiting", -1, "0 and 100")],
)
def test_limits_that_cannot_be(option, value, bounds, capsys):
    assert main(["demo", "--model", "nowhere", f"--{option}", str(value)]) == 1
    assert f"error: --{option} must lie between {bounds}; got {value}." in capsys.readouterr().err


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


def answer(address: str, body: bytes | None = None, kind: str = "") -> tuple[int, str]:
    """Return status and text of the answer to a request."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, body, {"Content-Type": kind}), timeout=30) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def form(content: bytes) -> tuple[bytes, str]:
    """Return the body of an upload, and its type."""
    head = b'--cut\r\nContent-Disposition: form-data; name="files"; filename="sofa.png"\r\n\r\n'
    return head + content + b"\r\n--cut--\r\n", "multipart/form-data; boundary=cut"


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_uploads_are_bounded_private_and_removed_when_the_server_ends(number, capsys, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    seen = {}

    def visit() -> None:
        root = f"http://127.0.0.1:{port}/gradio_api"
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            seen["status"], paths = answer(f"{root}/upload", *form(b"a picture"))
            [seen["upload"]] = map(Path, json.loads(paths))
            seen["kept"] = seen["upload"].read_bytes()
            seen["too large"] = answer(f"{root}/upload", *form(bytes(33 * 2**20)))[0]
            guesses = [seen["upload"].parent, seen["upload"].parents[1], "/etc/hostname", __file__]
            seen["guesses"] = {answer(f"{root}/file={guess}")[0] for guess in guesses}
        finally:
            os.kill(os.getpid(), getattr(signal, number))

    visitor = threading.Thread(target=visit)
    visitor.start()
    before = signal.getsignal(signal.SIGTERM)
    words = ["demo", "--device", "cpu", "--port", str(port)]
    assert main(words) == (143 if number == "SIGTERM" else 0)
    visitor.join()
    assert (seen["status"], seen["kept"], seen["too large"], seen["guesses"]) == (200, b"a picture", 413, {403})
    assert seen["upload"].parents[2] == tmp_path.resolve()
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
