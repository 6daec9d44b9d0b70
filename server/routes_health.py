"""Whether the process lives, whether it can take a call, and what it has counted."""

from typing import Any

from fastapi import APIRouter, Response

from server.services import OwnerDep, ServicesDep

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, str]:
    """The event loop turns: nothing more is promised."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(response: Response, services: ServicesDep) -> dict[str, Any]:
    """200 while a living worker could take a call now or when a slot is free, else 503."""
    if not services.ready:
        response.status_code = 503
        error = services.engine_error
        return {"status": "failed", "code": error.code} if error else {"status": "starting", "code": None}
    stats, info = services.pool.stats(), services.pool.info
    if stats.alive == 0:
        response.status_code = 503
    return {
        "status": "ready" if stats.alive else "recovering",
        "model": info.name,
        "device": info.device,
        "slots": stats.slots,
        "free": stats.free,
        "workers": stats.workers,
        "alive": stats.alive,
    }


@router.get("/metrics")
async def metrics(_: OwnerDep, services: ServicesDep) -> Response:
    return Response(services.metrics.page(), media_type=services.metrics.content_type)
