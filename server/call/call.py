"""One viewer's call from its first transport to its end: media, messages and limits in one task that ends once.

The media need no transport, so another one may be attached at any time. At present a call still ends when it loses its
transport (``Call._outlives``).
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from engine.pool.local import WorkerPool
from engine.pool.stream import StreamSpec
from ground.clock import monotonic
from ground.errors import AvatarError, RequestError
from server.call.avatar_stream import AvatarStream
from server.call.desk import MessageDesk
from server.call.heartbeat import Heartbeat
from server.call.playout import Release
from server.call.transport import Transport
from server.call.voice import Turn
from server.metrics import Metrics
from server.settings import Settings

logger = logging.getLogger(__name__)

ENDED = {
    "hang_up": "the call was hung up",
    "remote": "the browser closed the connection",
    "setup_timeout": "the connection was not established in time",
    "heartbeat_lost": "nothing was heard from the browser for too long",
    "ice_failed": "the connection was lost",
    "call_too_long": "the call has reached its longest time",
    "flood": "the browser sent more than a call may send",
    "worker_lost": "the engine was lost and did not come back",
    "engine_silent": "the engine makes no pictures any more",
    "server_shutdown": "the server is shutting down",
    "internal_error": "an internal error ended the call; the server's log has the details",
}
REPORT_S = 1.0
CHECK_S = 0.25  # how often the longest time is checked
CLOSE_S = 5.0
OPENING_S = 0.5  # wait for the message channel, so that a call refused at once can still send its reason
FAREWELL_S = 0.05  # between the last message and closing the connection


class _Over(Exception):
    """Ends the task group of a call."""


@dataclass(frozen=True, slots=True)
class CallParts:
    """Dependencies that all calls share."""

    settings: Settings
    pool: WorkerPool
    metrics: Metrics


class Call:
    """``attach`` begins the call. ``end`` and ``close`` may be called any number of times, in any state.

    state: created, connecting, live, ended. reason: why it ended, as a code; why: in words.
    """

    def __init__(self, parts: CallParts, spec: StreamSpec, on_state: Callable[[str, str | None], None]) -> None:
        """on_state: called with each new state (``connecting``, ``live``, ``ended``), and the reason of ``ended``."""
        self._settings, self._metrics = parts.settings, parts.metrics
        self._name, self._on_state = spec.stream, on_state
        self.state = "created"
        self.reason: str | None = None
        self.why: str | None = None
        self.stream = AvatarStream(
            parts.pool, spec, parts.metrics, self,
            delay_ms=parts.settings.delay_ms, stamped=parts.settings.stamp_frames,
        )  # fmt: skip
        self._desk = MessageDesk(self.stream, self.send)
        self._began = 0.0  # when the first transport was asked for
        self._first_frame_told = False
        self._attached: asyncio.Queue[Transport] = asyncio.Queue()
        self._transports: list[Transport] = []  # attached and not closed yet
        self._transport: Transport | None = None  # the one that carries the call
        self._connected = asyncio.Event()  # one has carried it
        self._task: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    # From outside

    def attach(self, transport: Transport, asked_at: float) -> None:
        """Switch the call to this transport as soon as it is connected, and close the previous one.

        The first transport begins the call. The call closes every attached transport. asked_at: when the viewer asked
        for it, in seconds of the monotonic clock. Raises RequestError 409 when the call has ended.
        """
        if self._over.is_set():
            raise RequestError("session_ended", "the session has ended", status=409)
        self._transports.append(transport)
        self._attached.put_nowait(transport)
        if self._task is None:
            self._began = asked_at
            self._enter("connecting")
            self._task = asyncio.create_task(self._run(), name=f"call-{self._name[:8]}")

    def say(self, turn: Turn) -> None:
        """Queue a turn. Raises RequestError 409 when the call is neither connecting nor live, CapacityError when too
        much speech is queued."""
        if self.state not in ("connecting", "live"):
            raise RequestError("not_live", "the call is not live", status=409)
        self.stream.say(turn)

    def send(self, kind: str, **fields: object) -> None:
        """Send the viewer one message, if a transport carries the call."""
        if self._transport is not None:
            self._transport.send(kind, round((monotonic() - self._began) * 1000), **fields)

    def end(self, reason: str) -> None:
        """End the call, without waiting for it. The first reason counts."""
        self.reason = self.reason or reason
        self._over.set()

    async def close(self, reason: str) -> None:
        """End the call and wait until everything is released, in bounded time."""
        self.end(reason)
        if self._task is None:
            if self.state != "ended":
                self._enter("ended")
                self._metrics.call_ended(reason, was_live=False)
                await self.stream.release()
            return
        _, pending = await asyncio.wait({self._task}, timeout=2 * CLOSE_S)
        if pending:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CLOSE_S)

    # From the stream

    def on_release(self, release: Release) -> None:
        if self._transport is not None:
            self._transport.put(release.audio, release.picture, release.tick)
        if release.fresh and not self._first_frame_told:
            self._first_frame_told = True
            self._metrics.first_frame(monotonic() - self._began)

    def on_turn(self, turn: Turn) -> None:
        self._desk.tell_turn(self.state, turn)

    def on_engine(self, state: str) -> None:
        if state == "live" and self.state != "live":
            self._metrics.call_live()
            self._enter(state)
        self._desk.tell_state(state)

    # The task

    async def _run(self) -> None:
        was_live = False
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._admit(group))
                group.create_task(self._play())
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
            await self._finish()
            self._metrics.call_ended(self.reason or "internal_error", was_live)

    async def _play(self) -> None:
        """Play once a transport has connected; no engine is leased before."""
        await self._connected.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.stream.run())
            group.create_task(self._report())

    async def _report(self) -> None:
        """End the call at its longest time, and report the figures once a second."""
        live_since = reported_at = monotonic()
        report_at = live_since + REPORT_S
        before = (0, 0, 0, 0)
        while True:
            await asyncio.sleep(CHECK_S)
            now = monotonic()
            if now - live_since > self._settings.longest_call_s:
                self.end("call_too_long")
            if now < report_at:
                continue
            figures = self.stream.figures()
            counts = (figures.shown, figures.underruns, figures.skipped, figures.stalls)
            added = tuple(count - earlier for count, earlier in zip(counts, before, strict=True))
            self._metrics.playout(*added)
            self._desk.tell_figures(self.state, figures, added[0] / (now - reported_at))
            report_at, reported_at, before = report_at + REPORT_S, now, counts

    # Transports

    async def _admit(self, group: asyncio.TaskGroup) -> None:
        while True:
            group.create_task(self._carry(await self._attached.get()))

    async def _carry(self, transport: Transport) -> None:
        """Carry the call by one transport until it is lost."""
        if not await self._connects(transport):
            await self._lose(transport.gone_reason if transport.gone.is_set() else "setup_timeout", transport)
            return
        before, self._transport = self._transport, transport
        self._connected.set()
        transport.listen(self._desk.receive, self._greet)
        async with asyncio.TaskGroup() as group:
            if before is not None:
                group.create_task(self._discard(before))
            hearing = group.create_task(self._hear(transport))
            silent = await self._falls_silent(transport)
            hearing.cancel()
        await self._lose("heartbeat_lost" if silent else transport.gone_reason, transport)

    async def _lose(self, reason: str, transport: Transport) -> None:
        """React to a transport that never connected, fell silent or is gone."""
        if self._transport not in (None, transport):  # another transport carries the call
            await self._discard(transport)
        elif self._outlives(reason):
            self._transport = None
            await self._discard(transport)
        else:
            self.end(reason)

    def _outlives(self, reason: str) -> bool:
        """Whether the call waits for another transport after losing this one. At present it never does: the call
        ends."""
        return False

    async def _connects(self, transport: Transport) -> bool:
        """Wait until the transport is connected, at most for the configured time."""
        waits = [asyncio.create_task(event.wait()) for event in (transport.connected, transport.gone)]
        try:
            await asyncio.wait(waits, timeout=self._settings.setup_deadline_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        return transport.connected.is_set()

    async def _falls_silent(self, transport: Transport) -> bool:
        """Wait until the transport is gone (False) or was silent for too long (True)."""
        heartbeat = Heartbeat(self._settings.heartbeat_s, monotonic())
        while not transport.gone.is_set():
            await asyncio.sleep(heartbeat.nap)
            if heartbeat.silent(monotonic(), transport.last_heard):
                return not transport.gone.is_set()
        return False

    async def _hear(self, transport: Transport) -> None:
        async for pcm in transport.microphone():
            self.stream.hear(pcm)

    def _greet(self) -> None:
        if self.state != "ended":  # ``_finish`` sends that state, with its reason
            self._desk.tell_state(self.state)

    async def _discard(self, transport: Transport) -> None:
        if transport in self._transports:
            self._transports.remove(transport)
            await transport.close()

    # The end

    def _fail(self, error: AvatarError) -> None:
        logger.warning("call ended by an error stream=%s code=%s", self._name, error.code)
        self.end(error.code)
        self.why = error.message

    async def _finish(self) -> None:
        reason = self.reason = self.reason or "internal_error"
        self.why = self.why or ENDED.get(reason)
        self._enter("ended")
        transport = self._transport
        if transport is not None and not transport.gone.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OPENING_S):
                    await transport.open.wait()
            self._desk.tell_state("ended", reason=reason, message=self.why)
            await asyncio.sleep(FAREWELL_S)
        self._transport = None
        closing = [transport.close() for transport in self._transports]
        self._transports.clear()
        try:
            async with asyncio.timeout(CLOSE_S):
                for outcome in await asyncio.gather(*closing, self.stream.release(), return_exceptions=True):
                    if isinstance(outcome, Exception):
                        logger.error("a call's transport or stream failed to close", exc_info=outcome)
        except TimeoutError:
            logger.error("a call did not close in time stream=%s", self._name)

    def _enter(self, state: str) -> None:
        if state == self.state:
            return
        self.state = state
        self._on_state(state, self.reason)


def _first(errors: BaseExceptionGroup[AvatarError]) -> AvatarError:
    first = errors.exceptions[0]
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
