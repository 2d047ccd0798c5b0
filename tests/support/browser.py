"""A headless browser, steered through the pipe of its debugging protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One page; `complaints` are what went wrong in it: exceptions, console errors, refused content."""

    def __init__(self, to: int, back: int) -> None:
        self.to, self.back, self.waiting, self.number = to, back, b"", 0
        self.complaints: list[str] = []
        self.session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> Any:
        self.number += 1
        order: dict[str, Any] = {"id": self.number, "method": method, "params": params}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.to, json.dumps(order).encode() + b"\0")
        while (said := self._next()).get("id") != self.number:
            self._note(said)
        assert "error" not in said, said
        return said["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.waiting:
            if not (more := os.read(self.back, 1 << 16)):
                raise RuntimeError("the browser has ended")
            self.waiting += more
        line, _, self.waiting = self.waiting.partition(b"\0")
        return json.loads(line)

    def _note(self, said: dict[str, Any]) -> None:
        params = said.get("params", {})
        if said.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
        elif said.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(params["args"])[:500])
        elif said.get("method") == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"][:500])

    def open(self, url: str, width: int, height: int = 900, scheme: str = "light") -> None:
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.ask("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"never true in the browser: {expression}"
            time.sleep(0.05)

    def picture(self, path: Path, whole: bool = True) -> None:
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, which ends with the context."""
    assert BROWSER is not None
    read_orders, to = os.pipe()
    back, write_answers = os.pipe()
    # The browser reads descriptor 3 and writes descriptor 4, whatever ours are called.
    moves = f'exec 3<&{read_orders} 4>&{write_answers}; exec "$@"'
    command = [
        "bash", "-c", moves, "browser", BROWSER, "--headless=new", "--remote-debugging-pipe", "--no-sandbox",
        "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", f"--user-data-dir={profile}",
    ]  # fmt: skip
    started = subprocess.Popen(
        command, pass_fds=(read_orders, write_answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(read_orders)
    os.close(write_answers)
    try:
        page = Browser(to, back)
        yield page
        page.session = None
        page.ask("Browser.close")
        started.wait(timeout=30)
    finally:
        if started.poll() is None:
            started.kill()
            started.wait()
        os.close(to)
        os.close(back)
