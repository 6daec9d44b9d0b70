"""API keys, session tokens and one-time access links: who calls, decided from headers and secrets."""

import asyncio
import hashlib
import hmac
import secrets

from server.settings import Settings

ACCESS_COOKIE = "knotcast_access"


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def new_token() -> str:
    """256 bits, safe in a URL and a header."""
    return secrets.token_urlsafe(32)


class AccessKeys:
    """The keys that open the API where a key is needed: configured ones, and those made by one-time links.

    A link works once: its first use trades the token for a cookie; ``link_used`` is set, so that the next can be made.
    """

    def __init__(self, settings: Settings) -> None:
        self._configured = {digest(key.get_secret_value()) for key in settings.api_keys}
        self.required = not settings.loopback or bool(self._configured)
        self._cookies: set[bytes] = set()
        self._link: bytes | None = None
        self.link_used = asyncio.Event()

    @property
    def uses_links(self) -> bool:
        return self.required and not self._configured

    def new_link(self) -> str:
        token = new_token()
        self._link = digest(token)
        return token

    def redeem(self, token: str) -> str | None:
        """The cookie for a link's token, once."""
        if self._link is None or not hmac.compare_digest(self._link, digest(token)):
            return None
        self._link = None
        self.link_used.set()
        cookie = new_token()
        self._cookies.add(digest(cookie))
        return cookie

    def owner(self, authorization: str | None, cookie: str | None) -> str | None:
        """Who calls: ``local`` where no key is needed, else the name of the key; None for nobody."""
        if not self.required:
            return "local"
        key = bearer(authorization)
        if key is not None and digest(key) in self._configured:
            return digest(key).hex()[:16]
        if cookie is not None and digest(cookie) in self._cookies:
            return "link"
        return None


def bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def access_cookie_header(cookie: str, *, secure: bool) -> str:
    """Set-Cookie for a link's cookie: until the browser is closed, for our pages only, unseen by scripts."""
    return f"{ACCESS_COOKIE}={cookie}; HttpOnly; Path=/; SameSite=strict" + ("; Secure" if secure else "")
