"""A headless Chromium that tests drive over its debugging pipe, and what a reader can do to a page in it."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--window-size=1280,900",
    "--no-sandbox",  # needed where tests run as root, in a container
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--remote-debugging-pipe",
)
TIMEOUT = 30.0
KEYS = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Tab": 9}


class Chromium:
    """A headless Chromium, spoken to over two pipes: JSON messages that end in a zero byte."""

    def __init__(self, binary: str, profile: Path) -> None:
        read_end, self._write = os.pipe()
        self._read, write_end = os.pipe()
        # Numbers of 10 and more, so that making one of them 3 or 4 below cannot overwrite the other.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read_end, write_end)]
        log = os.open(profile / "log", os.O_WRONLY | os.O_CREAT)
        actions = [(os.POSIX_SPAWN_DUP2, ends[0], 3), (os.POSIX_SPAWN_DUP2, ends[1], 4)]
        actions += [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        command = [binary, *FLAGS, f"--user-data-dir={profile}"]
        self._pid = os.posix_spawn(binary, command, os.environ, file_actions=actions, setpgroup=0)
        for end in (read_end, write_end, *ends, log):
            os.close(end)
        self._buffer, self._count = b"", 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and wait for its answer; events that come before it are kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], TIMEOUT)[0], "the browser does not answer"
            self._buffer += os.read(self._read, 2**20)
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message

    def close(self) -> None:
        self.call("Browser.close")
        deadline = time.monotonic() + 10
        while os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.killpg(self._pid, signal.SIGKILL)
            time.sleep(0.05)
        os.close(self._read)
        os.close(self._write)


@dataclass
class Tab:
    """One page: its address, and what a reader can do to it."""

    chromium: Chromium
    session: str
    opened: list[str] = field(default_factory=list)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self.chromium.call(method, self.session, **params)

    def open(self, path: Path) -> None:
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.opened.append(path.as_uri())
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """Value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not self.js(expression):
            assert time.monotonic() < deadline, f"never true: {expression}"
            time.sleep(0.02)

    def point(self, figure: str, x: float, y: float) -> tuple[float, float]:
        """Where a point of a figure's axes lies in the window, after scrolling to it."""
        self.js(f"document.getElementById('{figure}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
        place = self.js(
            f"(() => {{ const node = document.getElementById('{figure}'), box = node.getBoundingClientRect();"
            f"const {{xaxis, yaxis}} = node._fullLayout;"
            f"return [box.x + xaxis._offset + xaxis.d2p({x}), box.y + yaxis._offset + yaxis.d2p({y})]; }})()"
        )
        return float(place[0]), float(place[1])

    def mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def hover(self, figure: str, x: float, y: float) -> str:
        """Text of the label that a figure shows at a point."""
        px, py = self.point(figure, x, y)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=px - 1, y=py)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=px, y=py)
        label = f"document.querySelector('#{figure} .hoverlayer').textContent"
        self.wait(f"{label} !== ''")
        return str(self.js(label))

    def click(self, figure: str, x: float, y: float) -> None:
        px, py = self.point(figure, x, y)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=px, y=py)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, px, py)

    def press(self, key: str) -> None:
        name = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **name, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **name)

    def complaints(self) -> list[dict[str, Any]]:
        """Everything the console or the policy had to say, and every exception."""
        kinds = (
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        )
        return [event for event in self._events() if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Addresses asked for, without data that is in the page itself."""
        sent = [
            event["params"]["request"]["url"]
            for event in self._events()
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in sent if not url.startswith(("data:", "blob:"))]

    def _events(self) -> list[dict[str, Any]]:
        return [event for event in self.chromium.events if event.get("sessionId") == self.session]


@contextmanager
def new_tab(chromium: Chromium) -> Iterator[Tab]:
    """A tab of its own, closed at the end."""
    target = chromium.call("Target.createTarget", url="about:blank", newWindow=True)["targetId"]
    session = chromium.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    yield Tab(chromium, session)
    chromium.call("Target.closeTarget", targetId=target)
