"""The two outgoing media tracks, which aiortc's senders read. PTS come from the call's ticks; the tracks have no clock.

aiortc reads a track until ``recv`` raises and encodes in the loop's default executor. Its RTCP sender reports pair the
RTP timestamp with the time of sending. So sound and picture that belong together must be put here at the same moment.
"""

import asyncio
from collections import deque
from fractions import Fraction

import numpy as np
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

from ground.units import BLOCK, PLAYOUT_RATE

TIME_BASE = Fraction(1, PLAYOUT_RATE)
MAX_WAITING = 10  # 200 ms of sound; a sender further behind loses the oldest


class AudioTrack(MediaStreamTrack):
    """Mono s16 frames of 20 ms, in order, none left out unless the sender stalls."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._blocks: deque[AudioFrame] = deque(maxlen=MAX_WAITING)
        self._news = asyncio.Event()

    def put(self, pcm: NDArray[np.int16], tick: int) -> None:
        """pcm: int16 [BLOCK]. tick: number of its 20 ms on the call's clock."""
        assert pcm.shape == (BLOCK,), "an audio frame holds exactly 20 ms"
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(pcm).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = PLAYOUT_RATE, TIME_BASE, tick * BLOCK
        self._blocks.append(frame)
        self._news.set()

    async def recv(self) -> AudioFrame:
        while not self._blocks:
            if self.readyState != "live":
                raise MediaStreamError
            self._news.clear()
            await self._news.wait()
        return self._blocks.popleft()

    def stop(self) -> None:
        super().stop()
        self._news.set()


class VideoTrack(MediaStreamTrack):
    """Only the newest picture is kept: a late sender skips pictures and never sends a burst."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._newest: tuple[NDArray[np.uint8], int] | None = None
        self._news = asyncio.Event()

    def put(self, picture: NDArray[np.uint8], tick: int) -> None:
        """picture: I420, uint8 [H*3/2, W]. tick: number of its 20 ms on the call's clock."""
        self._newest = (picture, tick)
        self._news.set()

    async def recv(self) -> VideoFrame:
        while self._newest is None:
            if self.readyState != "live":
                raise MediaStreamError
            self._news.clear()
            await self._news.wait()
        (picture, tick), self._newest = self._newest, None
        # A new object each time: aiortc marks a frame object as a keyframe and never unmarks it.
        frame = VideoFrame.from_ndarray(picture, format="yuv420p")
        frame.color_range = ColorRange.MPEG
        frame.time_base, frame.pts = TIME_BASE, tick * BLOCK
        return frame

    def stop(self) -> None:
        super().stop()
        self._news.set()
