"""One viewer from offer to close: a peer, a voice, a playout and a lease, held together by one task that ends once.

Every 20 ms one block of voice goes to the engine and one block of sound leaves, with the picture of the same media time
when one is due. The engine may be lost and replaced in between; the browser never hears of it but by a message.
"""

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from aiortc.mediastreams import MediaStreamError
from numpy.typing import NDArray

from engine.pool.local import WorkerPool
from engine.pool.stream import StreamSpec
from engine.wire.messages import ModelInfo
from ground.clock import monotonic
from ground.errors import AvatarError, RequestError
from ground.fitting import fit_picture
from ground.units import BLOCK, PLAYOUT_RATE, playout_samples
from server.call.desk import MessageDesk
from server.call.engine_link import EngineLink
from server.call.playout import Playout, Release
from server.call.voice import Turn, VoiceLine
from server.metrics import Metrics
from server.rtc.ice import IcePolicy
from server.rtc.microphone import MicrophoneSource
from server.rtc.peer import Peer
from server.settings import Settings

logger = logging.getLogger(__name__)

ENDED = {
    "hang_up": "the call was hung up",
    "remote": "the browser closed the connection",
    "setup_timeout": "no connection came about in time",
    "heartbeat_lost": "nothing was heard from the browser any more",
    "ice_failed": "the connection was lost",
    "call_too_long": "the call has reached its longest time",
    "flood": "the browser sent more than a call may",
    "worker_lost": "the engine was lost and did not come back",
    "engine_silent": "the engine gives no pictures any more",
    "server_shutdown": "the server is going down",
    "internal_error": "something went wrong here",
}
LIMIT_MS = 1000  # delay above the target at which speech is cut too
HISTORY_S = 2.0  # voice kept beyond the longest delay: an engine that begins anew is given a second before its frame
CLOSE_S = 5.0
OPENING_S = 0.5  # a call refused in its first instant still tells why, once the data channel is there
FAREWELL_S = 0.05  # for the last message to leave before the connection does


class _Over(Exception):
    """Ends the task group of a call."""


@dataclass(frozen=True, slots=True)
class CallParts:
    """What a call is made with."""

    settings: Settings
    pool: WorkerPool
    policy: IcePolicy
    metrics: Metrics


class Call:
    """``accept`` once; ``end`` and ``close`` any number of times, from any state."""

    def __init__(self, parts: CallParts, spec: StreamSpec, on_state: Callable[[str, str | None], None]) -> None:
        """on_state: told of ``connecting``, ``live`` and ``ended`` with its reason."""
        self.parts, self._name, self._on_state = parts, spec.stream, on_state
        self.settings, self.metrics = parts.settings, parts.metrics
        info = parts.pool.info
        delay = playout_delay(info, parts.settings.delay_ms)
        self.playout = Playout(still_picture(spec, info), info.fps, delay, delay + round(playout_samples(LIMIT_MS)))
        self.line = VoiceLine(self.playout.limit / PLAYOUT_RATE + HISTORY_S)
        self.state = "created"
        self.reason: str | None = None
        self._why: str | None = None
        self._began = 0.0  # when the offer came
        self._info = info
        self._peer: Peer | None = None
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self.engine = EngineLink(
            parts.pool, spec, self.line, self.playout, parts.metrics, self._on_engine,
            stamped=parts.settings.stamp_frames,
        )  # fmt: skip
        self._desk = MessageDesk(self)

    # From outside

    async def accept(self, sdp: str) -> str:
        """Answer the offer and begin. Raises RequestError; then nothing is left open."""
        self._began = monotonic()
        size = self._info.width, self._info.height
        peer = Peer(self.parts.policy, size, self.settings.max_video_kbps * 1000)
        try:
            answer = await peer.accept(sdp)
        except BaseException:
            await peer.close()
            raise
        if self._over.is_set():
            await peer.close()
            raise RequestError("session_ended", "the session has ended", status=409)
        self._peer = peer
        self._enter("connecting")
        self._task = asyncio.create_task(self._run(peer), name=f"call-{self._name[:8]}")
        return answer

    async def add_candidates(self, candidates: list[tuple[str, str | None, int | None]]) -> None:
        """Raises RequestError 409 before the offer has been answered: there is nothing yet to add them to."""
        if self._peer is None:
            raise RequestError("no_offer", "candidates follow the answered offer", status=409)
        await self._peer.add_candidates(candidates)

    def say(self, turn: Turn) -> None:
        if self.state not in ("connecting", "live"):
            raise RequestError("not_live", "the call is not live", status=409)
        self.line.say(turn)

    def interrupt(self) -> list[str]:
        """Silence within 20 ms: what is said, what waits, and what is on its way to the viewer. The turns stopped."""
        ids = self.line.interrupt()
        self.engine.take_back(self.playout.fade_out())
        return ids

    def send(self, kind: str, **fields: object) -> None:
        if self._peer is not None:
            self._peer.channel.send(kind, round((monotonic() - self._began) * 1000), **fields)

    def end(self, reason: str) -> None:
        """The first reason counts."""
        self.reason = self.reason or reason
        self._over.set()

    async def close(self, reason: str) -> None:
        """End and wait until everything is let go, in bounded time."""
        self.end(reason)
        if self._task is None:
            if self.state != "ended":
                self._enter("ended")
                self.parts.metrics.call_ended(reason, was_live=False)
                await self._let_go()
            return
        _, pending = await asyncio.wait({self._task}, timeout=2 * CLOSE_S)
        if pending:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_S)

    # The task

    async def _run(self, peer: Peer) -> None:
        was_live = False
        try:
            await self._connect(peer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._media(peer))
                group.create_task(self.engine.run())
                group.create_task(self._microphone(peer))
                group.create_task(self._desk.watch(peer))
                await self._over.wait()
                raise _Over
        except* _Over:
            pass
        except* AvatarError as errors:
            self._fail(_first(errors))
        except* Exception as errors:
            logger.exception("a call failed stream=%s", self._name, exc_info=errors)
            self.end("internal_error")
        finally:
            was_live = self.state == "live"
            await self._finish(peer)
            self.parts.metrics.call_ended(self.reason or "internal_error", was_live)

    async def _connect(self, peer: Peer) -> None:
        """Wait for the peer; a handshake that never comes is ours to give up on."""
        waits = [asyncio.create_task(event.wait()) for event in (peer.connected, peer.gone, self._over)]
        try:
            deadline = self.parts.settings.setup_deadline_s
            await asyncio.wait(waits, timeout=deadline, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._over.is_set() or not peer.connected.is_set():
            self.end(peer.gone_reason if peer.gone.is_set() else "setup_timeout")
            raise _Over

    async def _media(self, peer: Peer) -> None:
        """The call's one clock."""
        first_frame_at: float | None = None
        while True:
            now = monotonic()
            for release in self.playout.due(now):
                self.engine.step()
                self._emit(peer, release)
                self.line.heard(self.playout.position)
                if release.fresh and first_frame_at is None:
                    first_frame_at = now
                    self.parts.metrics.first_frame(now - self._began)
            await asyncio.sleep(max(0.001, self.playout.next_due() - monotonic()))

    def _emit(self, peer: Peer, release: Release) -> None:
        peer.audio.put(release.audio, release.tick)
        if release.picture is not None:
            peer.video.put(release.picture, release.tick)

    async def _microphone(self, peer: Peer) -> None:
        source = MicrophoneSource(await peer.microphone)
        try:
            while True:
                self.line.microphone.push(await source.read())
        except MediaStreamError:
            return  # the browser's track ended; the call goes on without it

    def _on_engine(self, state: str) -> None:
        if state == "live" and self.state != "live":
            self.parts.metrics.call_live()
            self._enter(state)
        self.send("state", state=state)

    # The end

    def _fail(self, error: AvatarError) -> None:
        logger.warning("call ended by an error stream=%s code=%s", self._name, error.code)
        self.end(error.code)
        self._why = error.message

    async def _finish(self, peer: Peer) -> None:
        reason = self.reason = self.reason or "internal_error"
        self._why = self._why or ENDED.get(reason)
        self._enter("ended")
        if peer.connected.is_set() and not peer.gone.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPENING_S):
                    await peer.channel.open.wait()
            self.send("state", state="ended", reason=reason, message=self._why)
            await asyncio.sleep(FAREWELL_S)
        try:
            async with asyncio.timeout(CLOSE_S):
                for outcome in await asyncio.gather(peer.close(), self._let_go(), return_exceptions=True):
                    if isinstance(outcome, Exception):
                        logger.error("a call's parts did not close well", exc_info=outcome)
        except TimeoutError:
            logger.error("a call did not close in time stream=%s", self._name)

    async def _let_go(self) -> None:
        """The session is remembered for a while; its slot, its pictures and its sound are not."""
        self._peer = None
        self.line.clear()
        self.playout.clear()
        await self.engine.release()

    def _enter(self, state: str) -> None:
        if state == self.state:
            return
        self.state = state
        self._on_state(state, self.reason)


def playout_delay(info: ModelInfo, delay_ms: int) -> int:
    """Samples (48 kHz, whole blocks) between voice and picture: the drive a chunk waits for, its cost, and some air.

    A chunk of c frames needs the voice of c + k frames and the features' look-ahead before it can begin: with less
    delay than that there would never be a first one, whatever was asked for (``delay_ms``, 0: choose).
    """
    drive_ms = (info.chunk_frames + info.drive_ahead_frames) * 1000 / info.fps + info.lookahead_ms
    wanted_ms = delay_ms or drive_ms + 1.5 * info.warmup_chunk_ms + 80
    return math.ceil(playout_samples(max(drive_ms, wanted_ms)) / BLOCK) * BLOCK


def still_picture(spec: StreamSpec, info: ModelInfo) -> NDArray[np.uint8]:
    """The portrait itself as I420 uint8 [H*3/2, W]: seen from the first moment, until the engine's frames come."""
    rgb = spec.portrait
    if rgb.shape[:2] != (info.height, info.width):
        rgb = fit_picture(rgb, info.width, info.height)
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)


def _first(errors: BaseExceptionGroup[AvatarError]) -> AvatarError:
    first = errors.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
