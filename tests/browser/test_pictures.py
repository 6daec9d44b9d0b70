"""Uploads against a server with small limits: the page fits a picture to them, and leaves one that fits as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from benchmarks.live.browser import SAMPLES, RunningServer, running_server
from tests.browser.conftest import PageOpener

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MAX_BYTES, MAX_PIXELS = 300_000, 1_500_000
ORIENTATION = 0x0112

# What the page sends as a portrait: size and type, in the order sent.
WATCH_UPLOADS = """() => {
    window.sent = [];
    const append = FormData.prototype.append;
    FormData.prototype.append = function (field, file, name) {
        window.sent.push({size: file.size, type: file.type});
        return append.call(this, field, file, name);
    };
}"""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    limits = {"MAX_PORTRAIT_BYTES": str(MAX_BYTES), "MAX_PORTRAIT_PIXELS": str(MAX_PIXELS)}
    with running_server(limits) as running:
        yield running


def sample() -> Image.Image:
    with Image.open(SAMPLES / "portrait_1.jpg") as opened:
        return opened.convert("RGB")


def watch_uploads(page: Page) -> None:
    expect(page.locator("#status")).to_have_text("Ready", timeout=20000)  # the first sample has been sent
    page.evaluate(WATCH_UPLOADS)


def send(page: Page, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the page sent, and the server's answer."""
    watch_uploads(page)
    with page.expect_response(lambda r: r.url.endswith("/v1/portraits"), timeout=60000) as answered:
        page.get_by_label("Portrait").set_input_files(path)
    return page.evaluate("window.sent.at(-1)"), answered.value.json()


def test_48_megapixels_are_sent_smaller_and_upright(open_page: PageOpener, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # a phone held upright: stored on its side
    stored = sample().transpose(Image.Transpose.ROTATE_90).resize((8000, 6000))
    stored.save(tmp_path / "phone.jpg", quality=80, exif=exif)
    assert (tmp_path / "phone.jpg").stat().st_size > MAX_BYTES

    page = open_page()
    sent, portrait = send(page, tmp_path / "phone.jpg")
    assert sent["type"] == "image/jpeg" and sent["size"] <= MAX_BYTES
    assert 0.2 * MAX_PIXELS < portrait["width"] * portrait["height"] <= MAX_PIXELS
    assert portrait["height"] / portrait["width"] == pytest.approx(8000 / 6000, rel=0.01)
    expect(page.get_by_role("button", name="Call")).to_be_enabled()


def test_a_picture_that_fits_is_sent_as_it_is(open_page: PageOpener) -> None:
    page = open_page()
    file = SAMPLES / "portrait_3.jpg"
    sent, _ = send(page, file)
    assert sent["size"] == file.stat().st_size


def test_a_type_that_only_the_browser_reads_is_sent_as_jpeg(open_page: PageOpener, tmp_path: Path) -> None:
    sample().save(tmp_path / "face.gif")
    sent, portrait = send(open_page(), tmp_path / "face.gif")
    assert sent["type"] == "image/jpeg"
    assert (portrait["width"], portrait["height"]) == sample().size


def test_a_file_that_cannot_be_made_smaller_is_refused_before_it_is_sent(open_page: PageOpener, tmp_path: Path) -> None:
    (tmp_path / "raw.jpg").write_bytes(bytes(MAX_BYTES + 1))
    page = open_page()
    watch_uploads(page)
    page.get_by_label("Portrait").set_input_files(tmp_path / "raw.jpg")
    expect(page.locator("#verdict.refused")).to_contain_text("larger than")
    assert page.evaluate("window.sent") == []
    expect(page.get_by_role("button", name="Call")).to_be_disabled()
