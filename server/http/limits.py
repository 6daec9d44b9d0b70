"""Sizes of request bodies: the one place that states them, for the middleware, the routes and GET /v1/limits."""

from engine.media.sound import SMALLER, most_bytes
from server.settings import Settings

SMALL_BODY = 256 * 1024  # JSON, and what a form adds to its file


def say_bytes(settings: Settings) -> int:
    """Largest recording for ``say``, in bytes."""
    return most_bytes(settings.max_say_seconds)


def body_limit(path: str, settings: Settings) -> int:
    """Largest request body for a path, in bytes."""
    if path.startswith("/v1/portraits"):
        return settings.max_portrait_bytes + SMALL_BODY
    if path.endswith("/say"):
        return say_bytes(settings) + SMALL_BODY
    return SMALL_BODY


def body_advice(path: str) -> str:
    """What to do about a body that is too large for a path."""
    if path.startswith("/v1/portraits"):
        return "send a smaller picture"
    return SMALLER if path.endswith("/say") else "send less"
