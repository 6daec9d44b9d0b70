"""A transport without a network: it keeps what a call sends and passes on what a test says the viewer sent."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ground.clock import monotonic


class FakeTransport:
    """sounds, pictures: (tick, samples) and (tick, I420). messages: as the viewer would read them."""

    def __init__(self, *, connected: bool = True, opened: bool = True) -> None:
        self.connected, self.gone, self.open = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.gone_reason = "remote"
        self.sounds: list[tuple[int, NDArray[np.int16]]] = []
        self.pictures: list[tuple[int, NDArray[np.uint8]]] = []
        self.messages: list[dict[str, Any]] = []
        self.closed = 0
        self.silent_since: float | None = None
        self._voice: asyncio.Queue[NDArray[np.int16] | None] = asyncio.Queue()
        self._receive: Callable[[str], None] | None = None
        if connected:
            self.connected.set()
        if opened:
            self.open.set()

    @property
    def last_heard(self) -> float:
        return monotonic() if self.silent_since is None else self.silent_since

    # The call's side

    def put(self, sound: NDArray[np.int16], picture: NDArray[np.uint8] | None, tick: int) -> None:
        assert not self.closed, "a closed transport is sent to"
        self.sounds.append((tick, sound))
        if picture is not None:
            self.pictures.append((tick, picture))

    async def microphone(self) -> AsyncIterator[NDArray[np.int16]]:
        while (pcm := await self._voice.get()) is not None:
            yield pcm

    def listen(self, receive: Callable[[str], None], opened: Callable[[], None]) -> None:
        self._receive = receive
        if self.open.is_set():
            opened()

    def send(self, kind: str, t_ms: int, **fields: object) -> bool:
        self.messages.append(json.loads(json.dumps({"type": kind, "t_ms": t_ms, **fields})))
        return self.open.is_set()

    async def close(self) -> None:
        self.closed += 1
        self.gone.set()

    # The viewer's side

    def speak(self, pcm: NDArray[np.int16] | None) -> None:
        """None: the track ends."""
        self._voice.put_nowait(pcm)

    def say(self, kind: str, **fields: object) -> None:
        assert self._receive is not None, "the call does not listen yet"
        self._receive(json.dumps({"v": 1, "type": kind, **fields}))

    def lose(self, reason: str) -> None:
        self.gone_reason = reason
        self.gone.set()

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["type"] == kind]
