"""Sessions: one a call, with a token, an expiry, and a limit on their number; their calls are connected by WebRTC."""

import asyncio
import datetime
import secrets
from dataclasses import dataclass, field

from engine.pool.stream import StreamSpec
from engine.wire.messages import RolloutRequest
from ground.clock import monotonic
from ground.config import RUNNING_AHEAD
from ground.errors import CapacityError, RequestError
from server.access.keys import digest, new_token
from server.call.call import Call, CallParts
from server.portraits.store import PortraitStore, StoredPortrait
from server.rtc.ice import IcePolicy
from server.rtc.peer import Peer

REMEMBER_S = 600.0  # an ended session still tells the reason, also to a computer that slept
SWEEP_S = 0.5
MAX_REMEMBERED = 1000  # beyond it, the sessions that ended first are forgotten early


@dataclass(slots=True)
class Session:
    """state: created, connecting, live, ended. deadline: seconds of the monotonic clock at which it expires or is
    forgotten. peer: the connection of its answered offer, None before and after.
    """

    id: str
    owner: str
    token: bytes
    portrait_id: str
    model: str
    rollout: RolloutRequest
    seed: int
    call: Call
    expires_at: datetime.datetime
    deadline: float
    state: str = "created"
    reason: str | None = None
    peer: Peer | None = None
    answering: bool = field(default=False)  # an offer is being answered: a second one is refused at once


class Sessions:
    """``create``, then everything else by id and token."""

    def __init__(self, parts: CallParts, policy: IcePolicy, portraits: PortraitStore) -> None:
        self._parts, self._policy, self._portraits = parts, policy, portraits
        self._sessions: dict[str, Session] = {}
        self._by_token: dict[bytes, Session] = {}  # by the token's digest, whose prefix nobody can choose

    async def create(
        self, owner: str, portrait: StoredPortrait, model: str | None, rollout: RolloutRequest, seed: int | None
    ) -> tuple[Session, str]:
        """A session and its token, which is shown only now."""
        framed = await self._portraits.framed(portrait)
        self._check(model, rollout)  # after the wait, so that the number of sessions still holds
        ttl = self._parts.settings.session_ttl_s
        token, session_id = new_token(), secrets.token_hex(16)
        seed = secrets.randbits(31) if seed is None else seed
        spec = StreamSpec(
            stream=session_id,
            portrait=framed,
            seed=seed,
            rollout=rollout,
        )

        def on_state(state: str, reason: str | None) -> None:
            session.state, session.reason, session.deadline = state, reason, float("inf")
            if state == "ended":
                session.peer, session.deadline = None, monotonic() + REMEMBER_S

        session = Session(
            id=session_id,
            owner=owner,
            token=digest(token),
            portrait_id=portrait.id,
            model=self._parts.pool.info.name,
            rollout=rollout,
            seed=seed,
            call=Call(self._parts, spec, on_state),
            expires_at=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ttl),
            deadline=monotonic() + ttl,
        )
        self._sessions[session.id] = self._by_token[session.token] = session
        self._forget_surplus()
        return session, token

    def get(self, session_id: str, token: str | None) -> Session:
        """Raises RequestError: 401 without a known token, 403 with another session's token, 404 if there is no such
        session."""
        if token is None:
            raise RequestError("missing_token", "send Authorization: Bearer with the session's token", status=401)
        session = self._sessions.get(session_id)
        if session is None:
            raise RequestError("session_not_found", "there is no such session", status=404, param="id")
        holder = self._by_token.get(digest(token))
        if holder is None:
            raise RequestError("invalid_token", "this is not the session's token", status=401)
        if holder is not session:
            raise RequestError("wrong_token", "this token belongs to another session", status=403)
        return session

    async def offer(self, session: Session, sdp: str) -> str:
        """Answer a session's one offer. Raises RequestError 409 for a second, CapacityError when no slot is free or no
        engine is there.
        """
        if session.state == "ended":
            raise RequestError("session_ended", "the session has ended", status=409)
        if session.state != "created" or session.answering:
            raise RequestError(
                "offer_exists", "the session has already had its offer: create a new session", status=409
            )
        stats = self._parts.pool.stats()
        if stats.leased >= stats.slots:
            raise CapacityError("no_slot", "every slot is taken: try again later")
        if stats.free < 1:
            raise CapacityError("no_worker", "the engine is starting again: try again in a moment")
        session.answering = True
        try:
            return await self._answer(session, sdp)
        finally:
            session.answering = False

    async def _answer(self, session: Session, sdp: str) -> str:
        """Connect the session's call by WebRTC. Raises RequestError; then nothing is left open."""
        asked_at, info = monotonic(), self._parts.pool.info
        peer = Peer(self._policy, (info.width, info.height), self._parts.settings.max_video_kbps * 1000)
        try:
            answer = await peer.accept(sdp)
            session.call.attach(peer, asked_at)
        except BaseException:
            await peer.close()
            raise
        session.peer = peer
        return answer

    async def add_candidates(self, session: Session, candidates: list[tuple[str, str | None, int | None]]) -> None:
        """Trickled candidates as (text, sdpMid, sdpMLineIndex). Raises RequestError: 409 before the offer has been
        answered or after the session has ended, 422 for too many or for one that cannot be read.
        """
        if session.state == "ended":
            raise RequestError("session_ended", "the session has ended", status=409)
        if session.peer is None:
            raise RequestError("no_offer", "candidates follow the answered offer", status=409)
        await session.peer.add_candidates(candidates)

    async def hang_up(self, session: Session) -> None:
        await session.call.close("hang_up")

    async def sweep(self) -> None:
        """Task: end sessions that were never used, forget those that ended."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = monotonic()
            for session in [session for session in self._sessions.values() if session.deadline <= now]:
                if session.state == "ended":
                    self._forget(session)
                elif not session.answering:
                    await session.call.close("expired")

    async def close(self) -> None:
        """End every call."""
        await asyncio.gather(*(session.call.close("server_shutdown") for session in self._sessions.values()))

    def _forget_surplus(self) -> None:
        surplus = len(self._sessions) - MAX_REMEMBERED
        if surplus > 0:
            ended = [session for session in self._sessions.values() if session.state == "ended"]
            for session in sorted(ended, key=lambda session: session.deadline)[:surplus]:
                self._forget(session)

    def _forget(self, session: Session) -> None:
        del self._sessions[session.id], self._by_token[session.token]

    def _check(self, model: str | None, rollout: RolloutRequest) -> None:
        info = self._parts.pool.info
        if model is not None and model != info.name:
            raise RequestError("unknown_model", f"this server runs the model {info.name!r}", param="model")
        if rollout.strategy and rollout.strategy not in info.rollouts:
            raise RequestError("unknown_rollout", f"choose one of {', '.join(info.rollouts)}", param="rollout")
        if rollout.running_ahead and rollout.running_ahead not in RUNNING_AHEAD:
            raise RequestError("unknown_rollout", f"choose one of {', '.join(RUNNING_AHEAD)}", param="rollout")
        open_sessions = sum(session.state != "ended" for session in self._sessions.values())
        if open_sessions >= self._parts.settings.max_sessions:
            raise CapacityError("too_many_sessions", "too many sessions are open: try again later")
