"""``GET /v1/limits``: what this server accepts, so that a client can check before it sends."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from engine.media.sound_parts import MEDIA_TYPES as SOUND_TYPES
from engine.wire.messages import ModelInfo
from ground.config import RUNNING_AHEAD
from server.http.limits import say_bytes
from server.http.services import ServicesDep
from server.portraits.limits import JPEG_FACTOR, MEDIA_TYPES
from server.settings import Settings

router = APIRouter(prefix="/v1/limits", tags=["server"])


class PortraitLimits(BaseModel):
    max_bytes: int = Field(description="Largest picture file, in bytes.", examples=[10_485_760])
    max_pixels: int = Field(description="Largest picture, width times height.", examples=[25_000_000])
    max_jpeg_pixels: int = Field(description="Largest JPEG, width times height.", examples=[150_000_000])
    types: list[str] = Field(description="Media types of accepted pictures.", examples=[list(MEDIA_TYPES)])
    max_kept: int = Field(description="Portraits that one owner may keep at once.", examples=[200])


class SayLimits(BaseModel):
    max_seconds: float = Field(description="Longest recording.", examples=[120.0])
    max_bytes: int = Field(description="Largest recording, in bytes.", examples=[47_128_576])
    types: list[str] = Field(description="Media types of accepted recordings.", examples=[list(SOUND_TYPES)])


class CallLimits(BaseModel):
    max_sessions: int = Field(description="Sessions that may be open at once.", examples=[16])
    offer_within_s: float = Field(
        description="Seconds from creation within which the offer must come.", examples=[120.0]
    )
    connect_within_s: float = Field(
        description="Seconds from the offer within which the call must be connected.", examples=[15.0]
    )
    heartbeat_s: float = Field(
        description="Seconds without a message on the data channel that end a call.", examples=[6.0]
    )
    max_s: float | None = Field(description="Longest call in seconds; null sets no limit.", examples=[3600.0])


class ServerLimits(BaseModel):
    """Sizes in bytes, times in seconds."""

    model: str = Field(description="The one model that this server runs.", examples=["embedded"])
    rollouts: list[str] = Field(
        description="Rollouts that a session may ask for, the model's own first; empty until the engine is ready.",
        examples=[["knot_forcing", "self_forcing"]],
    )
    running_ahead: list[str] = Field(description="Rules for the reference's position.", examples=[list(RUNNING_AHEAD)])
    portrait: PortraitLimits
    say: SayLimits
    call: CallLimits


@router.get("", summary="Limits of this server")
async def get_limits(services: ServicesDep) -> ServerLimits:
    """What this server accepts. Needs no key and holds no secret. The same until the server is restarted."""
    return limits_of(services.settings, services.pool.info if services.ready else None)


def limits_of(settings: Settings, info: ModelInfo | None) -> ServerLimits:
    """info: of the engine, None before it is ready."""
    return ServerLimits(
        model=info.name if info else settings.model,
        rollouts=info.rollouts if info else [],
        running_ahead=list(RUNNING_AHEAD),
        portrait=PortraitLimits(
            max_bytes=settings.max_portrait_bytes,
            max_pixels=settings.max_portrait_pixels,
            max_jpeg_pixels=JPEG_FACTOR * settings.max_portrait_pixels,
            types=list(MEDIA_TYPES),
            max_kept=settings.max_portraits,
        ),
        say=SayLimits(max_seconds=settings.max_say_seconds, max_bytes=say_bytes(settings), types=list(SOUND_TYPES)),
        call=CallLimits(
            max_sessions=settings.max_sessions,
            offer_within_s=settings.session_ttl_s,
            connect_within_s=settings.setup_deadline_s,
            heartbeat_s=settings.heartbeat_s,
            max_s=settings.max_call_s or None,
        ),
    )
