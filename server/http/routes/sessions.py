"""``/v1/sessions``: create a call, negotiate it, speak, interrupt, end it."""

import asyncio
import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from engine.media.sound import read_sound
from engine.media.sound_parts import MEDIA_TYPES as SOUND_TYPES
from engine.wire.messages import RolloutRequest
from ground.errors import RequestError
from ground.units import milliseconds
from server.call.voice import Turn
from server.http.answers import PORTRAIT_ID, Interrupted, Said, SessionCreated, SessionDescription, SessionShown
from server.http.refusals import ENGINE_NOT_READY, FORM, KEY, SESSION, refused
from server.http.routes.portraits import BINARY, FORM_BODY, read_form_file
from server.http.services import OwnerDep, ServicesDep, SessionDep
from server.sessions import Session

router = APIRouter(prefix="/v1/sessions", tags=["sessions"])

_SEEDS = 2**53  # a JSON number holds any of them exactly, in every language
_CANDIDATE = "#/components/schemas/Candidate"


def _whole(value: object) -> object:
    """JSON has one kind of number: 7.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole), Field(strict=True)]


class RolloutChoice(BaseModel):
    model_config = ConfigDict(extra="forbid")
    strategy: str = Field("", max_length=64)
    running_ahead: str = Field("", max_length=64)


class NewSession(BaseModel):
    model_config = ConfigDict(extra="forbid")
    portrait_id: str = Field(max_length=64, examples=[PORTRAIT_ID])
    model: str | None = Field(None, max_length=64, description="The model that the server runs, or nothing.")
    rollout: str | RolloutChoice | None = None
    seed: Whole | None = Field(None, ge=0, lt=_SEEDS, description="The same seed, the same motion.")


class Description(BaseModel):
    """An offer, as a browser's RTCSessionDescription: audio, video to receive, and the data channel ``knotcast``."""

    sdp: str = Field(max_length=64 * 1024, examples=["v=0\r\no=- 3912 3912 IN IP4 0.0.0.0\r\n..."])
    type: str = Field(max_length=16, json_schema_extra={"enum": ["offer"]})


class IceCandidate(BaseModel):
    """A browser's RTCIceCandidate. Null, empty or ``end-of-candidates`` ends trickling and has no further effect."""

    candidate: str | None = Field(None, max_length=1024)
    mid: str | None = Field(None, max_length=64, validation_alias=AliasChoices("sdpMid", "sdp_mid"))
    index: Whole | None = Field(None, ge=0, le=16, validation_alias=AliasChoices("sdpMLineIndex", "sdp_mline_index"))


def _or_one(schema: dict[str, Any]) -> None:
    """The second form of ``Candidates``, which its fields do not show."""
    batch = {key: schema.pop(key) for key in ("properties", "required", "type")}
    schema["anyOf"] = [batch, {"allOf": [{"$ref": _CANDIDATE}], "required": ["candidate"]}]


class Candidates(BaseModel):
    """A batch, or one candidate as the body itself; ``{"candidate": null}`` ends trickling."""

    model_config = ConfigDict(json_schema_extra=_or_one)

    candidates: list[IceCandidate | None] = Field(max_length=50)

    @model_validator(mode="before")
    @classmethod
    def _from_one(cls, body: Any) -> Any:
        one = isinstance(body, dict) and "candidate" in body and "candidates" not in body
        return {"candidates": [body]} if one else body


@router.post(
    "",
    status_code=201,
    response_model_exclude_none=True,
    summary="Create a session",
    responses=refused(
        {
            **KEY,
            404: ("portrait_not_found",),
            422: ("invalid_request", "unknown_model", "unknown_rollout"),
            503: (*ENGINE_NOT_READY, "too_many_sessions"),
        }
    ),
)
async def create_session(body: NewSession, owner: OwnerDep, services: ServicesDep) -> SessionCreated:
    """Create a session for one call. Its offer must come before ``expires_at``."""
    services.require_engine()
    portrait = services.portraits.get(body.portrait_id, owner)
    session, token = await services.sessions.create(owner, portrait, body.model, _rollout(body.rollout), body.seed)
    return SessionCreated(
        id=session.id,
        token=token,
        expires_at=session.expires_at.isoformat(timespec="seconds"),
        ice_servers=services.settings.ice_servers,
    )


@router.get("/{session_id}", summary="State of a session", responses=refused(SESSION))
async def get_session(session: SessionDep) -> SessionShown:
    """An ended session is remembered for ten minutes."""
    return _shown(session)


@router.delete("/{session_id}", status_code=204, summary="End the call", responses=refused(SESSION))
async def delete_session(session: SessionDep, services: ServicesDep) -> None:
    """Twice is fine."""
    await services.sessions.hang_up(session)


@router.post(
    "/{session_id}/offer",
    summary="Negotiate the call",
    responses=refused(
        {
            **SESSION,
            409: ("offer_exists", "session_ended"),
            422: ("invalid_offer", "invalid_request"),
            429: ("no_slot",),
            503: (*ENGINE_NOT_READY, "no_slot", "no_worker", "no_port"),
        }
    ),
)
async def post_offer(body: Description, session: SessionDep, services: ServicesDep) -> SessionDescription:
    """A session takes one offer; an offer that cannot be read may be followed by another."""
    if body.type != "offer":
        raise RequestError("invalid_offer", "the type must be offer", param="type")
    services.require_engine()
    return SessionDescription(sdp=await services.sessions.offer(session, body.sdp))


@router.patch(
    "/{session_id}/candidates",
    status_code=204,
    summary="Add ICE candidates",
    responses=refused(
        {
            **SESSION,
            409: ("no_offer", "session_ended"),
            422: ("invalid_candidate", "too_many_candidates", "invalid_request"),
        }
    ),
)
async def patch_candidates(body: Candidates, session: SessionDep, services: ServicesDep) -> None:
    """Trickle ICE candidates, after the offer was answered."""
    await services.sessions.add_candidates(
        session, [(item.candidate, item.mid, item.index) for item in body.candidates if item and item.candidate]
    )


@router.post(
    "/{session_id}/say",
    status_code=202,
    summary="Have a recording spoken",
    responses=refused(
        {
            **SESSION,
            **FORM,
            409: ("not_live",),
            413: ("audio_too_large", "audio_too_long", "body_too_large"),
            415: ("unsupported_audio",),
            422: ("broken_audio", "empty_audio", "silent_audio", "missing_file"),
            429: ("say_queue_full", "say_busy"),
        }
    ),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {**{kind: {"schema": BINARY} for kind in SOUND_TYPES}, **FORM_BODY},
        }
    },
)
async def post_say(request: Request, session: SessionDep, services: ServicesDep) -> Said:
    """A recording, as the body or as a form's ``file``. Refusals that do not depend on the recording come before it is
    read."""
    _require_live(session)
    session.call.stream.require_room()
    with services.sending(session.id):
        data = await _read_body(request)
        longest = services.settings.max_say_seconds
        # Decoded in its own thread: the default executor belongs to the media.
        loop = asyncio.get_running_loop()
        sound = await loop.run_in_executor(request.app.state.files, lambda: read_sound(data, max_seconds=longest))
    turn = Turn(secrets.token_hex(8), sound.pcm)
    answer = Said(turn_id=turn.id, duration_ms=turn.duration_ms)
    session.call.say(turn)
    return answer


async def _read_body(request: Request) -> bytes:
    """The form's file, else the whole body. The declared type is ignored: the first bytes tell the format."""
    media_type = request.headers.get("content-type", "").lower()
    form = media_type.startswith("multipart/form-data") and "boundary=" in media_type
    return await read_form_file(request) if form else await request.body()


@router.post(
    "/{session_id}/interrupt",
    status_code=202,
    summary="Stop what is being spoken",
    responses=refused({**SESSION, 409: ("not_live",)}),
)
async def post_interrupt(session: SessionDep) -> Interrupted:
    """Stop speaking and drop the turns that wait. The microphone stays open."""
    _require_live(session)
    return Interrupted(interrupted=session.call.stream.interrupt())


def _require_live(session: Session) -> None:
    if session.state not in ("connecting", "live"):
        raise RequestError("not_live", "the call is not live", status=409)


def _rollout(choice: str | RolloutChoice | None) -> RolloutRequest:
    if choice is None:
        return RolloutRequest()
    if isinstance(choice, str):
        return RolloutRequest(strategy=choice)
    return RolloutRequest(strategy=choice.strategy, running_ahead=choice.running_ahead)


def _shown(session: Session) -> SessionShown:
    figures = session.call.stream.figures()
    return SessionShown.model_validate(
        {
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
                {
                    "turn_id": turn.id,
                    "state": turn.state,
                    "start_ms": milliseconds(turn.start) if turn.start >= 0 else None,
                }
                for turn in session.call.stream.turns
            ],
        }
    )
