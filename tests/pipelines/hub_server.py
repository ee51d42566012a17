"""A hub on this machine: the few addresses that huggingface_hub's own client asks when it uploads and downloads."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_local"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Repositories of models in memory, one commit each: `server.repos[repo_id][path] = bytes`."""

    def log_message(self, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            asked = json.loads(body)
            repo_id = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.server.created[repo_id] = asked
            self.server.repos.setdefault(repo_id, {})
            self._answer({"url": f"{self.server.url}/{repo_id}", "name": repo_id})
        elif path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            self._answer({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"]} | how for file in json.loads(body)["files"]]
            self._answer({"files": files})
        elif "/commit/" in path:
            repo_id = "/".join(path.split("/")[3:5])
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.repos[repo_id][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            url = f"{self.server.url}/{repo_id}/commit/{COMMIT}"
            self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})
        else:
            self._answer({"error": f"no such address {path}"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo_id, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            files = self.server.repos.get(repo_id)
            if files is None or revision not in ("main", "v1", COMMIT):
                self._answer({"error": "Not found"}, 404, code="RepoNotFound" if files is None else "RevisionNotFound")
            elif parts[4:5] == ["tree"]:
                self._answer([{"type": "file", "path": p, "size": len(v), "oid": _oid(v)} for p, v in files.items()])
            else:
                siblings = [{"rfilename": path} for path in files]
                self._answer({"id": repo_id, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
            return
        repo_id, path = "/".join(parts[:2]), "/".join(parts[4:])
        content = self.server.repos.get(repo_id, {}).get(path)
        if content is None:
            self._answer({"error": "Not found"}, 404, code="EntryNotFound")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_oid(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _answer(self, value: object, status: int = 200, code: str | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def local_hub(monkeypatch, cache):
    """Serve a hub on this machine and point huggingface_hub's client at it."""
    import huggingface_hub.constants as constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.url = f"http://127.0.0.1:{server.server_port}"
    server.repos, server.created, server.cards = {}, {}, []
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
