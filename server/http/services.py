"""Shared services of the routes, made once by the app, and the dependencies that identify a caller."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer

from engine.pool.local import WorkerPool
from ground.clock import monotonic
from ground.errors import AvatarError, CapacityError, EngineError, RequestError
from server.access.keys import ACCESS_COOKIE, AccessKeys, bearer
from server.metrics import Metrics
from server.portraits.store import PortraitStore
from server.sessions import Session, Sessions
from server.settings import Settings


@dataclass(slots=True)
class Services:
    """engine_error: why the engine could not start, None otherwise. ready: the engine has started."""

    settings: Settings
    pool: WorkerPool
    portraits: PortraitStore
    sessions: Sessions
    metrics: Metrics
    keys: AccessKeys
    ready: bool = False
    engine_error: AvatarError | None = None
    _sending: set[str] = field(default_factory=set)

    @contextlib.contextmanager
    def sending(self, session_id: str) -> Iterator[None]:
        """Context of an upload to ``say``. Raises CapacityError 429 if the session is uploading already."""
        if session_id in self._sending:
            raise CapacityError(
                "say_busy", "another recording of this session is still being uploaded: wait for it", status=429
            )
        self._sending.add(session_id)
        try:
            yield
        finally:
            self._sending.discard(session_id)

    def require_engine(self) -> None:
        if self.engine_error is not None:
            raise EngineError("engine_failed", "the engine could not be started: see the server's log", status=503)
        if not self.ready:
            raise CapacityError("starting", "the engine is still starting: try again in a moment")


def get_services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


# The functions below read the headers themselves; these say so in the OpenAPI document.
_ACCESS_KEY = HTTPBearer(
    scheme_name="accessKey", auto_error=False, description="A configured key, or once the key of a one-time link."
)
_ACCESS_COOKIE = APIKeyCookie(
    name=ACCESS_COOKIE, scheme_name="accessCookie", auto_error=False, description="What a one-time link is traded for."
)
_SESSION_TOKEN = HTTPBearer(
    scheme_name="sessionToken", auto_error=False, description="The token of the session, from its creation."
)


def get_owner(
    request: Request,
    services: Annotated[Services, Depends(get_services)],
    _bearer: Annotated[object, Security(_ACCESS_KEY)],
    _cookie: Annotated[object, Security(_ACCESS_COOKIE)],
) -> str:
    """The caller's owner name. Raises RequestError 401 where a key is needed and the caller has none. A link's cookie
    is left in ``request.state``; the gate sets it on whatever answer follows, because the link is spent even when its
    request is refused.
    """
    authorization = request.headers.get("authorization")
    owner = services.keys.owner(authorization, request.cookies.get(ACCESS_COOKIE), monotonic())
    if owner is not None:
        return owner
    key = bearer(authorization)
    if key is not None and (cookie := services.keys.redeem(key, monotonic())) is not None:
        request.state.access_cookie = cookie
        owner = services.keys.owner(None, cookie, monotonic())
        assert owner is not None
        return owner
    raise RequestError(
        "missing_key",
        "this server asks for an access key: open a link that it printed, or send Authorization: Bearer KEY",
        status=401,
    )


def get_session(
    session_id: str,
    request: Request,
    services: Annotated[Services, Depends(get_services)],
    _bearer: Annotated[object, Security(_SESSION_TOKEN)],
) -> Session:
    return services.sessions.get(session_id, bearer(request.headers.get("authorization")))


ServicesDep = Annotated[Services, Depends(get_services)]
OwnerDep = Annotated[str, Depends(get_owner)]
SessionDep = Annotated[Session, Depends(get_session)]
