"""Message protocol of a call: reads the viewer's messages, answers them, and reports turns and figures.

Nothing raises because of a viewer's message: an unusable one is answered with an ``error`` message.
"""

import json
from typing import Protocol

from engine.media.pose import Pose, parse_pose
from ground.errors import AvatarError, RequestError
from ground.units import milliseconds
from server.call.avatar_stream import StreamFigures
from server.call.voice import Turn


class SendMessage(Protocol):
    def __call__(self, kind: str, **fields: object) -> None: ...


class Poses(Protocol):
    def push_pose(self, pose: Pose) -> None: ...


class MessageDesk:
    """Reader and writer of messages ``{v: 1, type, seq, t_ms, ...}``. In: ping, pose. Out: pong, stats, state,
    error."""

    def __init__(self, poses: Poses, send: SendMessage) -> None:
        """poses: receiver of poses. send: sends one message; it adds v, seq and t_ms."""
        self._poses, self._send = poses, send

    def receive(self, text: str) -> None:
        """Handle one message of the viewer."""
        seq: object = None
        try:
            message = json.loads(text)
            if not isinstance(message, dict) or message.get("v", 1) != 1:
                raise RequestError("invalid_message", "a message is a JSON object with v 1 and a type")
            seq = message.get("seq")
            self._handle(message)
        except (ValueError, RecursionError):
            self._refuse(RequestError("invalid_message", "the message is not JSON, or too large"), None)
        except AvatarError as error:
            self._refuse(error, seq)

    def tell_state(self, state: str, **fields: object) -> None:
        self._send("state", state=state, **fields)

    def tell_turn(self, state: str, turn: Turn) -> None:
        """Report a turn's state. state: the call's. ``start_ms`` is media time."""
        start = round(milliseconds(turn.start)) if turn.start >= 0 else None
        self._send("state", state=state, turn={"id": turn.id, "state": turn.state, "start_ms": start})

    def tell_figures(self, state: str, figures: StreamFigures, distinct_fps: float) -> None:
        """Report ``stats``. distinct_fps: generated pictures a second since the last report."""
        delay_ms = round(milliseconds(figures.delay))
        self._send(
            "stats",
            state=state,
            distinct_fps=round(distinct_fps, 1),
            generated_frames=figures.shown,
            chunk_ms=round(figures.chunk_ms, 1),
            delay_ms=delay_ms,
            latency_ms=delay_ms,
            underruns=figures.underruns,
            skipped=figures.skipped,
            media_ms=round(milliseconds(figures.position)),
        )

    def _handle(self, message: dict[str, object]) -> None:
        match message.get("type"):
            case "ping":
                self._send("pong", ping_seq=_plain(message.get("seq")), ping_t_ms=_plain(message.get("t_ms")))
            case "pose":
                self._poses.push_pose(parse_pose(message))
            case _:
                raise RequestError("unknown_message", "the message type is unknown; send ping or pose", param="type")

    def _refuse(self, error: AvatarError, seq: object) -> None:
        self._send("error", code=error.code, message=error.message, param=error.param, to_seq=_plain(seq))


def _plain(value: object) -> object:
    """The value if it is a number, to echo it; else None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return value
    return None
