"""``/health``, ``/ready`` and ``/metrics``: liveness, readiness and Prometheus counters."""

from fastapi import APIRouter, Response

from ground.errors import CapacityError
from server.http.answers import Health, Readiness
from server.http.refusals import ENGINE_NOT_READY, KEY, refused
from server.http.services import OwnerDep, ServicesDep

router = APIRouter(tags=["server"])


@router.get("/health", summary="Whether the process lives")
async def health() -> Health:
    """200 while the event loop runs. It says nothing about the engine."""
    return Health()


@router.get(
    "/ready", summary="Whether a call can be taken", responses=refused({503: (*ENGINE_NOT_READY, "recovering")})
)
async def ready(services: ServicesDep) -> Readiness:
    """200 while a living worker could take a call now or when a slot is free, else 503: ``starting``,
    ``engine_failed`` or ``recovering``."""
    services.require_engine()
    stats, info = services.pool.stats(), services.pool.info
    if stats.alive == 0:
        raise CapacityError("recovering", "the engine is being started again: try again in a moment")
    return Readiness(
        model=info.name,
        device=info.device,
        slots=stats.slots,
        free=stats.free,
        workers=stats.workers,
        alive=stats.alive,
    )


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **refused(KEY)},
)
async def metrics(_: OwnerDep, services: ServicesDep) -> Response:
    """Prometheus's text format."""
    return Response(services.metrics.page(), media_type=services.metrics.content_type)
