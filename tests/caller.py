"""A viewer for tests: the app in this process, called over its HTTP and by a real aiortc peer over loopback UDP."""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import httpx
import numpy as np
import soundfile
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame
from fastapi import FastAPI
from numpy.typing import NDArray

from server.call.stamp import read_stamp
from server.http.app import create_app
from server.portraits.jobs import FrameReply
from server.rtc.microphone import replace_jitter_buffer
from server.settings import Settings
from tests.faces import LANDMARKS, drawn_face
from tests.fake_pool import BOX, FakePool

HOST = "http://127.0.0.1:8000"


class FakeFramer:
    """Takes any bytes for a portrait, for tests that are about something else."""

    async def frame(self, picture: bytes, max_pixels: int) -> FrameReply:
        rgb = drawn_face(256)
        return FrameReply(
            width=256, height=256, framed=rgb.tobytes(), framed_width=256, framed_height=256, source=b"jpeg",
            preview=b"jpeg", landmarks=LANDMARKS, confidence=0.9, crop=[[1, 0, 0], [0, 1, 0]],
        )  # fmt: skip

    async def warm(self) -> None:
        pass

    async def close(self) -> None:
        pass


@contextlib.asynccontextmanager
async def serving(settings: Settings | None = None, pool: Any = None, framer: Any = None) -> AsyncIterator[FastAPI]:
    """The app with its lifespan; ready when this yields."""
    settings = settings or Settings(stamp_frames=True)
    app = create_app(settings, pool or FakePool(), framer or FakeFramer())
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(120):
            while not app.state.services.ready:
                assert app.state.services.engine_error is None, app.state.services.engine_error
                await asyncio.sleep(0.005)
        yield app


def http(app: FastAPI, **kwargs: Any) -> httpx.AsyncClient:
    kwargs.setdefault("base_url", HOST)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, raise_app_exceptions=False), **kwargs)


def wav_bytes(pcm: NDArray[Any], rate: int = 48_000, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    out = io.BytesIO()
    soundfile.write(out, pcm, rate, format=kind, subtype=subtype)
    return out.getvalue()


def beeps(seconds: float, every: float = 1.0, length: float = 0.12, rate: int = 48_000) -> NDArray[np.float32]:
    """Silence with a beep of 1 kHz at the start of every ``every`` seconds but the first half second."""
    t = np.arange(int(seconds * rate)) / rate
    on = ((t - 0.5) % every < length) & (t >= 0.5)
    return (0.5 * np.sin(2 * np.pi * 1000 * t) * on).astype(np.float32)


class Microphone(MediaStreamTrack):
    """A microphone that hears ``pcm`` (int16, 48 kHz) once, then silence. clock: how fast its sound card runs."""

    kind = "audio"

    def __init__(self, pcm: NDArray[np.int16], clock: float = 1.0) -> None:
        super().__init__()
        self._pcm, self._clock = pcm, clock
        self._at, self._began = 0, 0.0
        self.loud_at: list[float] = []

    async def recv(self) -> AudioFrame:
        if self._at == 0:
            self._began = time.monotonic()
        due = self._began + self._at / 48_000 / self._clock
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        if self.readyState != "live":
            raise MediaStreamError
        block = self._pcm[self._at : self._at + 960]
        block = np.pad(block, (0, 960 - len(block)))
        if int(np.abs(block.astype(np.int32)).max()) > 3000:
            self.loud_at.append(time.monotonic())
        frame = AudioFrame.from_ndarray(block.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._at, Fraction(1, 48_000)
        self._at += 960
        return frame


@dataclass
class Caller:
    """One call. pictures: (time, stamp or None, mean luma of the box); sounds: (time, pts, peak) of 20 ms frames."""

    client: httpx.AsyncClient
    microphone: MediaStreamTrack | None = None
    pictures: list[tuple[float, int | None, float]] = field(default_factory=list)
    sounds: list[tuple[float, int, int]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    lumas: list[NDArray[np.uint8]] = field(default_factory=list)
    keep_pictures: bool = False
    session: dict[str, Any] = field(default_factory=dict)

    async def open(self, **body: Any) -> None:
        portrait = await self.client.put("/v1/portraits", content=b"a picture")
        assert portrait.status_code == 201, portrait.text
        answer = await self.client.post("/v1/sessions", json={"portrait_id": portrait.json()["id"], **body})
        assert answer.status_code == 201, answer.text
        self.session = answer.json()

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.session['id']}"

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.session['token']}"}

    async def offer(self) -> dict[str, str]:
        """A local offer with all three sections."""
        self.peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.connected, self.closed = asyncio.Event(), asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []
        self.peer.on("connectionstatechange", self._on_state)
        self.peer.on("track", self._on_track)
        self.channel = self.peer.createDataChannel("knotcast")
        self.channel.on("message", lambda text: self.messages.append(json.loads(text)))
        if self.microphone is None:
            self.peer.addTransceiver("audio", direction="recvonly")
        else:
            self.peer.addTrack(self.microphone)
        self.peer.addTransceiver("video", direction="recvonly")
        # aiortc's own audio buffer would hear everything 80 ms late, and the test measures sync.
        replace_jitter_buffer(self.peer.getTransceivers()[0].receiver)
        await self.peer.setLocalDescription(await self.peer.createOffer())
        return {"sdp": self.peer.localDescription.sdp, "type": self.peer.localDescription.type}

    async def connect(self) -> None:
        if not self.session:
            await self.open()
        answer = await self.client.post(f"{self.path}/offer", json=await self.offer(), headers=self.headers)
        assert answer.status_code == 200, answer.text
        await self.peer.setRemoteDescription(RTCSessionDescription(**answer.json()))
        async with asyncio.timeout(20):
            await self.connected.wait()
            while self.channel.readyState != "open":
                await asyncio.sleep(0.005)

    async def state(self) -> dict[str, Any]:
        answer = await self.client.get(self.path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def say(self, pcm: NDArray[Any]) -> dict[str, Any]:
        answer = await self.client.post(f"{self.path}/say", content=wav_bytes(pcm), headers=self.headers)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def send(self, kind: str, **fields: Any) -> None:
        self.channel.send(json.dumps({"v": 1, "type": kind, "seq": 1, "t_ms": 0, **fields}))

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]

    @property
    def distinct(self) -> list[int]:
        """Engine frames seen, each once, in order of arrival."""
        return list(dict.fromkeys(stamp for _, stamp, _ in self.pictures if stamp is not None))

    async def until(self, condition: Any, seconds: float = 10.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self.peer.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def _on_state(self) -> None:
        if self.peer.connectionState == "connected":
            self.connected.set()
        if self.peer.connectionState in ("closed", "failed"):
            self.closed.set()

    def _on_track(self, track: MediaStreamTrack) -> None:
        self.tasks.append(asyncio.create_task(self._watch(track) if track.kind == "video" else self._listen(track)))

    async def _watch(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                luma = frame.to_ndarray()[: frame.height]  # type: ignore[union-attr]
                self.pictures.append((time.monotonic(), read_stamp(luma), float(luma[BOX].mean())))
                if self.keep_pictures:
                    self.lumas.append(luma.copy())

    async def _listen(self, track: MediaStreamTrack) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                peak = int(np.abs(frame.to_ndarray().astype(np.int32)).max())  # type: ignore[union-attr]
                self.sounds.append((time.monotonic(), int(frame.pts or 0), peak))


@contextlib.asynccontextmanager
async def calling(app: FastAPI, **kwargs: Any) -> AsyncIterator[Caller]:
    """A connected call, hung up and closed at the end."""
    async with http(app) as client:
        caller = Caller(client, **kwargs)
        await caller.connect()
        try:
            yield caller
        finally:
            await client.delete(caller.path, headers=caller.headers)
            await caller.close()


def caller_connections(app: Any) -> list[Any]:
    """The server's ends of every call: aioice's connections."""
    peers = [session.peer for session in app.state.services.sessions._sessions.values() if session.peer is not None]
    return [t.receiver.transport.transport._connection for peer in peers for t in peer._pc.getTransceivers()]
