"""Chromium without a window, told what to do over its debugging pipe; and a server of files."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser, if it is there."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, which is served until the block ends."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Page:
    """A page in Chromium."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._count, self._rest = read, write, 0, b""
        self.said: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log"):
            self.call(f"{domain}.enable")

    _session = ""

    def call(self, method: str, seconds: float = 60, **parameters: Any) -> Any:
        """Ask the browser, and wait for the answer."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(seconds)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.said.append(json.dumps(answer["params"]))

    def _next(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        one, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(one)
        return found

    def run(self, script: str, seconds: float = 60) -> Any:
        """What a script returns, promises awaited."""
        answer = self.call("Runtime.evaluate", seconds, expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script: str, seconds: float = 120) -> Any:
        """What a script returns once that is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.run(script)
            if found:
                return found
            time.sleep(0.1)
        raise AssertionError(f"{script}: never true; the page said {self.run('document.body.innerText')}; {self.said}")

    def open(self, address: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState == 'complete'")

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in an input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def size(self, width: int, height: int, scale: float = 1, mobile: bool = False) -> None:
        """Set the window's size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=mobile)  # fmt: skip

    def picture(self, file: Path) -> None:
        """Save what is seen as a PNG."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser(*flags: str) -> Iterator[Page]:
    """A page in a new browser, with a profile of its own."""
    name = chromium()
    assert name
    there, ours_write = os.pipe()
    ours_read, back = os.pipe()
    with tempfile.TemporaryDirectory() as profile:
        command = ["bash", "-c", f'exec "$@" 3<&{there} 4>&{back}', "-", name, "--headless=new",
                   "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                   "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
                   f"--user-data-dir={profile}", *flags, "about:blank"]  # fmt: skip
        process = subprocess.Popen(command, pass_fds=(there, back), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)  # fmt: skip
        os.close(there)
        os.close(back)
        try:
            yield Page(ours_read, ours_write)
        finally:
            process.terminate()
            process.wait(20)
            os.close(ours_read)
            os.close(ours_write)
