"""A real server, a real worker and a real Chromium for the tests of this folder; each test gets a page of its own.

Playwright's synchronous interface keeps an event loop while it is open, so it is opened and closed with each module.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from benchmarks.live.browser import (
    RunningServer,
    chromium_path,
    install_probe,
    launch_chromium,
    running_server,
    write_microphone,
)

PageOpener = Callable[..., Page]

# Chromium says so itself when an answer is not 2xx or does not come; the tests look at the page's own words about it.
EXPECTED_ON_CONSOLE = ("Failed to load resource",)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    if chromium_path() is None:
        pytest.skip("no Chromium: install it or set CHROMIUM")
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_microphone(tmp_path_factory.mktemp("microphone") / "speech.wav")


@pytest.fixture(scope="module")
def chromium(playwright: Playwright, microphone: Path) -> Iterator[Browser]:
    """A browser whose microphone plays speech in a loop."""
    browser = launch_chromium(playwright, microphone)
    yield browser
    browser.close()


@pytest.fixture
def open_page(server: RunningServer, chromium: Browser) -> Iterator[PageOpener]:
    """``open_page(width, height, browser=..., url=..., before=...)``: the page, freshly opened.

    before: a script that runs before the page's own.

    Errors in it, of its content policy too, fail the test at the end.
    """
    errors: list[str] = []
    contexts = []

    def opener(
        width: int = 1000, height: int = 800, browser: Browser = chromium, url: str = server.url, before: str = ""
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        install_probe(context)
        if before:
            context.add_init_script(before)
        page = context.new_page()
        page.set_default_timeout(20000)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(url)
        return page

    yield opener
    for context in contexts:
        context.close()
    unexpected = [text for text in errors if not any(part in text for part in EXPECTED_ON_CONSOLE)]
    assert unexpected == []
