"""The page below a path of a reverse proxy that strips its prefix: every address that the page uses stays below it."""

import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import expect

from benchmarks.live.browser import RunningServer
from benchmarks.live.call import press_call
from tests.browser.conftest import PageOpener
from tests.browser.observe import hang_up

pytestmark = [pytest.mark.browser, pytest.mark.slow]

PREFIX = "/tools/avatar"
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "accept-encoding"}


class StrippingProxy(BaseHTTPRequestHandler):
    """Passes on what lies below the prefix, without it; all else is not found."""

    upstream = ""

    def forward(self) -> None:
        if not self.path.startswith(f"{PREFIX}/"):
            self.send_error(404)
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
        request = urllib.request.Request(
            self.upstream + self.path.removeprefix(PREFIX), body, headers, method=self.command
        )
        try:
            answer = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = forward

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def proxy(server: RunningServer) -> Iterator[str]:
    handler = type("Proxy", (StrippingProxy,), {"upstream": server.url})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


def test_a_call_below_a_path(open_page: PageOpener, proxy: str) -> None:
    page = open_page(url="about:blank")
    asked: list[str] = []
    missed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("response", lambda response: missed.append(response.url) if response.status >= 400 else None)
    page.goto(f"{proxy}{PREFIX}/")
    page.get_by_role("button", name="Sample 2").click()
    expect(page.locator("#status")).to_have_text("Ready", timeout=20000)
    poster = page.locator("#poster")
    expect(poster).to_have_attribute("src", re.compile("/preview"))
    expect(poster).not_to_have_js_property("naturalWidth", 0)
    press_call(page)
    page.get_by_role("button", name="Play a sample sentence").click()
    expect(page.get_by_role("button", name="Stop")).to_be_enabled()
    hang_up(page)
    assert missed == []
    assert [url for url in asked if url.startswith("http") and not url.startswith(f"{proxy}{PREFIX}/")] == []
    assert any(url.endswith("/say") for url in asked)
