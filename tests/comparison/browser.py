"""A headless Chromium, driven over WebDriver (https://www.w3.org/TR/webdriver2) with the standard library."""

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
KEYS = {
    "tab": "\ue004",
    "enter": "\ue007",
    "escape": "\ue00c",
    "left": "\ue012",
    "up": "\ue013",
    "down": "\ue015",
    "right": "\ue014",
}


class Browser:
    """One window.

    Args:
        url: address of the driver's session.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, path: str, **body: Any) -> Any:
        data = None if method == "GET" else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, page: Path) -> None:
        self.call("POST", "/url", url=page.absolute().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a JavaScript function's body returns."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def emulate(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def dark(self, on: bool) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if on else "light"}]
        self.emulate("Emulation.setEmulatedMedia", features=features)

    def size(self, width: int, height: int, phone: bool = False) -> None:
        self.emulate(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    def press(self, *keys: str) -> None:
        """Press and release keys, by name."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def move(self, x: float, y: float) -> None:
        """Move the mouse to a point of the window."""
        action = {"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}
        self.call("POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": [action]}])

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse at a point of the window and release it at another."""
        points = [{"type": "pointerMove", "duration": 50, "x": round(x), "y": round(y)} for x, y in (start, end, end)]
        down, up = ({"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp"))
        actions = [points[0], down, *points[1:], up]
        self.call("POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": actions}])

    def log(self) -> list[str]:
        """Return the messages of the browser console since the last call."""
        return [entry["message"] for entry in self.call("POST", "/se/log", type="browser")]

    def screenshot(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        result = self.emulate("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(result["data"]))


@contextmanager
def browser(flags: Sequence[str] = ()) -> Iterator[Browser]:
    """Start a driver and a browser, and end both."""
    assert CHROMIUM and DRIVER
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    root = Browser(f"http://127.0.0.1:{port}")
    session = None
    try:
        for _ in range(600):
            try:
                root.call("GET", "/status")
                break
            except OSError:
                time.sleep(0.1)
        options = {"binary": CHROMIUM, "args": [*_FLAGS, *flags]}
        capabilities = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        response = root.call("POST", "/session", capabilities={"alwaysMatch": capabilities})
        session = Browser(f"http://127.0.0.1:{port}/session/{response['sessionId']}")
        yield session
    finally:
        if session is not None:
            session.call("DELETE", "")
        os.killpg(process.pid, signal.SIGTERM)  # of this driver and the browser that it started
        process.wait()
