"""Real server and headless Chromium for a measurement or a test; both end with it. Independent of what is measured."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import soundfile
import soxr
from playwright.sync_api import Browser, BrowserContext, Playwright

from ground.errors import MediaError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SAMPLES = ROOT / "client_web" / "samples"
START_SECONDS = 120.0

# A virtual machine has neither a sound card nor, often, the rights for Chromium's own sandbox.
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]


def chromium_path() -> str | None:
    """``CHROMIUM``, else the first known name on the path."""
    given = os.environ.get("CHROMIUM")
    names = [given] if given else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((path for name in names if (path := shutil.which(name)) is not None), None)


def launch_chromium(playwright: Playwright, microphone: Path | None, camera: Path | None = None) -> Browser:
    """Start headless Chromium. microphone: 48 kHz WAV that plays in a loop as the caller's voice; camera: MJPEG file
    that it shows in a loop; both None: a machine without either. Raises MediaError ``no_chromium``."""
    path = chromium_path()
    if path is None:
        raise MediaError("no_chromium", "no Chromium: install it (Debian: apt-get install chromium) or set CHROMIUM")
    args = list(CHROMIUM_ARGS)
    if microphone is not None or camera is not None:
        args += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    if camera is not None:
        args.append(f"--use-file-for-fake-video-capture={camera.resolve()}")
    if microphone is not None:
        args.append(f"--use-file-for-fake-audio-capture={microphone.resolve()}")
    return playwright.chromium.launch(executable_path=path, headless=True, args=args)


def install_probe(context: BrowserContext) -> None:
    """Record pictures and sound of every page of ``context`` in ``window.knotcastProbe`` (probe.js)."""
    context.add_init_script(path=HERE / "probe.js")


def write_microphone(path: Path) -> Path:
    """Write the sample sentence for Chromium's fake microphone, which needs 48 kHz, 16 bit. It plays in a loop; half a
    second of silence at the end separates the repetitions."""
    pcm, rate = soundfile.read(SAMPLES / "sentence.wav", dtype="float32")
    pcm = soxr.resample(pcm, rate, 48000)
    soundfile.write(path, np.concatenate([pcm, np.zeros(24000, np.float32)]), 48000, subtype="PCM_16")
    return path


@dataclass(frozen=True)
class RunningServer:
    """A server process. log: file with its output."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def worker_pids(self) -> list[int]:
        """Process ids of the engine's workers."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for child in children:
            with contextlib.suppress(psutil.Error):
                if "engine.worker.process" in child.cmdline():
                    found.append(child.pid)
        return found


@contextlib.contextmanager
def running_server(settings: Mapping[str, str] | None = None) -> Iterator[RunningServer]:
    """Run ``knotcast serve`` on a free port with numbered frames, and yield once it is ready.

    settings: further environment variables without their prefix ``KNOTCAST_``. Raises RuntimeError with the end of the
    log when the server does not become ready.
    """
    port = _free_port()
    names = {"HOST": "127.0.0.1", "PORT": str(port), "STAMP_FRAMES": "true", **(settings or {})}
    environment = os.environ | {f"KNOTCAST_{name}": value for name, value in names.items()}
    with tempfile.TemporaryDirectory(prefix="knotcast-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            command = [sys.executable, "-c", "from cli.main import app; app()", "serve"]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(url, process, log)
            yield RunningServer(url, process, log)
        finally:
            _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/ready", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not become ready:\n{log.read_text(errors='replace')[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
