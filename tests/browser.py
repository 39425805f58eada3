"""A page in headless Chromium, driven over a pipe by its own protocol: laid out, looked at and photographed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ALL_LOADED = """new Promise(done => { const tick = () => {
  for (const one of document.images) one.loading = 'eager';
  [...document.images].every(one => one.complete) ? done(true) : setTimeout(tick, 20) }; tick() })"""


def executable() -> str:
    """Chromium's path; the test skips, and says why, where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here, which lays the page out: apt-get install chromium")
    return found


class Browser:
    """One page at a time; `with Browser() as browser`."""

    def __init__(self) -> None:
        chromium = executable()
        to_browser, self._to = os.pipe()
        self._from, from_browser = os.pipe()

        # The protocol's pipe is at descriptors 3 and 4, so the ends are moved out of their way first.
        def place() -> None:
            read, write = os.dup2(to_browser, 103), os.dup2(from_browser, 104)
            os.dup2(read, 3)
            os.dup2(write, 4)

        switches = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        switches += ["--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            [chromium, *switches, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(3, 4), preexec_fn=place,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._rest = 0, b""
        self._session: dict[str, str] = {}

    def __enter__(self) -> Self:
        pages = [one for one in self._ask("Target.getTargets")["targetInfos"] if one["type"] == "page"]
        attached = self._ask("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self._ask("Page.enable")
        self._ask("Network.enable")
        offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self._ask("Network.emulateNetworkConditions", offline=True, **offline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._to)
        self._process.kill()
        self._process.wait()
        os.close(self._from)

    def open(self, page: Path, width: int, height: int = 4000) -> None:
        """Show a file in a window of a size in px, offline, with all its pictures loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)
        self._ask("Page.navigate", url=page.resolve().as_uri())
        while self.run("document.readyState") != "complete" or self.run("location.protocol") != "file:":
            pass
        assert self.run(ALL_LOADED)

    def run(self, script: str) -> Any:
        """The JSON value of an expression, or of its promise, in the page."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def photograph(self, path: Path | None = None) -> np.ndarray:
        """The window, (H, W, 3) uint8."""
        content = base64.b64decode(self._ask("Page.captureScreenshot", format="png")["data"])
        if path is not None:
            path.write_bytes(content)
        return np.asarray(Image.open(BytesIO(content)).convert("RGB"))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._from, 1 << 20)
                assert part, "Chromium has ended"
                self._rest += part
            answer, _, self._rest = self._rest.partition(b"\0")
            told = json.loads(answer)
            if told.get("id") == self._number:
                assert "error" not in told, told["error"]
                return dict(told["result"])
