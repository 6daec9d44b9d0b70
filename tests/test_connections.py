"""Sockets that ask for nothing, or slowly, against a real listener as ``knotcast serve`` sets it up."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from uvicorn.server import ServerState

from server import connections
from server.run import http_config
from server.settings import Settings
from tests.caller import serving

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[int]:
    """A port that the app listens on."""
    settings = Settings(api_keys=["k"])
    async with serving(settings) as app:
        config = http_config(app, settings, {})
        config.load()
        state, loop = ServerState(), asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.sleep(0.05)


class Socket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Socket":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes = HEAD + b"\r\n") -> tuple[int, str]:
        """Status and body of the answer."""
        self.writer.write(request)
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), (await self.reader.readexactly(length)).decode()

    async def closed_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self.reader.read() == b""
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True

    async def drip(self, text: bytes, pause: float = 0.05) -> None:
        with contextlib.suppress(ConnectionError):
            for byte in text:
                self.writer.write(bytes([byte]))
                await self.writer.drain()
                await asyncio.sleep(pause)

    def close(self) -> None:
        self.writer.transport.abort()


async def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.4)
    async with listening() as port:
        mute, dripping, later, lazy = [await Socket.open(port) for _ in range(4)]
        assert (await later.ask())[0] == 200  # one good request buys no second, slow one
        put = b"PUT /v1/portraits HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 900\r\n\r\n"
        assert (await lazy.ask(put))[0] == 401  # nor does an answer buy a body that nobody reads
        drips = [asyncio.create_task(one.drip(HEAD)) for one in (dripping, later)]
        drips.append(asyncio.create_task(lazy.drip(b"x" * 40)))
        for one in (mute, dripping, later, lazy):
            assert await one.closed_within(1.2)
        for drip in drips:
            drip.cancel()
        await asyncio.gather(*drips, return_exceptions=True)
        for one in (mute, dripping, later, lazy):
            one.close()


async def test_a_request_in_good_time_is_answered_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.4)
    async with listening() as port:
        one = await Socket.open(port)
        put = b"PUT /v1/portraits HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer k\r\nContent-Length: 16\r\n\r\n"
        asked = asyncio.create_task(one.ask(put))
        await asyncio.sleep(0.05)
        await one.drip(b"sixteen bytes so")
        status, body = await asked
        assert status == 201, body
        assert (await one.ask())[0] == 200
        one.close()


async def test_sockets_that_ask_for_nothing_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 8)
    async with listening() as port:
        silent = [await Socket.open(port) for _ in range(20)]
        assert (await (last := await Socket.open(port)).ask())[0] == 200
        assert [await one.closed_within(0.2) for one in silent[:12]] == [True] * 12
        for one in (*silent, last):
            one.close()


async def test_when_all_are_busy_the_next_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 4)
    monkeypatch.setattr(connections, "SPARE", 2)
    async with listening() as port:
        put = b"PUT /v1/portraits HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer k\r\nContent-Length: 9\r\n\r\n"
        busy = [await Socket.open(port) for _ in range(4)]
        for one in busy:
            one.writer.write(put)
        await asyncio.sleep(0.1)
        late = [await Socket.open(port) for _ in range(3)]
        assert await late[2].closed_within(0.2)
        status, body = await late[0].ask()
        assert status == 503 and json.loads(body)["error"]["code"] == "too_many_connections"
        assert await late[0].closed_within(0.2)
        assert (await busy[0].ask(b"a picture"))[0] == 201
        for one in (*busy, *late):
            one.close()
