"""FastAPI application factory: settings and a worker pool in, an ASGI app out. Background tasks end with its
lifespan."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from engine.pool.client import WorkerLimits
from engine.pool.local import LocalPool, WorkerPool
from ground.clock import monotonic
from ground.errors import AvatarError
from server.access.keys import AccessKeys, is_guest
from server.call.call import CallParts
from server.http.errors import install_error_handlers
from server.http.limits import body_advice, body_limit
from server.http.methods import refusing_routes
from server.http.middleware import BodyLimit, Gate
from server.http.openapi import install_openapi
from server.http.routes import health as routes_health
from server.http.routes import limits as routes_limits
from server.http.routes import portraits as routes_portraits
from server.http.routes import sessions as routes_sessions
from server.http.services import Services
from server.metrics import Metrics
from server.portraits.process import Framer, PictureProcess
from server.portraits.store import PortraitStore
from server.rtc.ice import IcePolicy
from server.sessions import Sessions
from server.settings import Settings, engine_config

logger = logging.getLogger(__name__)

PAGE = Path(__file__).resolve().parents[2] / "client_web"
GUEST_SWEEP_S = 2.0
ROUTERS = (routes_portraits.router, routes_sessions.router, routes_limits.router, routes_health.router)


def create_app(settings: Settings, pool: WorkerPool | None = None, framer: Framer | None = None) -> FastAPI:
    """pool: started and closed with the app's lifespan; None for worker processes on this machine."""
    pool = pool or _local_pool(settings)
    app = FastAPI(
        title="knotcast",
        version="1",
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=_lifespan,
    )
    services = _services(settings, pool, framer or PictureProcess())
    app.state.services = services
    install_error_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    install_openapi(app, settings, services.keys.required)
    app.router.routes += refusing_routes(ROUTERS)
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(BodyLimit, limit=lambda path: body_limit(path, settings), advice=body_advice)
    app.add_middleware(Gate, settings=settings)
    return app


def _local_pool(settings: Settings) -> LocalPool:
    limits = WorkerLimits(start=settings.worker_start_s)
    return LocalPool(engine_config(settings), workers=settings.workers, spares=settings.spares, limits=limits)


def _services(settings: Settings, pool: WorkerPool, framer: Framer) -> Services:
    metrics = Metrics()
    portraits = PortraitStore(framer, settings.data_dir, settings.max_portraits, settings.max_portrait_pixels)
    sessions = Sessions(CallParts(settings, pool, metrics), IcePolicy.from_settings(settings), portraits)
    return Services(settings, pool, portraits, sessions, metrics, AccessKeys(settings))


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    loop = asyncio.get_running_loop()
    # aiortc encodes in the loop's default executor: anything else in there would hold up the sound.
    media = ThreadPoolExecutor(services.settings.encoding_threads, thread_name_prefix="media")
    loop.set_default_executor(media)
    app.state.files = ThreadPoolExecutor(1, thread_name_prefix="files")
    await services.portraits.delete_of(is_guest)  # guests of an earlier run: their cookies are void
    tasks = [
        asyncio.create_task(_start_engine(services), name="engine-start"),
        asyncio.create_task(services.sessions.sweep(), name="session-sweep"),
        asyncio.create_task(_forget_guests(services), name="guest-sweep"),
    ]
    try:
        yield
    finally:
        services.ready = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await services.sessions.close()
        await services.pool.close()
        await services.portraits.close()
        app.state.files.shutdown(wait=False, cancel_futures=True)
        media.shutdown(wait=False, cancel_futures=True)


async def _forget_guests(services: Services) -> None:
    """Task: delete what guests left whose access has expired."""
    while True:
        await asyncio.sleep(GUEST_SWEEP_S)
        gone = set(services.keys.forget(monotonic()))
        await services.portraits.delete_of(gone.__contains__)


async def _start_engine(services: Services) -> None:
    """Task: start the engine. The page is served while the model loads."""
    try:
        await services.pool.start()
    except AvatarError as error:
        services.engine_error = error
        logger.warning("the engine cannot start code=%s", error.code)
    else:
        services.ready = True
        await services.portraits.warm()
