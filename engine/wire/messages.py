"""Messages between gateway and worker: typed msgpack structs, never pickle.

Each message is one frame on an inherited AF_UNIX stream socket (see engine/wire/channel.py for the framing and the
passing of file descriptors). Pictures never travel here: they lie in the frame ring, and ``ChunkReady`` names where.
Times: ``frame`` counts content frames, ``sample`` counts 16 kHz voice samples, both of the call's media time. ``*_ms``
are milliseconds, ``deadline`` is seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

import msgspec

from ground.errors import AvatarError, CapacityError, EngineError, MediaError, RequestError

PROTOCOL_VERSION = 3


class _Message(msgspec.Struct, frozen=True, tag=True):
    """Base: one tag a class."""


class ModelInfo(msgspec.Struct, frozen=True):
    """Properties of a loaded model: those of its config, and measured ones."""

    name: str
    width: int
    height: int
    fps: int
    chunk_frames: int  # frames of every chunk but the first
    first_chunk_frames: int
    drive_ahead_frames: int  # frames of drive a chunk needs beyond its last emitted frame (knot)
    lookahead_ms: float  # voice a frame's features need beyond the frame's end
    slots: int
    device: str
    dtype: str
    torch: str
    cpu: str
    warmup_chunk_ms: float  # one chunk, decode included, measured at start
    memory_mb: float
    rollouts: list[str]  # that a call may ask for, the model's own first


# Gateway -> worker


class Ping(_Message, frozen=True):
    nonce: int


class RolloutRequest(msgspec.Struct, frozen=True):
    """The rollout that a call asks for; empty fields take the model's own."""

    strategy: str = ""
    running_ahead: str = ""


class OpenStream(_Message, frozen=True):
    """Take a slot for a call. The frame ring's memfd travels beside this message as a file descriptor.

    portrait: framed RGB pixels, height x width x 3 bytes. first_frame: media time at which this stream begins (not 0
    when a lost worker is replaced). epoch: which engine of this call; returned with every chunk. live: False for a
    file, which gets no deadline, is no load, and so is never refused for want of time.
    """

    stream: str
    epoch: int
    portrait: bytes
    width: int
    height: int
    landmarks: dict[str, float]
    confidence: float
    seed: int
    rollout: RolloutRequest
    first_frame: int
    live: bool = True


class PushVoice(_Message, frozen=True):
    """16 kHz mono s16 little-endian samples that begin at ``sample``; samples already taken are dropped and counted."""

    stream: str
    sample: int
    pcm: bytes


class PushPose(_Message, frozen=True):
    """Controls that the caller sets from ``frame`` on: absolute values by channel name (ground/motion.py), radians and
    0..1. Interpolated between records; stale 500 ms after the last one, when the voice leads again."""

    stream: str
    frame: float
    controls: dict[str, float]


class Deadline(_Message, frozen=True):
    """Time at which playout would run dry without the chunk that begins at ``frame``. From then on missing voice counts
    as silence. ``deadline`` 0 means: never, wait for the voice (a file)."""

    stream: str
    frame: int
    deadline: float


class FramesRead(_Message, frozen=True):
    """The reader has copied every frame below ``frame`` out of the ring: its slots may be written again."""

    stream: str
    frame: int


class CloseStream(_Message, frozen=True):
    stream: str


class Shutdown(_Message, frozen=True):
    pass


# Worker -> gateway


class Ready(_Message, frozen=True):
    protocol: int
    pid: int
    model: ModelInfo


class Pong(_Message, frozen=True):
    nonce: int


class StreamOpened(_Message, frozen=True):
    stream: str
    epoch: int
    slot: int


class ChunkReady(_Message, frozen=True):
    """``frames`` pictures from media frame ``first_frame`` lie in the ring at slot (frame % capacity).

    missing: voice sample ranges [start, end) that had not come by the deadline and were taken as silence: the gateway
    silences the same range of the sound.
    """

    stream: str
    epoch: int
    index: int
    first_frame: int
    frames: int
    chunk_ms: float  # denoise + decode + write, wall time
    decode_ms: float
    missing: list[tuple[int, int]]


class StreamClosed(_Message, frozen=True):
    stream: str
    epoch: int


class Failure(_Message, frozen=True):
    """An error that ends a stream (``stream`` set) or the worker (``stream`` empty). family: as in ground/errors.py."""

    stream: str
    epoch: int
    code: str
    message: str
    retryable: bool
    family: str = "engine_error"


ToWorker = Ping | OpenStream | PushVoice | PushPose | Deadline | FramesRead | CloseStream | Shutdown
ToGateway = Ready | Pong | StreamOpened | ChunkReady | StreamClosed | Failure
OfStream = StreamOpened | ChunkReady | StreamClosed | Failure  # messages about one stream

_FAMILIES = {family.family: family for family in (RequestError, EngineError, MediaError)}


def failure(error: AvatarError, stream: str = "", epoch: int = 0) -> Failure:
    """An AvatarError as a message."""
    return Failure(stream, epoch, error.code, error.message, error.retryable, error.family)


def error_from(failure: Failure) -> AvatarError:
    """The AvatarError of a ``Failure``, as it was raised in the other process."""
    if failure.family == CapacityError.family:
        return CapacityError(failure.code, failure.message)
    kind = _FAMILIES.get(failure.family, EngineError)
    return kind(failure.code, failure.message, retryable=failure.retryable)
