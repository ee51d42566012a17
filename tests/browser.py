"""A headless Chromium, driven over the WebDriver protocol with nothing but the standard library."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
]


def find_chromium() -> tuple[str, str] | None:
    """Return the paths of the browser and of its driver, or None where either is missing."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (browser, driver) if browser and driver else None


class Browser:
    """One browser window; a context manager."""

    def __init__(
        self,
        profile: Path,
        width: int = 1200,
        height: int = 900,
        *,
        dark: bool = False,
        phone: bool = False,
        log_requests: bool = False,
    ):
        self.profile, self.size, self.dark, self.phone = profile, (width, height), dark, phone
        self.logged = {"browser": "ALL"} | ({"performance": "ALL"} if log_requests else {})

    def __enter__(self) -> "Browser":
        chromium, driver = find_chromium()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL)
        self.root = f"http://127.0.0.1:{port}"
        width, height = self.size
        args = [*FLAGS, f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
        if self.dark:
            args.append("--blink-settings=preferredColorScheme=0")
        options = {"binary": chromium, "args": args}
        if self.phone:
            options["mobileEmulation"] = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 2.0}}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": self.logged}
        try:
            self._wait_for_driver()
            session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except RuntimeError:
            self._stop()
            raise
        self.root += f"/session/{session['sessionId']}"
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.call("DELETE", "")
        finally:
            self._stop()

    def _stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=10)

    def _wait_for_driver(self) -> None:
        for _ in range(100):
            try:
                self.call("GET", "/status")
                return
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        raise RuntimeError("chromedriver did not answer within 10 s")

    def call(self, method: str, path: str, body: dict | None = None) -> object:
        """Send one WebDriver command and return its value."""
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(
            self.root + path, data=data, method=method, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def open(self, page: Path) -> None:
        """Load a file and wait for its viewer, where it has one."""
        self.visit(page.as_uri())
        self.run_async("Promise.resolve(window.mvdiffViewer && mvdiffViewer.ready).then(done)")

    def visit(self, address: str) -> None:
        """Load an address."""
        self.call("POST", "/url", {"url": address})

    def wait_for(self, script: str, seconds: float = 60) -> object:
        """Run the body of a function until it returns something that is true, and return that."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {script}")

    def run(self, script: str) -> object:
        """Run the body of a function and return what it returns."""
        return self.call("POST", "/execute/sync", {"script": script, "args": []})

    def run_async(self, script: str) -> object:
        """Run a script that calls `done(value)` at its end."""
        script = f"const done = arguments[0]; {script}"
        return self.call("POST", "/execute/async", {"script": script, "args": []})

    def pointer(self, *actions: dict, kind: str = "mouse") -> None:
        """Perform pointer actions."""
        source = {"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": list(actions)}
        self.call("POST", "/actions", {"actions": [source]})

    def drag(self, start: tuple[int, int], by: tuple[int, int], kind: str = "mouse") -> None:
        """Press at a point of the window, move in steps, release."""
        (x, y), (dx, dy) = start, by
        steps = [
            {"type": "pointerMove", "duration": 20, "x": x + dx * i // 4, "y": y + dy * i // 4} for i in range(1, 5)
        ]
        press = [{"type": "pointerMove", "duration": 0, "x": x, "y": y}, {"type": "pointerDown", "button": 0}]
        self.pointer(*press, *steps, {"type": "pointerUp", "button": 0}, kind=kind)

    def pinch(self, centre: tuple[int, int], before: int, after: int) -> None:
        """Put two fingers `before` pixels apart and move them to `after` pixels apart."""
        x, y = centre
        fingers = []
        for number, side in enumerate((-1, 1)):
            actions = [
                {"type": "pointerMove", "duration": 0, "x": x + side * before // 2, "y": y},
                {"type": "pointerDown", "button": 0},
                {"type": "pointerMove", "duration": 50, "x": x + side * after // 2, "y": y},
                {"type": "pointerUp", "button": 0},
            ]
            kind = {"pointerType": "touch"}
            fingers.append({"type": "pointer", "id": f"finger {number}", "parameters": kind, "actions": actions})
        self.call("POST", "/actions", {"actions": fingers})

    def keys(self, *values: str) -> None:
        """Press keys, one after the other."""
        actions = [{"type": kind, "value": value} for value in values for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file for a file input."""
        found = self.call("POST", "/element", {"using": "css selector", "value": selector})
        self.call("POST", f"/element/{next(iter(found.values()))}/value", {"text": str(path)})

    def wheel(self, at: tuple[int, int], delta_y: int) -> None:
        """Turn the wheel over a point of the window."""
        action = {"type": "scroll", "x": at[0], "y": at[1], "deltaX": 0, "deltaY": delta_y, "duration": 0}
        self.call("POST", "/actions", {"actions": [{"type": "wheel", "id": "wheel", "actions": [action]}]})

    def screenshot(self) -> bytes:
        """Return the window as PNG bytes."""
        return base64.b64decode(self.call("GET", "/screenshot"))

    def console(self) -> list[dict]:
        """Return what the page has logged, errors and blocked loads included."""
        return self.call("POST", "/se/log", {"type": "browser"})

    def requests(self) -> list[str]:
        """Return the addresses that pages have asked for since the last call; needs `log_requests`."""
        entries = self.call("POST", "/se/log", {"type": "performance"})
        messages = [json.loads(entry["message"])["message"] for entry in entries]
        return [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
