"""What the routes work with, made once by the app; and who is calling."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request, Response

from engine.errors import AvatarError, CapacityError, EngineError, RequestError
from engine.pool import WorkerPool
from server.metrics import Metrics
from server.portraits import PortraitStore
from server.security import ACCESS_COOKIE, AccessKeys, bearer
from server.sessions import Session, Sessions
from server.settings import Settings


@dataclass(slots=True)
class Services:
    """engine_error: why the engine could not start; ready: it did."""

    settings: Settings
    pool: WorkerPool
    portraits: PortraitStore
    sessions: Sessions
    metrics: Metrics
    keys: AccessKeys
    ready: bool = False
    engine_error: AvatarError | None = None

    def require_engine(self) -> None:
        if self.engine_error is not None:
            raise EngineError("engine_failed", "the engine could not be started: see the server's log", status=503)
        if not self.ready:
            raise CapacityError("starting", "the engine is still starting: try again in a moment")


def get_services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


def get_owner(request: Request, response: Response, services: Annotated[Services, Depends(get_services)]) -> str:
    """Who calls, where a key is needed. Raises RequestError 401 for nobody we know."""
    authorization = request.headers.get("authorization")
    owner = services.keys.owner(authorization, request.cookies.get(ACCESS_COOKIE))
    if owner is not None:
        return owner
    key = bearer(authorization)
    if key is not None and (cookie := services.keys.redeem(key)) is not None:
        secure = services.settings.tls != "off"
        response.set_cookie(ACCESS_COOKIE, cookie, httponly=True, samesite="strict", secure=secure)
        return "link"
    raise RequestError(
        "missing_key", "this server asks for an access key: open the address that it printed", status=401
    )


def get_session(session_id: str, request: Request, services: Annotated[Services, Depends(get_services)]) -> Session:
    return services.sessions.get(session_id, bearer(request.headers.get("authorization")))


ServicesDep = Annotated[Services, Depends(get_services)]
OwnerDep = Annotated[str, Depends(get_owner)]
SessionDep = Annotated[Session, Depends(get_session)]
