"""Headless Firefox driven over WebDriver BiDi: one process with a profile of its own, one page.

Playwright's Firefox is a patched build; this is the ordinary one. Independent of what is measured.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from ground.errors import MediaError

START_SECONDS = 60.0
ANSWER_SECONDS = 60.0
MAX_MESSAGE = 64 * 2**20
PREFERENCES: dict[str, bool | int] = {
    "media.navigator.streams.fake": True,  # a microphone that plays a tone
    "media.navigator.permission.disabled": True,  # access without a prompt
    "media.autoplay.default": 0,  # sound without a click
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "app.normandy.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
}


def firefox_path() -> str | None:
    """``FIREFOX``, else the first known name on the path."""
    given = os.environ.get("FIREFOX")
    names = [given] if given else ["firefox-esr", "firefox"]
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


class FirefoxPage:
    """One tab. errors: error messages of its console and its scripts."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._sent = 0
        self.errors: list[str] = []
        self._command("session.new", {"capabilities": {}})
        self._command("session.subscribe", {"events": ["log.entryAdded"]})
        self._context = self._command("browsingContext.create", {"type": "tab"})["context"]

    def run_before_scripts(self, script: str) -> None:
        """Run ``script`` in every page before the page's own scripts."""
        self._command("script.addPreloadScript", {"functionDeclaration": f"() => {{\n{script}\n}}"})

    def goto(self, url: str) -> None:
        """Load a page completely. Raises RuntimeError if that fails."""
        self._command("browsingContext.navigate", {"context": self._context, "url": url, "wait": "complete"})

    def evaluate(self, expression: str) -> Any:
        """The expression's value, or that of its promise, through JSON. It counts as a user activation. Raises
        RuntimeError."""
        answer = self._command(
            "script.evaluate",
            {
                "expression": f"Promise.resolve({expression}).then((value) => JSON.stringify(value) ?? 'null')",
                "target": {"context": self._context},
                "awaitPromise": True,
                "userActivation": True,
            },
        )
        if answer["type"] != "success":
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['text']}")
        return json.loads(answer["result"]["value"])

    def click(self, selector: str) -> None:
        """Press the middle of an element with the mouse. Raises RuntimeError if it is not there or not in view."""
        nodes = self._command(
            "browsingContext.locateNodes", {"context": self._context, "locator": {"type": "css", "value": selector}}
        )["nodes"]
        if not nodes:
            raise RuntimeError(f"no element {selector}")
        origin = {"type": "element", "element": {"sharedId": nodes[0]["sharedId"]}}
        steps = [
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        source = {"type": "pointer", "id": "mouse", "actions": steps}
        self._command("input.performActions", {"context": self._context, "actions": [source]})

    def wait_for(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until the expression is true. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {seconds:.0f} s: {expression}")
            time.sleep(0.2)

    def screenshot(self) -> str:
        """Screenshot of the page, PNG in base64."""
        return str(self._command("browsingContext.captureScreenshot", {"context": self._context})["data"])

    def _command(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=ANSWER_SECONDS))
            if message.get("method") == "log.entryAdded" and message["params"]["level"] == "error":
                self.errors.append(str(message["params"]["text"]))
            if message.get("id") != self._sent:
                continue
            if message["type"] == "error":
                raise RuntimeError(f"{method}: {message['error']}: {message['message']}")
            result: dict[str, Any] = message["result"]
            return result


@contextlib.contextmanager
def firefox_page() -> Iterator[FirefoxPage]:
    """A page in a new Firefox process, which is ended afterwards. Raises MediaError ``no_firefox``."""
    path = firefox_path()
    if path is None:
        raise MediaError("no_firefox", "no Firefox: install it (Debian: apt-get install firefox-esr) or set FIREFOX")
    with tempfile.TemporaryDirectory(prefix="knotcast-firefox-", ignore_cleanup_errors=True) as folder:
        profile, log = Path(folder) / "profile", Path(folder) / "firefox.log"
        profile.mkdir()
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
        (profile / "user.js").write_text("\n".join(lines))
        command = [path, "--headless", "--no-remote", "--profile", str(profile), "--remote-debugging-port", "0"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=os.environ | {"HOME": folder}, stdout=output, stderr=output)
        try:
            with connect(f"{_address(log, process)}/session", max_size=MAX_MESSAGE, ping_interval=None) as socket:
                yield FirefoxPage(socket)
        finally:
            _stop(process)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    """Address at which Firefox listens, from its log. Raises RuntimeError if it does not start."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", log.read_text(errors="replace")):
            return found[1]
        time.sleep(0.1)
    raise RuntimeError(f"Firefox did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
