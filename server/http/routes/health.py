"""Whether the process lives, whether it can take a call, and what it has counted."""

from typing import Any

from fastapi import APIRouter, Response

from ground.errors import CapacityError
from server.http.services import OwnerDep, ServicesDep

router = APIRouter()


@router.api_route("/health", methods=["GET", "HEAD"])
async def health() -> dict[str, str]:
    """The event loop turns: nothing more is promised."""
    return {"status": "ok"}


@router.api_route("/ready", methods=["GET", "HEAD"])
async def ready(services: ServicesDep) -> dict[str, Any]:
    """200 while a living worker could take a call now or when a slot is free, else 503: ``starting``,
    ``engine_failed`` or ``recovering``."""
    services.require_engine()
    stats, info = services.pool.stats(), services.pool.info
    if stats.alive == 0:
        raise CapacityError("recovering", "the engine is being started again: try again in a moment")
    return {
        "status": "ready",
        "model": info.name,
        "device": info.device,
        "slots": stats.slots,
        "free": stats.free,
        "workers": stats.workers,
        "alive": stats.alive,
    }


@router.api_route("/metrics", methods=["GET", "HEAD"])
async def metrics(_: OwnerDep, services: ServicesDep) -> Response:
    return Response(services.metrics.page(), media_type=services.metrics.content_type)
