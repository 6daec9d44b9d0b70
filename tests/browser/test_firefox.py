"""A call in a stock Firefox: seen, heard and hung up, by the page as it stands."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.live import browser
from benchmarks.live.browser import RunningServer
from benchmarks.live.call import ProbeRecording
from benchmarks.live.firefox import FirefoxPage, firefox_page, firefox_path

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(firefox_path() is None, reason="no Firefox: install it or set FIREFOX"),
]

LEAST_FPS = 15
SENTENCE_S = 5.0
# A machine without a sound card runs no AudioContext in Firefox, so what is heard is read where it arrives.
KEEP_CONNECTION = """
window.RTCPeerConnection = class extends RTCPeerConnection {
    constructor(...args) {
        super(...args);
        window.call = this;
    }
};"""
AUDIO_LEVEL = """window.call.getStats().then((stats) =>
    [...stats.values()].find((one) => one.type === "inbound-rtp" && one.kind === "audio")?.audioLevel)"""
LOUD = 0.05  # of full scale


@pytest.fixture
def page() -> Iterator[FirefoxPage]:
    with firefox_page() as opened:
        opened.run_before_scripts((Path(browser.__file__).parent / "probe.js").read_text())
        opened.run_before_scripts(KEEP_CONNECTION)
        yield opened


def hung_up(server: RunningServer) -> float:
    """How many calls the browser has ended: by its request, or by closing the connection, whichever came first."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    ends = tuple(f'knotcast_calls_ended_total{{reason="{reason}"}}' for reason in ("hang_up", "remote"))
    return sum(float(line.split()[-1]) for line in lines if line.startswith(ends))


def test_a_call_in_firefox(server: RunningServer, page: FirefoxPage) -> None:
    page.goto(server.url)
    page.click("#samples button:nth-child(2)")
    page.wait_for("!document.getElementById('call').disabled")
    before = hung_up(server)
    page.click("#call")
    page.wait_for("document.body.dataset.state === 'live'")
    page.wait_for("document.getElementById('screen').classList.contains('shown')")

    page.wait_for("!document.getElementById('say').disabled")
    page.click("#say")
    page.wait_for("!document.getElementById('interrupt').disabled")
    page.wait_for(f"{AUDIO_LEVEL}.then((level) => level > {LOUD})")
    since = page.evaluate("performance.now()")
    page.wait_for(f"performance.now() > {since} + {SENTENCE_S * 1000}")
    shown = [
        number for at, number in ProbeRecording.read(page).first_shown() if since < at <= since + SENTENCE_S * 1000
    ]
    assert shown == sorted(shown)
    assert len(shown) >= LEAST_FPS * SENTENCE_S

    page.click("#hang")
    page.wait_for("document.body.dataset.state === 'idle'")
    assert page.evaluate("document.getElementById('avatar').srcObject") is None
    assert page.evaluate("document.getElementById('veil').hidden")
    deadline = time.monotonic() + 5
    while hung_up(server) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert hung_up(server) == before + 1
    assert page.errors == []
