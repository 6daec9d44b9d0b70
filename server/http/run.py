"""Server process: listening sockets, TLS certificate, start-up messages, shutdown on SIGINT and SIGTERM."""

import asyncio
import contextlib
import logging
import ssl
import sys
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from server.access.certificate import self_signed_certificate, server_context
from server.access.hosts import own_addresses
from server.http.app import create_app
from server.http.connections import PromptProtocol, PromptTLS
from server.http.services import Services
from server.http.sockets import bound_sockets
from server.settings import Settings

SHUTDOWN_S = 5


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM. Raises AvatarError when a socket, a folder or the engine cannot be had."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    for noisy in ("aiortc", "aioice", "uvicorn"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    with bound_sockets(settings.host, settings.port) as sockets:
        fingerprint, context = None, None
        if settings.tls == "self-signed":
            certificate, key, fingerprint = self_signed_certificate(settings)
            context = server_context(certificate, key)
        app = create_app(settings)
        services: Services = app.state.services
        server = _Server(http_config(app, settings, context), services, settings, fingerprint)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything has been shut down
            server.run(sockets)
    if services.engine_error is not None:
        raise services.engine_error


def http_config(app: FastAPI, settings: Settings, context: ssl.SSLContext | None) -> uvicorn.Config:
    """context: TLS. It is kept from uvicorn, which would count a connection only after its handshake."""
    protocol = PromptProtocol if context is None else cast(type[asyncio.Protocol], partial(PromptTLS, context))
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="asyncio",
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,  # paths hold secrets, such as a preview's key
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        timeout_keep_alive=10,
    )


class _Server(uvicorn.Server):
    """Uvicorn server that prints its address once it listens, and another line when the engine is ready."""

    def __init__(self, config: uvicorn.Config, services: Services, settings: Settings, fingerprint: str | None) -> None:
        super().__init__(config)
        self._services, self._settings, self._fingerprint = services, settings, fingerprint
        self._announcer: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        if not self.should_exit:
            self._announcer = asyncio.create_task(self._announce(), name="announce")

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        if self._announcer is not None:
            self._announcer.cancel()
        await super().shutdown(sockets)  # type: ignore[arg-type]

    async def _announce(self) -> None:
        say(f"knotcast listens on {self._address()} and is loading the model {self._settings.model!r} ...")
        while not self._services.ready:
            if self._services.engine_error is not None:
                self.should_exit = True  # ``serve`` says why
                return
            await asyncio.sleep(0.05)
        self._invite()
        while self._services.keys.uses_links:
            await self._services.keys.link_used.wait()
            self._services.keys.link_used.clear()
            say(f"That link has been used. For one more browser: {self._link()}")

    def _invite(self) -> None:
        info = self._services.pool.info
        say(f"Ready: {info.name} on {info.device}, {info.width}x{info.height} at {info.fps} frames a second.")
        keys = self._services.keys
        if keys.uses_links:
            say(f"Open this link; it works once:\n\n    {self._link()}\n")
        else:
            say(f"Open {self._address()} in a browser, choose a photograph of a face, and press Call.")
        if keys.required and not keys.uses_links:
            say("Requests need one of the configured keys: Authorization: Bearer KEY.")
        if self._fingerprint is not None:
            say("The certificate is our own, so the browser will warn. Compare its SHA-256 before you go on:")
            say(f"    {self._fingerprint}")
        elif not self._settings.loopback and not self._settings.secure:
            say("Without TLS, browsers on other machines give no microphone: --tls self-signed.")
        say("Ctrl+C ends it.")

    def _link(self) -> str:
        return f"{self._address()}/#key={self._services.keys.new_link()}"

    def _address(self) -> str:
        settings = self._settings
        if settings.public_url is not None:
            return settings.public_url
        host = settings.advertised_address or settings.host
        if host in ("0.0.0.0", "::"):
            host = next(iter(own_addresses()), "127.0.0.1")
        port = self.servers[0].sockets[0].getsockname()[1]
        scheme = "https" if settings.tls != "off" else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def say(line: str) -> None:
    print(line, flush=True)
