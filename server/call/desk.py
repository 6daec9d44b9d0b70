"""The desk of a call: reads what comes over the data channel, answers, reports once a second, and notices silence.

Nothing here raises because of what a peer sent: what cannot be used is answered with an ``error`` message.
"""

import asyncio
import json
from typing import Protocol

from engine.media.pose import parse_pose
from ground.clock import monotonic
from ground.errors import AvatarError, RequestError
from ground.units import milliseconds
from server.call.engine_link import EngineLink
from server.call.playout import Playout
from server.call.voice import VoiceLine
from server.metrics import Metrics
from server.rtc.peer import Peer
from server.settings import Settings

REPORT_S = 1.0


class DeskCall(Protocol):
    """What the desk needs of its call."""

    @property
    def settings(self) -> Settings: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def state(self) -> str: ...
    @property
    def engine(self) -> EngineLink: ...
    @property
    def line(self) -> VoiceLine: ...
    @property
    def playout(self) -> Playout: ...
    def send(self, kind: str, **fields: object) -> None: ...
    def end(self, reason: str) -> None: ...


class MessageDesk:
    """``{v: 1, type, seq, t_ms, ...}`` both ways. In: ping, pose. Out: pong, stats, state, error."""

    def __init__(self, call: DeskCall) -> None:
        self._call = call
        self._told: dict[str, str] = {}
        self._before = (0, 0, 0, 0)
        self._reported_at = 0.0

    async def watch(self, peer: Peer) -> None:
        """Runs beside the call: the heartbeat, the longest time, the report."""
        settings = self._call.settings
        peer.channel.deliver_to(self.receive)
        peer.channel.on_open(self._greet)
        live_since = self._reported_at = monotonic()
        report_at = live_since + REPORT_S
        nap, before = min(REPORT_S, settings.heartbeat_s) / 4, live_since
        while True:
            await asyncio.sleep(nap)
            now = monotonic()
            if now - before > 4 * nap + 0.5:  # we slept (a lid was closed, a debugger stood): nobody else went silent
                peer.last_heard = now
            before = now
            if peer.gone.is_set():
                self._call.end(peer.gone_reason)
            elif now - peer.last_heard > settings.heartbeat_s:
                self._call.end("heartbeat_lost")
            elif now - live_since > settings.longest_call_s:
                self._call.end("call_too_long")
            self._tell_turns()
            if now >= report_at:
                report_at += REPORT_S
                self._report(now)

    def _greet(self) -> None:
        if self._call.state != "ended":  # that the call tells itself, with its reason
            self._call.send("state", state=self._call.state)

    def receive(self, text: str) -> None:
        """One message of the peer."""
        seq: object = None
        try:
            message = json.loads(text)
            if not isinstance(message, dict) or message.get("v", 1) != 1:
                raise RequestError("invalid_message", "a message is an object with v 1 and a type")
            seq = message.get("seq")
            self._handle(message)
        except (ValueError, RecursionError):
            self._refuse(RequestError("invalid_message", "the message is not JSON, or too large"), None)
        except AvatarError as error:
            self._refuse(error, seq)

    def _handle(self, message: dict[str, object]) -> None:
        match message.get("type"):
            case "ping":
                self._call.send("pong", ping_seq=_plain(message.get("seq")), ping_t_ms=_plain(message.get("t_ms")))
            case "pose":
                self._call.engine.push_pose(parse_pose(message).controls)
            case _:
                raise RequestError("unknown_message", "types are ping and pose", param="type")

    def _refuse(self, error: AvatarError, seq: object) -> None:
        self._call.send("error", code=error.code, message=error.message, param=error.param, to_seq=_plain(seq))

    def _report(self, now: float) -> None:
        call, playout = self._call, self._call.playout
        counts = (playout.shown, playout.underruns, playout.skipped, playout.stalls)
        added = tuple(count - before for count, before in zip(counts, self._before, strict=True))
        span, self._reported_at, self._before = now - self._reported_at, now, counts
        call.metrics.playout(*added)
        delay_ms = round(milliseconds(playout.lag))
        call.send(
            "stats",
            state=call.state,
            distinct_fps=round(added[0] / span, 1),
            generated_frames=playout.shown,
            chunk_ms=round(call.engine.chunk_ms, 1),
            delay_ms=delay_ms,
            latency_ms=delay_ms,
            underruns=playout.underruns,
            skipped=playout.skipped,
            media_ms=round(milliseconds(playout.position)),
        )

    def _tell_turns(self) -> None:
        """Which turns began or ended since last time, as the viewer hears them; times are media time."""
        turns = self._call.line.turns
        for turn in turns:
            if self._told.get(turn.id, "queued") != turn.state:
                start = round(milliseconds(turn.start)) if turn.start >= 0 else None
                self._call.send(
                    "state", state=self._call.state, turn={"id": turn.id, "state": turn.state, "start_ms": start}
                )
        self._told = {turn.id: turn.state for turn in turns}


def _plain(value: object) -> object:
    """A number to echo, nothing else: what a peer sent is not sent back at length."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return value
    return None
