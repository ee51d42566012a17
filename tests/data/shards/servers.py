"""A local HTTP server of a folder, with ranges, that misbehaves when told to."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Fault = Callable[[str, int], str | None]
"""Given the path and how often it was asked for, "503", "half", "slow", "other", "no ranges", or None."""


class Server:
    """Requests that a running server received.

    Attributes:
        url: Address of the folder.
        fault: Says how to answer a request.
        requests: How often each path was asked for.
        sent: Bytes sent of each path.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.fault: Fault = lambda path, count: None
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            with state.lock:
                state.requests[path] += 1
            fault = state.fault(path, state.requests[path])
            if fault == "503":
                self._answer(503, b"busy")
            elif not (folder / path).is_file():
                self._answer(404, b"not found")
            else:
                self._file((folder / path).read_bytes(), path, fault)

        def _file(self, content: bytes, path: str, fault: str | None) -> None:
            asked = self.headers.get("Range")
            status, headers = 200, {}
            if asked and fault != "no ranges":
                start, _, end = asked.removeprefix("bytes=").partition("-")
                last = min(int(end), len(content) - 1) if end else len(content) - 1
                status, headers["Content-Range"] = 206, f"bytes {start}-{last}/{len(content)}"
                content = content[int(start) : last + 1]
            if fault == "slow":
                time.sleep(1.5)
            if fault == "half":
                content = content[: len(content) // 2]
            if fault == "other":
                content = bytes(len(content))
            with state.lock:
                state.sent[path] += len(content)
            self._answer(status, content, headers)

        def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)
            except (BrokenPipeError, ConnectionResetError):  # a client that gave up waiting
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state = Server(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
