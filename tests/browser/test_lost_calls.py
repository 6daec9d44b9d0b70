"""A call that is lost says why, and the same portrait can be called again."""

import contextlib
import re
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from playwright.sync_api import Page, expect

from benchmarks.live.browser import RunningServer, running_server
from benchmarks.live.call import press_call
from tests.browser.conftest import PageOpener
from tests.browser.observe import hang_up

pytestmark = [pytest.mark.browser, pytest.mark.slow]

AFTER_SILENCE_MS = 25000
# Withholds the data channel from the page: it stays as if it never opened.
WITHHOLD_CHANNEL = """
    const create = RTCPeerConnection.prototype.createDataChannel;
    RTCPeerConnection.prototype.createDataChannel = function (...args) {
        create.apply(this, args);
        return Object.assign(new EventTarget(), {readyState: "connecting"});
    };
"""


@contextlib.contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    """The processes stand still: as a network that is gone, or a computer that sleeps."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


def renderers() -> list[psutil.Process]:
    """The processes in which the browsers of this test run their pages."""
    children = psutil.Process().children(recursive=True)
    return [child for child in children if "--type=renderer" in child.cmdline()]


def expect_ended(page: Page, words: str | re.Pattern[str], timeout: float = AFTER_SILENCE_MS) -> None:
    expect(page.locator("#veil-text")).to_have_text(words, timeout=timeout)
    expect(page.locator("#status")).to_have_text("Call ended")
    expect(page.get_by_role("button", name="Call again")).to_be_focused()


def call_again(page: Page) -> None:
    """The same portrait answers."""
    poster = page.locator("#poster").get_attribute("src")
    page.get_by_role("button", name="Call again").click()
    page.locator("body[data-state=live]").wait_for(timeout=20000)
    assert page.locator("#poster").get_attribute("src") == poster
    hang_up(page)


def test_a_server_that_stands_still(open_page: PageOpener, server: RunningServer) -> None:
    page = open_page()
    page.get_by_role("button", name="Sample 2").click()
    press_call(page)
    with stopped([psutil.Process(server.process.pid)]):
        expect_ended(page, re.compile("The server no longer answers"))
    page.wait_for_timeout(1000)
    call_again(page)


def test_a_computer_that_slept(open_page: PageOpener) -> None:
    page = open_page()
    press_call(page)
    with stopped(renderers()):
        time.sleep(12)
    expect_ended(page, "The computer was asleep, and the call ended meanwhile.")
    call_again(page)


def test_the_longest_time_of_a_call(open_page: PageOpener) -> None:
    with running_server({"MAX_CALL_S": "3"}) as brief:
        page = open_page(url=brief.url)
        press_call(page)
        expect_ended(page, re.compile("longest time"))
        page.get_by_role("button", name="Sample 3").click()  # another choice: the words have been read
        expect(page.locator("#veil")).to_be_hidden()
        expect(page.get_by_role("button", name="Call", exact=True)).to_be_visible()


def test_a_channel_that_does_not_open(open_page: PageOpener) -> None:
    page = open_page(before=WITHHOLD_CHANNEL)
    press_call(page)
    expect_ended(page, re.compile("its channel for messages did not open"))


def test_a_server_that_is_gone(open_page: PageOpener) -> None:
    with running_server() as doomed:
        page = open_page(url=doomed.url)
        press_call(page)
        doomed.process.send_signal(signal.SIGKILL)
        expect_ended(page, re.compile("The server can no longer be reached"))
