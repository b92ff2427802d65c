"""A page in headless Chromium, spoken to over pipes in the DevTools protocol with the standard library."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

COMMAND = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60.0  # until a browser that does not answer counts as broken

# JITQUANT_NEEDS_BROWSER=1 lets these tests fail where there is none.
needs_browser = pytest.mark.skipif(
    COMMAND is None and os.environ.get("JITQUANT_NEEDS_BROWSER") != "1",
    reason="needs Chromium on the PATH: apt-get install chromium, or make test as root",
)

# Chromium reads commands from descriptor 3 and answers on descriptor 4.
_LAUNCHER = """
import fcntl, os, sys
# Above 4 first, so that neither overwrites the other.
reading, writing = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(reading, 3)
os.dup2(writing, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--no-first-run",
    "--remote-debugging-pipe",
)


class Browser:
    """One tab: ``with Browser() as page: page.open(file)``. ``complaints`` has what its console says."""

    def __init__(self, width: int = 1280, height: int = 800, *, dark: bool = False) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._size, self._dark = (width, height), dark
        self._number = 0
        self._received = b""

    def __enter__(self) -> Browser:
        assert COMMAND is not None, "there is no Chromium on the PATH: apt-get install chromium"
        with ExitStack() as opened:
            self._launch(COMMAND, opened)
            self._attach()
            self._opened = opened.pop_all()  # nothing failed: what is open stays so until the end
        return self

    def _launch(self, program: str, opened: ExitStack) -> None:
        """Starts it, and lets `opened` undo that."""
        profile = opened.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        with ExitStack() as of_child:
            there, self._writing = os.pipe()
            of_child.callback(os.close, there)
            opened.callback(os.close, self._writing)
            self._reading, here = os.pipe()
            of_child.callback(os.close, here)
            opened.callback(os.close, self._reading)
            command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
            process = subprocess.Popen(
                [sys.executable, "-c", _LAUNCHER, str(there), str(here), *command],
                pass_fds=(there, here),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        opened.callback(process.wait)
        opened.callback(process.kill)

    def _attach(self) -> None:
        """Opens a tab and listens to it."""
        self._session = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.look(dark=self._dark)
        self.resize(*self._size)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Gives a command and returns the answer to it."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]  # type: ignore[no-any-return]
            self._note(answer)

    def open(self, path: Path | str, fragment: str = "") -> None:
        """Loads a file and waits until its scripts have run and it was drawn once."""
        self.send("Page.navigate", url=Path(path).resolve().as_uri() + fragment)
        deadline = time.monotonic() + SECONDS
        while self.run("document.readyState") != "complete":
            assert time.monotonic() < deadline, "the page did not load"
            time.sleep(0.02)
        self.wait_for_drawing()

    def wait_for_drawing(self) -> None:
        """Two frames: what watches the width of an element draws in the first."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited, as JSON has it."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)}).textContent"))

    def count(self, selector: str) -> int:
        return int(self.run(f"document.querySelectorAll({json.dumps(selector)}).length"))

    def click(self, selector: str) -> None:
        """Presses the mouse button in the middle of the first such element, which is scrolled into view."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{element}.scrollIntoView({{ block: 'center', inline: 'center' }})")
        left, top, width, height = self.box(selector)
        self.click_at(left + width / 2, top + height / 2)

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of the first such element in the window."""
        rectangle = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        left, top, width, height = self.run(
            f"(({{ x, y, width, height }}) => [x, y, width, height])({rectangle})"
        )
        return left, top, width, height

    def click_at(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.wait_for_drawing()

    def move_to(self, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.wait_for_drawing()

    def press(self, key: str) -> None:
        """A key by its name: ``ArrowRight``, ``/``."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Escape": 27, "Tab": 9}.get(key, 0)
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)
        self.wait_for_drawing()

    def write(self, text: str) -> None:
        """Types into what has the focus."""
        self.send("Input.insertText", text=text)
        self.wait_for_drawing()

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.wait_for_drawing()

    def look(self, *, dark: bool = False, printed: bool = False) -> None:
        """Chooses dark or light, and the screen or paper."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media="print" if printed else "", features=[scheme])

    def screenshot(self, path: Path | str, *, whole: bool = False) -> None:
        """Writes a PNG of what is in view, or of the whole page."""
        image = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(image["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._reading], [], [], SECONDS)
            part = os.read(self._reading, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError(f"{COMMAND} did not answer; try it by hand with {' '.join(_FLAGS)}")
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(f"console.{params['type']}: {params['args']}")
        elif method == "Log.entryAdded":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
