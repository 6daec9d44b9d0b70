"""The page as a person meets it, in headless Chromium against the real server: choose, call, see, hear, hang up."""

import os
import re
import signal
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import Page, Playwright, expect

from benchmarks.live.browser import SAMPLES, RunningServer, launch_chromium
from benchmarks.live.call import HEARD, PageSession, ProbeRecording, measure_av, picture_figures, press_call
from tests.browser.conftest import PageOpener
from tests.browser.observe import hang_up, loudness, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def now(page: Page) -> float:
    return float(page.evaluate("performance.now()"))


def frames_since(page: Page, since: float) -> list[int]:
    return [number for at, number in ProbeRecording.read(page).first_shown() if at > since]


def is_gone(session: PageSession) -> bool:
    try:
        return session.request("GET").get("state") == "ended"
    except urllib.error.HTTPError as error:
        return error.code in (401, 404, 410)


def test_call_is_seen_and_heard_and_hung_up(open_page: PageOpener) -> None:
    page = open_page(360, 740)
    page.get_by_label("Portrait").set_input_files(SAMPLES / "portrait_2.jpg")
    session = press_call(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(page.get_by_test_id("avatar")).to_be_visible()
    wait_for(page, "25 different generated frames", lambda: len(frames_since(page, 0)) >= 25)

    page.get_by_role("button", name="Hold to talk").hover()
    page.mouse.down()
    wait_for(page, "the avatar speaks while the button is held", lambda: loudness(page) > HEARD)
    page.mouse.up()
    shown = frames_since(page, 0)
    assert shown == sorted(shown)

    hang_up(page)
    expect(page.get_by_test_id("avatar")).to_have_js_property("srcObject", None)
    wait_for(page, "the server has ended the session", lambda: is_gone(session), 5)


def test_mute_speaker_and_open_microphone(open_page: PageOpener) -> None:
    page = open_page()
    press_call(page)
    page.get_by_label("Keep open").check()
    wait_for(page, "an open microphone is heard", lambda: loudness(page) > HEARD)

    mute = page.get_by_role("button", name="Mute")
    mute.click()
    expect(mute).to_have_attribute("aria-pressed", "true")
    wait_for(page, "silence after Mute", lambda: loudness(page) < HEARD)
    page.keyboard.press("m")
    expect(mute).to_have_attribute("aria-pressed", "false")

    speaker = page.get_by_role("button", name="Speaker")
    speaker.click()
    expect(speaker).to_have_attribute("aria-pressed", "false")
    expect(page.get_by_test_id("avatar")).to_have_js_property("muted", True)
    hang_up(page)


def test_without_a_microphone_the_call_goes_on(open_page: PageOpener, playwright: Playwright) -> None:
    browser = launch_chromium(playwright, microphone=None)
    page = open_page(browser=browser)
    press_call(page)
    expect(page.get_by_text("The call goes on")).to_be_visible()
    wait_for(page, "generated frames", lambda: len(frames_since(page, 0)) >= 5)
    page.get_by_role("button", name="Play a sample sentence").click()
    stop = page.get_by_role("button", name="Stop")
    expect(stop).to_be_enabled()
    wait_for(page, "the sentence is heard", lambda: loudness(page) > HEARD)
    stop.click()
    wait_for(page, "silence after Stop", lambda: loudness(page) < HEARD, 5)
    expect(stop).to_be_disabled()
    hang_up(page)
    browser.close()


def test_refused_picture_shows_the_reason(open_page: PageOpener, tmp_path: Path) -> None:
    page = open_page(360, 740)
    Image.fromarray(np.full((400, 400, 3), 128, np.uint8)).save(tmp_path / "wall.png")
    page.get_by_label("Portrait").set_input_files(tmp_path / "wall.png")
    verdict = page.locator("#verdict.refused")
    expect(verdict).to_contain_text("face")
    expect(verdict.get_by_text("A picture like this one works")).to_be_visible()
    expect(page.get_by_role("button", name="Call")).to_be_disabled()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    page.get_by_role("button", name="Sample 3").click()
    expect(page.get_by_role("button", name="Call")).to_be_enabled()
    expect(verdict).to_be_hidden()
    preview = page.locator("#poster")
    expect(preview).to_have_attribute("src", re.compile("v1/portraits/"))
    wait_for(page, "the crop is shown", lambda: preview.evaluate("image => image.naturalWidth > 0"))


def test_a_poor_picture_is_taken_with_a_warning_in_words(open_page: PageOpener, tmp_path: Path) -> None:
    page = open_page()
    with Image.open(SAMPLES / "portrait_1.jpg") as sample:
        sample.filter(ImageFilter.GaussianBlur(6)).save(tmp_path / "blurred.png")
    page.get_by_label("Portrait").set_input_files(tmp_path / "blurred.png")
    verdict = page.locator("#verdict.warned")
    expect(verdict).to_contain_text("blurred")
    expect(verdict).not_to_contain_text("object")
    expect(page.get_by_role("button", name="Call")).to_be_enabled()


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(open_page: PageOpener, width: int) -> None:
    page = open_page(width, 740)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for name in ("Call", "Sample 1"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= width


def test_head_pad_sends_poses_while_held(open_page: PageOpener) -> None:
    page = open_page()
    page.evaluate(
        """() => {
            window.poses = [];
            const send = RTCDataChannel.prototype.send;
            RTCDataChannel.prototype.send = function (text) {
                const message = JSON.parse(text);
                if (message.type === "pose") window.poses.push({...message, at: performance.now()});
                return send.call(this, text);
            };
        }"""
    )
    press_call(page)
    pad = page.get_by_role("slider", name="Head direction")
    pad.focus()
    page.keyboard.down("ArrowRight")
    page.wait_for_timeout(1000)
    expect(pad).to_have_attribute("aria-valuetext", "20 degrees right")
    page.keyboard.up("ArrowRight")
    expect(pad).to_have_attribute("aria-valuetext", "straight ahead")
    page.wait_for_timeout(300)
    poses = page.evaluate("window.poses")
    assert max(pose["yaw"] for pose in poses) == pytest.approx(0.35, abs=0.01)
    assert poses[-1]["yaw"] == 0 and poses[-1]["pitch"] == 0
    assert all(pose["v"] == 1 for pose in poses)
    assert len(poses) <= 26 * (poses[-1]["at"] - poses[0]["at"]) / 1000 + 1
    page.wait_for_timeout(200)
    assert len(page.evaluate("window.poses")) == len(poses)  # quiet once the head is back
    hang_up(page)


def test_leaving_the_page_ends_the_session(open_page: PageOpener) -> None:
    page = open_page()
    session = press_call(page)
    page.goto("about:blank")
    wait_for(page, "the session has ended", lambda: is_gone(session), 4)


def is_aligned(offsets: dict[str, float] | None) -> bool:
    """Do sound and picture of nearly every beep belong together? On a busy machine Chromium pairs them some tens of ms
    apart, and a reading during which the engine lagged loses beeps."""
    return offsets is not None and offsets["beeps"] >= 8 and abs(offsets["median"]) < 150


def test_pictures_come_again_after_the_worker_was_killed(open_page: PageOpener, server: RunningServer) -> None:
    page = open_page()
    offers: list[str] = []
    page.on("request", lambda request: offers.append(request.url) if request.url.endswith("/offer") else None)
    session = press_call(page)
    wait_for(page, "generated frames", lambda: len(frames_since(page, 0)) >= 25)
    before = frames_since(page, 0)
    [worker] = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    killed = now(page)
    veil = page.get_by_text("The engine is restarting.")
    expect(veil).to_be_visible(timeout=5000)
    page.wait_for_timeout(1500)
    wait_for(page, "50 new frames", lambda: len(frames_since(page, killed + 1500)) >= 50, 40)
    after = frames_since(page, killed + 1500)
    assert after[0] > before[-1]  # media time goes on
    expect(veil).to_be_hidden()
    assert worker not in server.worker_pids()
    assert len(offers) == 1

    readings = []
    while len(readings) < 3 and not (readings and is_aligned(readings[-1])):  # what went apart would stay apart
        readings.append(measure_av(page, session))
    assert is_aligned(readings[-1]), readings
    assert picture_figures(ProbeRecording.read(page))["out_of_order"] == 0
    hang_up(page)
