"""``/v1/sessions``: make a call, negotiate it, have it speak, end it."""

import asyncio
import secrets
from typing import Any

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from engine.media.sound import read_sound
from engine.wire.messages import RolloutRequest
from ground.errors import RequestError
from ground.units import milliseconds
from server.call.voice import Turn
from server.http.routes.portraits import read_form_file
from server.http.services import OwnerDep, ServicesDep, SessionDep
from server.sessions import Session

router = APIRouter(prefix="/v1/sessions")

_SEED_BITS = 63


class RolloutChoice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    strategy: str = Field("", max_length=64)
    running_ahead: str = Field("", max_length=64)


class NewSession(BaseModel):
    model_config = ConfigDict(extra="forbid")
    portrait_id: str = Field(max_length=64)
    model: str | None = Field(None, max_length=64)
    rollout: str | RolloutChoice | None = None
    seed: int | None = Field(None, ge=0, lt=2**_SEED_BITS)


class Description(BaseModel):
    sdp: str = Field(max_length=64 * 1024)
    type: str = Field(max_length=16)


class Candidate(BaseModel):
    """A browser's RTCIceCandidate. Null, empty or ``end-of-candidates`` ends trickling and has no further effect."""

    candidate: str | None = Field(None, max_length=1024)
    mid: str | None = Field(None, max_length=64, validation_alias=AliasChoices("sdpMid", "sdp_mid"))
    index: int | None = Field(None, ge=0, le=16, validation_alias=AliasChoices("sdpMLineIndex", "sdp_mline_index"))


class Candidates(BaseModel):
    """A batch, or one candidate as the body itself; ``{"candidate": null}`` ends trickling."""

    candidates: list[Candidate | None] = Field(max_length=50)

    @model_validator(mode="before")
    @classmethod
    def _from_one(cls, body: Any) -> Any:
        one = isinstance(body, dict) and "candidate" in body and "candidates" not in body
        return {"candidates": [body]} if one else body


@router.post("", status_code=201)
async def create_session(body: NewSession, owner: OwnerDep, services: ServicesDep) -> dict[str, Any]:
    services.require_engine()
    portrait = services.portraits.get(body.portrait_id, owner)
    session, token = services.sessions.create(owner, portrait, body.model, _rollout(body.rollout), body.seed)
    return {
        "id": session.id,
        "token": token,
        "expires_at": session.expires_at.isoformat(timespec="seconds"),
        "ice_servers": [server.model_dump(exclude_none=True) for server in services.settings.ice_servers],
    }


@router.get("/{session_id}")
async def get_session(session: SessionDep) -> dict[str, Any]:
    return _shown(session)


@router.delete("/{session_id}", status_code=204)
async def delete_session(session: SessionDep, services: ServicesDep) -> None:
    await services.sessions.hang_up(session)


@router.post("/{session_id}/offer")
async def post_offer(body: Description, session: SessionDep, services: ServicesDep) -> dict[str, str]:
    if body.type != "offer":
        raise RequestError("invalid_offer", "the type must be offer", param="type")
    services.require_engine()
    return {"sdp": await services.sessions.offer(session, body.sdp), "type": "answer"}


@router.patch("/{session_id}/candidates", status_code=204)
async def patch_candidates(body: Candidates, session: SessionDep, services: ServicesDep) -> None:
    await services.sessions.add_candidates(
        session, [(item.candidate, item.mid, item.index) for item in body.candidates if item and item.candidate]
    )


@router.post("/{session_id}/say", status_code=202)
async def post_say(request: Request, session: SessionDep, services: ServicesDep) -> dict[str, Any]:
    """A recording, as the body or as a form's ``file``. What can be refused without it is refused before it is read."""
    _require_live(session)
    session.call.stream.require_room()
    with services.sending(session.id):
        data = await _read_body(request)
        longest = services.settings.max_say_seconds
        # Not in the loop, and not in its default executor, which belongs to the media.
        loop = asyncio.get_running_loop()
        sound = await loop.run_in_executor(request.app.state.files, lambda: read_sound(data, max_seconds=longest))
    turn = Turn(secrets.token_hex(8), sound.pcm)
    answer = {"turn_id": turn.id, "duration_ms": turn.duration_ms}
    session.call.say(turn)
    return answer


async def _read_body(request: Request) -> bytes:
    """The form's file, else the body whatever its type is said to be: its own bytes tell the format."""
    media_type = request.headers.get("content-type", "").lower()
    form = media_type.startswith("multipart/form-data") and "boundary=" in media_type
    return await read_form_file(request) if form else await request.body()


@router.post("/{session_id}/interrupt", status_code=202)
async def post_interrupt(session: SessionDep) -> dict[str, Any]:
    _require_live(session)
    return {"interrupted": session.call.stream.interrupt()}


def _require_live(session: Session) -> None:
    if session.state not in ("connecting", "live"):
        raise RequestError("not_live", "the call is not live", status=409)


def _rollout(choice: str | RolloutChoice | None) -> RolloutRequest:
    if choice is None:
        return RolloutRequest()
    if isinstance(choice, str):
        return RolloutRequest(strategy=choice)
    return RolloutRequest(strategy=choice.strategy, running_ahead=choice.running_ahead)


def _shown(session: Session) -> dict[str, Any]:
    figures = session.call.stream.figures()
    return {
        "id": session.id,
        "state": session.state,
        "reason": session.reason,
        "message": session.call.why,
        "portrait_id": session.portrait_id,
        "model": session.model,
        "rollout": {"strategy": session.rollout.strategy, "running_ahead": session.rollout.running_ahead},
        "seed": session.seed,
        "expires_at": session.expires_at.isoformat(timespec="seconds"),
        "generated_frames": figures.shown,
        "underruns": figures.underruns,
        "delay_ms": round(milliseconds(figures.delay)),
        "turns": [
            {"turn_id": turn.id, "state": turn.state, "start_ms": milliseconds(turn.start) if turn.start >= 0 else None}
            for turn in session.call.stream.turns
        ],
    }
