"""A chunk's pictures on their way to host memory: made at once, or queued beside the next chunk's passes.

Knows no call and no codec: what is decoded, and from which state on, is the caller's.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from engine.worker.i420 import on_device

Decode = Callable[[], tuple[Tensor, Any]]  # to RGB uint8 [N, H, W, 3] and the decoder's next state


class Decoding(Protocol):
    """One chunk's pictures. Either answer raises what went wrong on the device meanwhile."""

    def done(self) -> bool:
        """Whether they are there. Asking does not wait."""
        ...

    def pictures(self) -> np.ndarray:
        """I420, uint8 [N, H*3/2, W]; waits for them."""
        ...


class Decoded:
    """They are there."""

    def __init__(self, pictures: np.ndarray) -> None:
        self._pictures = pictures

    def done(self) -> bool:
        return True

    def pictures(self) -> np.ndarray:
        return self._pictures


class SideStream:
    """Decodes on a CUDA stream of its own, one chunk after the other, each after what was queued before it."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self._queued: list[_Queued] = []

    def decode(self, work: Decode) -> tuple[Decoding, Any]:
        """The pictures, on their way, and the next state, for this stream's later work only. What ``work`` holds stays
        in memory until it has run, also if nobody wants its pictures any more."""
        self._queued = [queued for queued in self._queued if not queued.done()]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            frames, state = work()
            pictures = on_device(frames)
            host = torch.empty(pictures.shape, dtype=torch.uint8, pin_memory=True)
            host.copy_(pictures, non_blocking=True)
            queued = _Queued(host, self._stream.record_event(), work)
        self._queued.append(queued)
        return queued, state


class _Queued:
    def __init__(self, host: Tensor, event: torch.cuda.Event, work: Decode) -> None:
        self._host, self._event = host, event
        self._work: Decode | None = work

    def done(self) -> bool:
        if self._work is not None and self._event.query():
            self._work = None
        return self._work is None

    def pictures(self) -> np.ndarray:
        self._event.synchronize()
        self._work = None
        return self._host.numpy()
