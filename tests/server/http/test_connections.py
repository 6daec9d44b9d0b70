"""Sockets that ask for nothing, or slowly, or do not read, against a real listener as ``knotcast serve`` sets it up."""

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable

import pytest
from uvicorn.server import ServerState

from server.access.certificate import self_signed_certificate, server_context
from server.http import connections
from server.http.run import http_config
from server.settings import Settings
from tests.caller import serving

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
LARGE = b"GET /samples/sentence.wav HTTP/1.1\r\nHost: 127.0.0.1\r\n"  # more than any buffer here
MIDDLING = (
    b"GET /samples/portrait_1.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\n"  # 38 KB, written at once, to wait in the server
)
PUT = b"PUT /v1/portraits HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer k\r\nContent-Length: 9\r\n\r\n"


@contextlib.asynccontextmanager
async def listening(
    context: ssl.SSLContext | None = None, state: ServerState | None = None, small: bool = False
) -> AsyncIterator[int]:
    """A port that the app listens on. small: the system holds 4 KiB at most of what is written."""
    settings = Settings(api_keys=["k"])
    async with serving(settings) as app:
        config = http_config(app, settings, context)
        config.load()
        state, loop = state or ServerState(), asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        if small:
            server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
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
    async def open(cls, port: int, context: ssl.SSLContext | None = None) -> "Socket":
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=context))

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
        busy = [await Socket.open(port) for _ in range(4)]
        for one in busy:
            one.writer.write(PUT)
        await asyncio.sleep(0.1)
        late = [await Socket.open(port) for _ in range(3)]
        assert await late[2].closed_within(0.2)
        status, body = await late[0].ask()
        assert status == 503 and json.loads(body)["error"]["code"] == "too_many_connections"
        assert await late[0].closed_within(0.2)
        assert (await busy[0].ask(b"a picture"))[0] == 201
        for one in (*busy, *late):
            one.close()


async def test_the_one_that_has_been_silent_longest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 2)
    async with listening() as port:
        first, second = await Socket.open(port), await Socket.open(port)
        assert (await first.ask())[0] == 200  # so it is the second that has been silent longer
        assert (await (third := await Socket.open(port)).ask())[0] == 200
        assert await second.closed_within(5)
        assert (await first.ask())[0] == 200
        for one in (first, second, third):
            one.close()


async def test_those_that_come_at_once_take_a_place_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 4)
    state = ServerState()
    async with listening(state=state) as port:
        silent = [await Socket.open(port) for _ in range(4)]
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]  # accepted in one turn of the loop
        assert [await one.closed_within(5) for one in silent] == [True] * 4
        assert len(state.connections) == 4
        for each in (*silent, *crowd):
            each.close()


def prompt(state: ServerState) -> list[connections.PromptProtocol]:
    return [one for one in state.connections if isinstance(one, connections.PromptProtocol)]


def unread(port: int, request: bytes) -> socket.socket:
    """A socket that asks and does not read."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    one.connect(("127.0.0.1", port))  # the listener's backlog answers
    one.sendall(request)
    return one


async def until(happens: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not happens():
            await asyncio.sleep(0.01)


async def test_answers_that_nobody_reads_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 3)
    monkeypatch.setattr(connections, "HEAD_S", 1000.0)
    state = ServerState()
    async with listening(state=state, small=True) as port:
        greedy = [unread(port, (LARGE + b"\r\n") * 40) for _ in range(3)]
        await until(lambda: sum(one.unread_since is not None for one in prompt(state)) == 3)
        assert (await (early := await Socket.open(port)).ask())[0] == 503  # they may yet read
        for one in prompt(state):
            if one.unread_since is not None:
                one.unread_since -= 1000
        assert (await (late := await Socket.open(port)).ask())[0] == 200
        for each in (*greedy, early, late):
            each.close()


async def test_who_reads_on_has_its_place_again(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ServerState()
    async with listening(state=state) as port:
        one = await Socket.open(port)
        one.writer.write(PUT)
        await until(lambda: [each.cycle is not None for each in prompt(state)] == [True])
        (connection,) = prompt(state)
        assert connection.idle_since is None
        monkeypatch.setattr(connections, "HEAD_S", 0.0)
        connection.pause_writing()
        assert connection.idle_since is not None
        connection.resume_writing()
        assert connection.idle_since is None
        one.close()


async def test_an_answer_that_was_the_last_and_is_not_read_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 3)
    state = ServerState()
    async with listening(state=state, small=True) as port:
        gone = [unread(port, MIDDLING + b"Connection: close\r\n\r\n") for _ in range(3)]
        await until(lambda: sum(one.transport.is_closing() for one in prompt(state)) == 3)
        assert (await (late := await Socket.open(port)).ask())[0] == 200
        for one in (*gone, late):
            one.close()


async def test_to_be_given_up_is_not_to_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    state = ServerState()
    async with listening(state=state, small=True) as port:
        one = unread(port, MIDDLING + b"\r\n")
        await until(lambda: [each.cycle is not None and each.silent for each in prompt(state)] == [True])
        monkeypatch.setattr(connections, "HEAD_S", 0.1)
        one.send(b"G")  # of a second head that never ends
        await until(lambda: not state.connections)
        one.close()


@pytest.fixture
def certificate() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's side of TLS, and that of a client that trusts it."""
    pem, key, _ = self_signed_certificate(Settings(tls="self-signed"))
    return server_context(pem, key), ssl.create_default_context(cadata=pem.decode())


Certificate = tuple[ssl.SSLContext, ssl.SSLContext]


async def test_hands_are_shaken_in_the_time_of_a_head(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.4)
    async with listening(certificate[0]) as port:
        mute, babble = await Socket.open(port), await Socket.open(port)
        babble.writer.write(b"\x16\x03\x01\x02\x00\x01")  # the beginning of a hello
        for one in (mute, babble):
            assert await one.closed_within(20)
            one.close()


async def test_to_shake_hands_is_not_yet_to_ask(certificate: Certificate) -> None:
    server, client = certificate
    state = ServerState()
    async with listening(server, state) as port:
        raw = socket.create_connection(("127.0.0.1", port))
        await until(lambda: len(state.connections) == 1)
        (connection,) = prompt(state)
        connection.silent_since = -1.0
        one = Socket(*await asyncio.open_connection(sock=raw, ssl=client, server_hostname="127.0.0.1"))
        await until(lambda: connection.scheme == "https")
        assert connection.silent_since == -1.0
        assert (await one.ask())[0] == 200
        one.close()


async def test_sockets_that_shake_no_hands_are_counted(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate
) -> None:
    monkeypatch.setattr(connections, "CONNECTIONS", 4)
    server, client = certificate
    async with listening(server) as port:
        silent = [await Socket.open(port) for _ in range(10)]
        nonsense = await Socket.open(port)
        nonsense.writer.write(HEAD + b"\r\n")
        assert await nonsense.closed_within(5)
        assert (await (last := await Socket.open(port, client)).ask())[0] == 200
        assert [await one.closed_within(5) for one in silent[:7]] == [True] * 7
        assert [await one.closed_within(0.1) for one in silent[7:]] == [False] * 3
        for one in (*silent, nonsense, last):
            one.close()


async def refused(port: int, request: bytes) -> tuple[str, dict[str, object]]:
    """Head and error of an answer after which the connection is closed."""
    one = await Socket.open(port)
    one.writer.write(request)
    answer = (await asyncio.wait_for(one.reader.read(), 5)).decode()
    one.writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return head.lower(), json.loads(body)["error"]


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (b"nonsense\r\n\r\n", 400, "bad_request"),
        (HEAD + b"Content-Length: x\r\n\r\n", 400, "bad_request"),
        (HEAD + b"X: " + b"x" * 100_000, 431, "head_too_large"),
        (b"GET /" + b"x" * 100_000, 431, "head_too_large"),
    ],
)
async def test_a_head_that_cannot_be_read_is_refused_like_anything_else(
    request_: bytes, status: int, reason: str
) -> None:
    async with listening() as port:
        head, error = await refused(port, request_)
        assert head.startswith(f"http/1.1 {status} ") and "content-type: application/json" in head
        assert "connection: close" in head and "cache-control: no-store" in head
        assert error["code"] == reason and set(error) == {"type", "code", "message", "param"}
