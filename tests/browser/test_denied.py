"""What a browser may deny: the microphone, its level, WebRTC, storage. The page says so, and what can go on goes on."""

import pytest
from playwright.sync_api import expect

from benchmarks.live.browser import RunningServer
from benchmarks.live.call import HEARD, press_call
from tests.browser.conftest import PageOpener
from tests.browser.observe import hang_up, loudness, wait_for

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# The probe measures with an AudioContext of its own at 48 kHz; the page names no rate.
LEVEL_DENIED = {
    "another sample rate": """
        const create = AudioContext.prototype.createMediaStreamSource;
        AudioContext.prototype.createMediaStreamSource = function (stream) {
            if (stream.getVideoTracks().length > 0) return create.call(this, stream);
            throw new DOMException("different sample rate", "NotSupportedError");
        };""",
    "no AudioContext": """
        const Real = AudioContext;
        window.AudioContext = function (options) {
            if (!options) throw new DOMException("denied", "NotSupportedError");
            return new Real(options);
        };
        window.AudioContext.prototype = Real.prototype;""",
    "held back": """
        const Real = AudioContext;
        window.AudioContext = function (options) {
            const context = new Real(options);
            if (!options) {
                context.suspend();
                context.resume = () => new Promise(() => {});
            }
            return context;
        };
        window.AudioContext.prototype = Real.prototype;""",
}
MICROPHONE_DENIED = {
    "NotAllowedError": "is not allowed for this page",
    "NotFoundError": "No microphone was found",
    "NotReadableError": "another program may be using it",
    "OverconstrainedError": "cannot be used",
    "TypeError": "cannot be used",
}


@pytest.mark.parametrize("how", LEVEL_DENIED)
def test_a_level_that_cannot_be_measured(open_page: PageOpener, how: str) -> None:
    page = open_page(before=LEVEL_DENIED[how])
    press_call(page)
    expect(page.locator("#talk-hint")).to_contain_text("Its level cannot be shown here, but you are heard.")
    expect(page.locator("#talk .level")).to_have_class("level unmeasured")
    page.get_by_label("Keep open").check()
    wait_for(page, "the microphone is heard all the same", lambda: loudness(page) > HEARD)
    hang_up(page)


@pytest.mark.parametrize("name", MICROPHONE_DENIED)
def test_a_microphone_that_is_denied(open_page: PageOpener, name: str) -> None:
    page = open_page(
        before=f"""navigator.mediaDevices.getUserMedia = () =>
            Promise.reject(new DOMException("", "{name}"));"""
    )
    press_call(page)
    hint = page.locator("#talk-hint")
    expect(hint).to_contain_text(MICROPHONE_DENIED[name])
    expect(hint).to_contain_text("The call goes on")
    expect(page.get_by_role("button", name="Hold to talk")).to_be_disabled()
    expect(page.get_by_role("button", name="Try the microphone again")).to_be_visible()


def test_a_microphone_that_can_do_nothing_of_what_is_wanted(open_page: PageOpener) -> None:
    page = open_page(
        before="""
        const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = (wanted) =>
            wanted.audio === true ? real(wanted) : Promise.reject(new OverconstrainedError("channelCount"));"""
    )
    press_call(page)
    expect(page.get_by_role("button", name="Hold to talk")).to_be_enabled()


def test_a_browser_without_webrtc(open_page: PageOpener) -> None:
    page = open_page(before="delete window.RTCPeerConnection;")
    expect(page.locator("#veil-text")).to_contain_text("This browser has no WebRTC")
    expect(page.locator("#status")).to_have_text("No WebRTC")
    page.get_by_role("button", name="Sample 2").click()
    page.wait_for_timeout(500)
    expect(page.locator("#veil-text")).to_be_visible()
    expect(page.get_by_role("button", name="Call")).to_be_disabled()


def test_a_browser_that_denies_storage(open_page: PageOpener, server: RunningServer) -> None:
    page = open_page(
        url=f"{server.url}/#key=anything",
        before="""
        Object.defineProperty(window, "sessionStorage", {
            get() { throw new DOMException("The operation is insecure.", "SecurityError"); },
        });""",
    )
    expect(page.locator("#status")).to_have_text("Ready", timeout=20000)
    assert "key" not in page.url
    press_call(page)
