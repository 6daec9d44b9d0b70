"""Transport interface: one connection to a call's viewer, implemented by WebRTC and other protocols."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Transport(Protocol):
    """One connection to a viewer, usable from ``connected`` until ``gone``. No method raises for what a viewer did."""

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
        """Send what belongs to one tick of 20 ms.

        sound: int16 [BLOCK], 48 kHz mono. picture: I420, uint8 [H*3/2, W]; None where the last one stands. tick: counts
        up by one, from any number.
        """
        ...

    def microphone(self) -> AsyncIterator[NDArray[np.int16]]:
        """The viewer's voice as 48 kHz mono int16 of any length, until its track ends; nothing where it has none."""
        ...

    def listen(self, receive: Callable[[str], None], opened: Callable[[], None]) -> None:
        """Pass messages to ``receive`` from now on, early ones first. ``opened`` is called once messages can be sent,
        or at once."""
        ...

    def send(self, kind: str, t_ms: int, **fields: object) -> bool:
        """Send one message. t_ms: since the call began. False where it cannot be sent."""
        ...

    async def close(self) -> None:
        """Close the connection and set ``gone``. Bounded; twice is fine."""
        ...
