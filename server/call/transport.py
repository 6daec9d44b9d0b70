"""Transport interface: one connection to a call's viewer, implemented by WebRTC and other protocols."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Transport(Protocol):
    """One connection to a viewer, usable from ``connected`` until ``gone``. No method raises because of a viewer's
    actions."""

    @property
    def connected(self) -> asyncio.Event:
        """Set once pictures and sound can be sent."""
        ...

    @property
    def gone(self) -> asyncio.Event:
        """Set once the connection is lost or closed; ``gone_reason`` says why."""
        ...

    @property
    def gone_reason(self) -> str:
        """A reason from ``server.metrics.END_REASONS``, such as ``remote`` or ``ice_failed``."""
        ...

    @property
    def last_heard(self) -> float:
        """When anything last came from the viewer, in seconds of ``ground.clock.monotonic``."""
        ...

    @property
    def open(self) -> asyncio.Event:
        """Set once messages can be sent."""
        ...

    def put(self, sound: NDArray[np.int16], picture: NDArray[np.uint8] | None, tick: int) -> None:
        """Send the sound and the picture of one tick of 20 ms.

        sound: int16 [BLOCK], 48 kHz mono. picture: I420, uint8 [H*3/2, W]; None if the last one stays. tick: counts up
        by one, from any number.
        """
        ...

    def microphone(self) -> AsyncIterator[NDArray[np.int16]]:
        """The viewer's voice as int16 [N], 48 kHz mono, any N, until its track ends. Yields nothing without a track."""
        ...

    def listen(self, receive: Callable[[str], None], opened: Callable[[], None]) -> None:
        """Pass messages to ``receive`` from now on, starting with those that already arrived. Call ``opened`` once
        messages can be sent, at once if they already can."""
        ...

    def send(self, kind: str, t_ms: int, **fields: object) -> bool:
        """Send one message. t_ms: time since the call began. Returns False if it cannot be sent."""
        ...

    async def close(self) -> None:
        """Close the connection and set ``gone``, in bounded time. May be called again."""
        ...
