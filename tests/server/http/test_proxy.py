"""The server behind a reverse proxy that serves it under a path, over real sockets."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from server.http.run import http_config
from server.settings import Settings
from tests.caller import http, serving

PREFIX = "/some/avatar"
HOP = ("host", "connection", "transfer-encoding", "content-length", "keep-alive")


class Proxy:
    """Forwards what is under ``PREFIX``. strip: without it. keep_host: with the Host header that the browser sent."""

    def __init__(self, upstream: str, strip: bool, keep_host: bool) -> None:
        self._client = httpx.AsyncClient(base_url=upstream, timeout=20)
        self._strip, self._keep_host = strip, keep_host

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        path = scope["path"]
        assert path.startswith(PREFIX), f"{path} is not under the prefix"
        headers = [(key.decode(), value.decode()) for key, value in scope["headers"] if key.decode() not in HOP]
        if self._keep_host:
            headers.append(("host", dict(scope["headers"])[b"host"].decode()))
        target = (path.removeprefix(PREFIX) or "/") if self._strip else path
        answer = await self._client.request(
            scope["method"], f"{target}?{scope['query_string'].decode()}", headers=headers, content=body
        )
        kept = [(key.lower().encode(), value.encode()) for key, value in answer.headers.items() if key not in HOP]
        await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
        await send({"type": "http.response.body", "body": answer.content})

    async def close(self) -> None:
        await self._client.aclose()


@contextlib.asynccontextmanager
async def running(config: uvicorn.Config) -> AsyncIterator[str]:
    """A server on a free port of loopback, and its address."""
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.capture_signals = contextlib.nullcontext  # type: ignore[assignment]
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


@contextlib.asynccontextmanager
async def proxied(strip: bool = True, keep_host: bool = True, **settings: Any) -> AsyncIterator[tuple[FastAPI, Any]]:
    """The app behind a proxy at ``https://avatar.example`` (TLS ends there), and a browser in front of it."""
    settings = {"public_url": f"https://avatar.example{PREFIX}", **settings}
    chosen = Settings(**settings)
    async with serving(chosen) as app:
        config = http_config(app, chosen, None)
        config.lifespan = "off"
        async with running(config) as upstream:
            proxy = Proxy(upstream, strip, keep_host)
            plain = uvicorn.Config(proxy, loop="asyncio", ws="none", lifespan="off", log_config=None)
            async with running(plain) as address, httpx.AsyncClient(base_url=address, timeout=20) as browser:
                browser.headers["Host"] = "avatar.example"
                yield app, browser
            await proxy.close()


@pytest.mark.parametrize("strip", [True, False])
@pytest.mark.parametrize("keep_host", [True, False])
async def test_the_page_and_a_portrait_work_under_a_path(strip: bool, keep_host: bool) -> None:
    async with proxied(strip, keep_host) as (app, browser):
        assert (await browser.get(f"{PREFIX}/")).status_code == 200
        assert (await browser.get(f"{PREFIX}/js/main.js")).status_code == 200
        link = app.state.services.keys.new_link()
        own = {"Origin": "https://avatar.example", "Authorization": f"Bearer {link}"}
        made = await browser.put(f"{PREFIX}/v1/portraits", content=b"a picture", headers=own)
        assert made.status_code == 201, made.text
        assert f"path={PREFIX}/;" in made.headers["set-cookie"].lower()
        assert "secure" in made.headers["set-cookie"].lower()
        cookie = {"Cookie": made.headers["set-cookie"].partition(";")[0]}
        preview = made.json()["preview_url"]
        assert preview.startswith(f"{PREFIX}/v1/portraits/")
        assert (await browser.get(preview)).headers["content-type"] == "image/jpeg"
        assert len((await browser.get(f"{PREFIX}/v1/portraits", headers=cookie)).json()["portraits"]) == 1
        foreign = {**cookie, "Origin": "https://evil.example"}
        assert (await browser.put(f"{PREFIX}/v1/portraits", content=b"x", headers=foreign)).status_code == 403
        assert "strict-transport-security" not in made.headers  # the proxy's to say


async def test_the_path_itself_leads_to_the_page() -> None:
    async with proxied(strip=False) as (_, browser):
        moved = await browser.get(PREFIX)
        assert moved.status_code == 308 and moved.headers["location"] == f"{PREFIX}/"


async def test_the_public_origin_gets_no_cross_origin_rights_by_being_ours() -> None:
    settings = Settings(public_url="https://avatar.example", api_keys=["k"])
    async with serving(settings) as app, http(app, base_url="http://avatar.example") as client:
        answer = await client.get("/health", headers={"Origin": "https://avatar.example"})
        assert answer.status_code == 200 and "access-control-allow-origin" not in answer.headers


async def test_the_body_limits_hold_under_a_path() -> None:
    settings = Settings(public_url=f"https://avatar.example{PREFIX}", api_keys=["k"])
    async with serving(settings) as app, http(app) as client:
        sent = await client.put(f"{PREFIX}/v1/portraits", content=b"x" * 300_000, headers={"Authorization": "Bearer k"})
        assert sent.status_code == 201  # more than any other route takes
