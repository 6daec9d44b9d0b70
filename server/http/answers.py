"""Bodies of successful answers, as pydantic models: what the routes return and the OpenAPI document describes."""

from typing import Literal

from pydantic import BaseModel, Field

from server.settings import IceServer

PORTRAIT_ID = "9f2c6c1f7a3d4e5b8c9d0e1f2a3b4c5d"
SESSION_ID = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
EXPIRES = "2026-12-01T12:00:00+00:00"


class Warned(BaseModel):
    code: str = Field(description="Stable name.", examples=["low_resolution"])
    message: str = Field(description="What a person can do about it.")


class Face(BaseModel):
    confidence: float = Field(description="How certain eyes and mouth are, from 0 to 1.", examples=[0.93])
    crop: list[list[float]] = Field(
        description="Affine 2x3: pixels of the upload to those of the crop.",
        examples=[[[0.5, 0.0, -20.0], [0.0, 0.5, -12.0]]],
    )
    outlines: dict[str, list[tuple[float, float]]] = Field(
        description="Contours found: `face`, `lips`, `left_eye`, `right_eye`, as points x, y from 0 to 1 of the crop.",
        examples=[{"lips": [[0.41, 0.68], [0.5, 0.7], [0.59, 0.68]]}],
    )


class PortraitAnswer(BaseModel):
    """An accepted picture. width, height: pixels of the upload, upright."""

    id: str = Field(examples=[PORTRAIT_ID])
    status: Literal["ready"] = "ready"
    width: int = Field(examples=[1024])
    height: int = Field(examples=[1280])
    face: Face
    warnings: list[Warned] = Field(description="Why the result may be worse than it could be; may be empty.")
    preview_url: str = Field(
        description="Path of the crop as JPEG. The key in it is the right to see it: keep it like the picture.",
        examples=[f"/v1/portraits/{PORTRAIT_ID}/preview?key=Zm9vYmFyYmF6cXV4"],
    )


class PortraitList(BaseModel):
    portraits: list[PortraitAnswer]


class SessionCreated(BaseModel):
    id: str = Field(examples=[SESSION_ID])
    token: str = Field(
        description="Bearer token of this session. Shown only here.",
        examples=["q3Zp0m1Jk8s2Vw7Xy4Tb6Nc9Rd5Fg0Hl2Ke8Ua1Io4E"],
    )
    expires_at: str = Field(description="Until when the offer must come; ISO 8601, UTC.", examples=[EXPIRES])
    ice_servers: list[IceServer] = Field(description="For the client's RTCPeerConnection.")


class ChosenRollout(BaseModel):
    strategy: str = Field(description="Empty: the model's own.", examples=["knot_forcing"])
    running_ahead: str = Field(description="Empty: the model's own.", examples=["constant"])


class TurnShown(BaseModel):
    turn_id: str = Field(examples=["7d9e1f2a3b4c5d6e"])
    state: Literal["queued", "speaking", "finished", "interrupted"]
    start_ms: float | None = Field(description="Media time at which it began; null while it waits.", examples=[1840.0])


class SessionShown(BaseModel):
    id: str = Field(examples=[SESSION_ID])
    state: Literal["created", "connecting", "live", "ended"]
    reason: str | None = Field(description="Why it ended, else null.", examples=["hang_up"])
    message: str | None = Field(description="What the reason means, for a person; null without a reason to tell.")
    portrait_id: str = Field(examples=[PORTRAIT_ID])
    model: str = Field(examples=["embedded"])
    rollout: ChosenRollout
    seed: int = Field(examples=[7])
    expires_at: str = Field(description="Until when the offer must come; ISO 8601, UTC.", examples=[EXPIRES])
    generated_frames: int = Field(description="Pictures shown so far.", examples=[250])
    underruns: int = Field(description="Times that no new picture was there when one was due.", examples=[0])
    delay_ms: int = Field(description="Delay of picture and voice behind the caller.", examples=[680])
    turns: list[TurnShown]


class SessionDescription(BaseModel):
    """The answer to an offer, as a browser's RTCSessionDescription."""

    sdp: str = Field(examples=["v=0\r\no=- 3912 3912 IN IP4 0.0.0.0\r\n..."])
    type: Literal["answer"] = "answer"


class Said(BaseModel):
    turn_id: str = Field(examples=["7d9e1f2a3b4c5d6e"])
    duration_ms: int = Field(examples=[2350])


class Interrupted(BaseModel):
    interrupted: list[str] = Field(description="Turns that were cut off or will not be heard.")


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """A living worker could take a call now, or when a slot is free."""

    status: Literal["ready"] = "ready"
    model: str = Field(examples=["embedded"])
    device: str = Field(examples=["cpu"])
    slots: int = Field(description="Calls that all workers can hold.", examples=[2])
    free: int = Field(description="Slots that are free now.", examples=[2])
    workers: int = Field(examples=[1])
    alive: int = Field(description="Workers that run.", examples=[1])
