"""A server bound wider than loopback lets in who opens its one-time link, and tells everybody else why not."""

import re
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Playwright, expect

from benchmarks.live.browser import RunningServer, launch_chromium, running_server
from benchmarks.live.call import press_call

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server({"HOST": "0.0.0.0"}) as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    launched = launch_chromium(playwright, microphone=None)
    yield launched
    launched.close()


def key_of(server: RunningServer) -> str:
    """The latest one-time key that the server has printed."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        if found := re.findall(r"#key=(\S+)", server.log.read_text()):
            return str(found[-1])
        time.sleep(0.1)
    raise AssertionError("no link was printed")


def test_a_link_opens_the_page_once(server: RunningServer, browser: Browser) -> None:
    link = f"{server.url}/#key={key_of(server)}"
    invited = browser.new_context().new_page()
    invited.goto(link)
    expect(invited.locator("#status")).to_have_text("Ready", timeout=20000)
    assert "key" not in invited.url
    press_call(invited)
    invited.get_by_role("button", name="Hang up").click()
    invited.reload()  # the cookie that the link was traded for still holds
    expect(invited.locator("#status")).to_have_text("Ready", timeout=20000)

    late = browser.new_context().new_page()
    late.goto(link)
    expect(late.locator("#verdict")).to_contain_text("access key", timeout=20000)


def test_without_a_link_the_page_says_what_to_do(server: RunningServer, browser: Browser) -> None:
    page = browser.new_context().new_page()
    page.goto(server.url)
    expect(page.locator("#verdict")).to_contain_text("open a link that it printed", timeout=20000)
    expect(page.locator("#status")).to_have_text("Not ready")
