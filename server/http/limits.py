"""Sizes of request bodies: the one place that states them, for the middleware, the routes and GET /v1/limits."""

from engine.media.wav import MAX_BYTES as MAX_WAV_BYTES
from ground.units import PLAYOUT_RATE
from server.settings import Settings

SMALL_BODY = 256 * 1024  # JSON, and what a form adds to its file
SAY_BYTES_PER_SECOND = PLAYOUT_RATE * 2 * 4  # stereo, 32 bit
SAY_HEADER = 64 * 1024  # of a WAV file, with its tags
SOUND_TYPES = ("audio/wav",)


def say_bytes(settings: Settings) -> int:
    """Largest recording for ``say``, in bytes."""
    return min(MAX_WAV_BYTES, int(settings.max_say_seconds * SAY_BYTES_PER_SECOND) + SAY_HEADER)


def body_limit(path: str, settings: Settings) -> int:
    """Largest request body for a path, in bytes."""
    if path.startswith("/v1/portraits"):
        return settings.max_portrait_bytes + SMALL_BODY
    if path.endswith("/say"):
        return say_bytes(settings) + SMALL_BODY
    return SMALL_BODY
