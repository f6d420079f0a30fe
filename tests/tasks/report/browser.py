"""A headless Chromium that opens a page, is clicked in, and says what it logged and asked for.

Driven through its DevTools protocol over a pair of pipes (``--remote-debugging-pipe``): messages are JSON, each ended
by a zero byte, from the browser's file descriptor 4 and to its descriptor 3.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from pathlib import Path
from typing import Any, Self

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 60.0  # seconds for an answer


class Browser:
    """One page of a browser.

    Attributes:
        said: what the page wrote to the console, its exceptions, and what the browser complained of.
        asked: addresses the page asked for, but itself and what stands in it.
    """

    def __init__(self, profile: Path) -> None:
        (read, self._out), (self._in, write) = os.pipe(), os.pipe()

        def place() -> None:
            os.dup2(read, 100), os.dup2(write, 101)
            os.dup2(100, 3), os.dup2(101, 4)

        self._process = subprocess.Popen(
            [str(CHROMIUM), *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(3, 4),
            preexec_fn=place,
        )
        os.close(read), os.close(write)
        self.said: list[str] = []
        self.asked: list[str] = []
        self._number, self._left, self._session = 0, b"", None
        self._here = ""
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._out), os.close(self._in)
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer of the browser to a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while True:
            found = self._next(until)
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self._note(found)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            assert ready, "the browser does not answer"
            got = os.read(self._in, 1 << 16)
            assert got, "the browser has ended"
            self._left += got
        one, self._left = self._left.split(b"\0", 1)
        return json.loads(one)

    def _note(self, event: dict[str, Any]) -> None:
        method, p = event.get("method"), event.get("params", {})
        if method == "Runtime.consoleAPICalled":
            self.said.append(f"{p['type']}: {[a.get('value', a.get('description')) for a in p['args']]}")
        elif method == "Runtime.exceptionThrown":
            self.said.append(f"exception: {p['exceptionDetails']}")
        elif method == "Log.entryAdded":
            self.said.append(f"{p['entry']['level']}: {p['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = p["request"]["url"]
            if url != self._here and not url.startswith(("data:", "blob:")):
                self.asked.append(url)

    def open(self, page: Path, width: int, *, dark: bool = False) -> None:
        """Load a page in a window of a width."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._here = page.resolve().as_uri()
        self.call("Page.navigate", url=self._here)
        self.wait("document.readyState === 'complete' && !!window.equimdReport")

    def value(self, script: str) -> Any:
        """What an expression is on the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        until = time.monotonic() + PATIENCE
        while not self.value(script):
            assert time.monotonic() < until, f"not true in {PATIENCE:g} s: {script}"
            time.sleep(0.05)

    def click(self, place: str) -> None:
        """A click of the mouse at ``[x, y]`` of the window, an expression, or in the middle of an element."""
        script = f"(() => {{ const e = {place}; if (Array.isArray(e)) return e; e.scrollIntoView({{block: 'center'}});"
        script += " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        x, y = self.value(script)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def drag(self, start: list[float], end: list[float]) -> None:
        """A drag of the mouse between two points of the window."""
        middle = [0.5 * (a + b) for a, b in zip(start, end, strict=True)]
        for kind, (x, y), button in (
            ("mouseMoved", start, "none"), ("mousePressed", start, "left"), ("mouseMoved", middle, "left"),
            ("mouseMoved", end, "left"), ("mouseReleased", end, "left"),
        ):  # fmt: skip
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, clickCount=1)
            self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 20)))")
