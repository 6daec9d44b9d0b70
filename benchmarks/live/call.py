"""Benchmark of a live call in headless Chromium on this machine, measured inside the page; prints one JSON object.

    python -m benchmarks.live.call [--seconds 20] [--url http://127.0.0.1:8000] [--out figures.json]

Starts a server with numbered frames (KNOTCAST_STAMP_FRAMES), or measures the one at --url, which must run with this
setting. A repeated frame counts once. Needs the `dev` extra and Chromium.
"""

import argparse
import contextlib
import io
import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import soundfile
from playwright.sync_api import Page, sync_playwright

from benchmarks.live.browser import install_probe, launch_chromium, running_server, write_microphone
from ground.errors import RequestError, one_line_errors
from ground.files import replacing
from training.arguments import at_least, new_file

SETTLE_S = 3.0  # after the first generated frame, before the steady state is measured
HEARD = 0.004  # root mean square from which the avatar is heard: -48 dB of full scale
BEEP = 0.05  # root mean square from which a sound is a beep
BEEP_AT = np.cumsum(
    [0.5, 0.9, 1.1, 0.8, 1.2, 1.0, 0.7, 1.3, 0.9, 1.1]
)  # seconds; uneven intervals, so that beeps cannot be confused
BEEP_SECONDS = float(BEEP_AT[-1]) + 0.5
AV_PATIENCE_S = 10.0
FPS = 25.0  # of the embedded model
LEVEL_OFF_S = 1.5  # the voice before the beeps has died away


class Evaluating(Protocol):
    """A page of any browser that evaluates JavaScript."""

    def evaluate(self, expression: str) -> Any: ...


@dataclass(frozen=True)
class ProbeRecording:
    """Recording of the probe; times in ms of the page's clock. pressed: when Call was pressed. pictures: (shown at,
    frame number or None). sound: (time, root mean square)."""

    pressed: float
    pictures: list[tuple[float, int | None]]
    sound: list[tuple[float, float]]

    @classmethod
    def read(cls, page: Evaluating) -> "ProbeRecording":
        raw = page.evaluate("window.knotcastProbe")
        offsets = [now - context_time * 1000 for now, context_time in raw["clock"]]
        offset = statistics.median(offsets) if offsets else 0.0
        sound = [(at * 1000 + offset, rms) for at, rms in raw["sound"]]
        return cls(raw["pressed"], [(at, number) for at, number, _ in raw["pictures"]], sound)

    def first_shown(self) -> list[tuple[float, int]]:
        """Time of the first display of each numbered frame, and its number, in order of display."""
        seen: set[int] = set()
        shown = []
        for at, number in self.pictures:
            if number is not None and number not in seen:
                seen.add(number)
                shown.append((at, number))
        return shown


def picture_figures(recording: ProbeRecording) -> dict[str, float | int | None]:
    """Distinct frames a second and longest freeze, both after ``SETTLE_S``, and start-up times."""
    shown = recording.first_shown()
    if not shown:
        return {"distinct_frames": 0}
    begin = shown[0][0] + SETTLE_S * 1000
    steady = [at for at, _ in shown if at >= begin]
    gaps = np.diff(steady)
    loud = [at for at, rms in recording.sound if rms > HEARD]
    numbers = [number for _, number in shown]
    return {
        "distinct_frames": len(shown),
        "distinct_fps": _rounded((len(steady) - 1) * 1000 / (steady[-1] - steady[0]), 2) if len(steady) > 1 else None,
        "longest_freeze_ms": _rounded(gaps.max()) if len(gaps) else None,
        "frame_gap_p95_ms": _rounded(np.percentile(gaps, 95)) if len(gaps) else None,
        "out_of_order": int((np.diff(numbers) < 0).sum()),
        "first_picture_ms": _rounded(recording.pictures[0][0] - recording.pressed),
        "first_generated_ms": _rounded(shown[0][0] - recording.pressed),
        "first_sound_ms": _rounded(loud[0] - recording.pressed) if loud else None,
    }


def av_offsets(recording: ProbeRecording, beeps: list[float], fps: float) -> list[float]:
    """Time of sound minus time of picture for the same media time, in ms, of every beep that was heard. Positive: the
    sound is late.

    beeps: media times in seconds. Frame n begins at media time n / fps.
    """
    shown = recording.first_shown()
    times = np.array([at for at, _ in shown])
    media = np.array([number / fps for _, number in shown])
    onsets = np.array(_onsets(recording.sound))
    offsets = []
    for beep in beeps:
        if not media.size or not onsets.size or not media[0] <= beep <= media[-1]:
            continue
        seen_at = np.interp(beep, media, times)
        nearest = onsets[np.abs(onsets - seen_at).argmin()]
        if abs(nearest - seen_at) < 350:
            offsets.append(float(nearest - seen_at))
    return offsets


def _onsets(sound: list[tuple[float, float]]) -> list[float]:
    onsets, quiet_since = [], -1e9
    for at, rms in sound:
        if rms > BEEP:
            if at - quiet_since > 150:
                onsets.append(at)
            quiet_since = at
    return onsets


def _rounded(value: Any, digits: int = 0) -> float:
    return round(float(value), digits)


def beep_wav() -> bytes:
    """Ten beeps of 1 kHz, 60 ms each, 48 kHz mono."""
    pcm = np.zeros(int(BEEP_SECONDS * 48000), np.float32)
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(2880) / 48000, dtype=np.float32)
    for at in BEEP_AT:
        pcm[int(at * 48000) : int(at * 48000) + len(tone)] = tone
    out = io.BytesIO()
    soundfile.write(out, pcm, 48000, format="WAV", subtype="PCM_16")
    return out.getvalue()


@dataclass(frozen=True)
class PageSession:
    """The session that the page created, for requests of our own."""

    url: str
    token: str

    def request(self, method: str, path: str = "", body: bytes | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "audio/wav"}
        request = urllib.request.Request(f"{self.url}{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as response:
            answer: dict[str, Any] = json.load(response)
            return answer


def press_call(page: Page) -> PageSession:
    """Press Call, wait until the call is live, and return its session."""
    with page.expect_response(lambda r: r.url.endswith("/v1/sessions") and r.request.method == "POST") as answered:
        page.get_by_role("button", name="Call").click()
    made = answered.value.json()
    page.locator("body[data-state=live]").wait_for(timeout=20000)
    return PageSession(f"{answered.value.url}/{made['id']}", made["token"])


def measure(page: Page, seconds: float, screenshot: Path | None) -> dict[str, Any]:
    """Measure one call: speech from the microphone for ``seconds``, then beeps by ``say``."""
    page.locator("#samples button").first.click()
    page.locator("#call:enabled").wait_for()
    session = press_call(page)
    page.get_by_label("Keep open").check()
    page.wait_for_timeout(seconds * 1000)
    figures: dict[str, Any] = picture_figures(ProbeRecording.read(page))
    if screenshot is not None:
        page.screenshot(path=screenshot)
    page.get_by_label("Keep open").uncheck()
    page.wait_for_timeout(LEVEL_OFF_S * 1000)
    figures["av_offset_ms"] = measure_av(page, session)
    state = session.request("GET")
    figures |= {name: state[name] for name in ("generated_frames", "underruns", "delay_ms")}
    page.get_by_role("button", name="Hang up").click()
    return figures


def measure_av(page: Page, session: PageSession) -> dict[str, float] | None:
    """Play the beeps and wait until their frames were shown. Median and worst offset in ms; None if no beep was heard
    beside its frame."""
    turn_id = session.request("POST", "/say", beep_wav())["turn_id"]
    deadline = time.monotonic() + BEEP_SECONDS + AV_PATIENCE_S
    beeps: list[float] = []
    while True:
        page.wait_for_timeout(500)
        recording = ProbeRecording.read(page)
        if not beeps:
            # The session has the media time at which the turn began.
            started = [turn["start_ms"] for turn in session.request("GET")["turns"] if turn["turn_id"] == turn_id]
            beeps = [ms / 1000 + float(at) for ms in started if ms is not None for at in BEEP_AT]
        shown = recording.first_shown()
        if time.monotonic() > deadline or (beeps and shown and shown[-1][1] / FPS > beeps[-1] + 0.5):
            break
    offsets = av_offsets(recording, beeps, FPS)
    if not offsets:
        return None
    median, worst = statistics.median(offsets), max(offsets, key=abs)
    return {"median": _rounded(median), "worst": _rounded(worst), "beeps": len(offsets)}


def check_answers(url: str) -> None:
    """Raise RequestError ``no_server`` if no server answers at ``url``."""
    try:
        urllib.request.urlopen(url, timeout=10).close()
    except (OSError, ValueError, HTTPException) as error:
        raise RequestError("no_server", f"no server answers at {url}: start one, or leave out --url") from error


@contextlib.contextmanager
def _server_url(given: str | None) -> Iterator[str]:
    if given is not None:
        check_answers(given)
        yield given
        return
    with running_server() as server:
        yield server.url


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a live call in headless Chromium.")
    parser.add_argument("--seconds", type=at_least(1.0), default=20.0, help="speech before the beeps")
    parser.add_argument("--url", help="a running server with KNOTCAST_STAMP_FRAMES=true")
    parser.add_argument("--out", type=new_file, help="write the JSON here as well")
    parser.add_argument("--screenshot", type=new_file, help="write a picture of the page in the call here (PNG)")
    chosen = parser.parse_args()
    with (
        one_line_errors("benchmarks.live.call"),
        tempfile.TemporaryDirectory() as folder,
        _server_url(chosen.url) as url,
        sync_playwright() as playwright,
    ):
        browser = launch_chromium(playwright, write_microphone(Path(folder) / "microphone.wav"))
        context = browser.new_context(viewport={"width": 1280, "height": 800})
        install_probe(context)
        page = context.new_page()
        page.goto(url)
        psutil.cpu_percent()
        begun = time.monotonic()
        figures = measure(page, chosen.seconds, chosen.screenshot)
        figures |= {"cpu_percent": psutil.cpu_percent(), "cores": psutil.cpu_count(), "chromium": browser.version}
        figures["wall_s"] = _rounded(time.monotonic() - begun, 1)
        browser.close()
    text = json.dumps(figures, indent=2)
    print(text)
    if chosen.out:
        with replacing(chosen.out) as draft:
            draft.write_text(text + "\n")


if __name__ == "__main__":
    main()
