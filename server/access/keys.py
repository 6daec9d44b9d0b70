"""API keys, session tokens and one-time access links: identification of a caller by headers and secrets."""

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from server.settings import Settings

ACCESS_COOKIE = "knotcast_access"
MAX_GUESTS = 1000
_GUEST = "link-"  # begins the name of every guest


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def new_token() -> str:
    """256 bits, safe in a URL and a header."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Guest:
    """A browser that opened a one-time link. owner: name under which its portraits are kept. expires: monotonic
    seconds."""

    owner: str
    expires: float


class AccessKeys:
    """The keys that open the API where a key is needed: configured ones, and the cookies that one-time links give.

    A link works once: its first use trades the token for a cookie, which names a guest of its own until it expires.
    ``link_used`` is set then, so that the next link can be made.
    """

    def __init__(self, settings: Settings) -> None:
        self._configured = {digest(key.get_secret_value()) for key in settings.api_keys}
        self.required = not settings.loopback or settings.public_url is not None or bool(self._configured)
        self._ttl = settings.link_ttl_s
        self._guests: dict[bytes, Guest] = {}  # by the cookie's digest, oldest first
        self._gone: list[str] = []
        self._link: bytes | None = None
        self.link_used = asyncio.Event()

    @property
    def uses_links(self) -> bool:
        return self.required and not self._configured

    def new_link(self) -> str:
        """Token of a new link. The link before it becomes void."""
        token = new_token()
        self._link = digest(token)
        return token

    def redeem(self, token: str, now: float) -> str | None:
        """Cookie in exchange for a link's token; each token works once. Beyond ``MAX_GUESTS`` the oldest guest is
        forgotten."""
        if self._link is None or not hmac.compare_digest(self._link, digest(token)):
            return None
        self._link = None
        self.link_used.set()
        cookie = new_token()
        self._guests[digest(cookie)] = Guest(f"{_GUEST}{secrets.token_hex(8)}", now + self._ttl)
        if len(self._guests) > MAX_GUESTS:
            self._gone.append(self._guests.pop(next(iter(self._guests))).owner)
        return cookie

    def owner(self, authorization: str | None, cookie: str | None, now: float) -> str | None:
        """Owner name of a caller: ``local`` where no key is needed, else derived from the key, or the guest's; None if
        unknown."""
        if not self.required:
            return "local"
        key = bearer(authorization)
        if key is not None and digest(key) in self._configured:
            return digest(key).hex()[:16]
        guest = None if cookie is None else self._guests.get(digest(cookie))
        return guest.owner if guest is not None and now < guest.expires else None

    def forget(self, now: float) -> list[str]:
        """Drop expired guests. Returns the owners that were dropped since the last call."""
        for cookie, guest in list(self._guests.items()):
            if guest.expires <= now:
                self._gone.append(self._guests.pop(cookie).owner)
        gone, self._gone = self._gone, []
        return gone


def is_guest(owner: str) -> bool:
    """Whether an owner is a guest, whom the server does not know after a restart."""
    return owner.startswith(_GUEST)


def bearer(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else None


def access_cookie_header(cookie: str, settings: Settings) -> str:
    """Set-Cookie for a link's cookie: for our pages only, unseen by scripts, kept as long as the guest is known."""
    age = max(1, int(settings.link_ttl_s))
    attributes = f"HttpOnly; Path={settings.root_path}/; SameSite=strict; Max-Age={age}"
    return f"{ACCESS_COOKIE}={cookie}; {attributes}" + ("; Secure" if settings.secure else "")
