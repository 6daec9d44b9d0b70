"""A snapshot by the camera becomes the portrait, and the camera is on only while it is shown."""

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Playwright, expect

from benchmarks.live.browser import SAMPLES, launch_chromium
from tests.browser.conftest import PageOpener

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def camera(tmp_path: Path) -> Path:
    """A film of a sample portrait, 640x480."""
    still = Image.new("RGB", (640, 480), (120, 130, 140))
    still.paste(Image.open(SAMPLES / "portrait_2.jpg").convert("RGB").resize((480, 480)), (80, 0))
    still.save(tmp_path / "frame.jpg", quality=92)
    film = tmp_path / "film.mjpeg"
    film.write_bytes((tmp_path / "frame.jpg").read_bytes() * 30)
    return film


def test_a_snapshot_becomes_the_portrait(open_page: PageOpener, playwright: Playwright, camera: Path) -> None:
    browser = launch_chromium(playwright, microphone=None, camera=camera)
    page = open_page(browser=browser)
    live = "document.querySelector('#viewfinder').srcObject !== null"
    page.get_by_role("button", name="Use the camera").click()
    expect(page.get_by_label("Camera", exact=True)).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_label("Camera", exact=True)).to_be_hidden()
    assert page.evaluate(live) is False, "the camera is off"
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#verdict")).to_contain_text("can be used")
    expect(page.locator("#found polygon")).to_have_count(4)
    assert page.evaluate(live) is False
    expect(page.get_by_role("button", name="Call")).to_be_enabled()
    browser.close()


def test_a_missing_camera_is_told(open_page: PageOpener, playwright: Playwright) -> None:
    browser = launch_chromium(playwright, microphone=None)
    page = open_page(browser=browser)
    page.get_by_role("button", name="Use the camera").click()
    expect(page.locator("#verdict.warned")).to_contain_text("camera")
    expect(page.get_by_label("Camera", exact=True)).to_be_hidden()
    browser.close()
