"""Who may call: names and origins that are ours, keys, session tokens, and a certificate for a local network.

Decisions are pure functions of headers and secrets; the middleware (server/middleware.py) and routes apply them.
"""

import asyncio
import datetime
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import ifaddr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from server.settings import Settings

ACCESS_COOKIE = "knotcast_access"
_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def new_token() -> str:
    """256 bits, safe in a URL and a header."""
    return secrets.token_urlsafe(32)


def own_addresses() -> list[str]:
    """This machine's addresses, loopback left out, link-local IPv6 too (it needs a zone to be reached)."""
    found: list[str] = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            address = ipaddress.ip_address(text.split("%")[0])
            if not address.is_loopback and not address.is_link_local and text not in found:
                found.append(text)
    return found


def allowed_host_names(settings: Settings) -> frozenset[str]:
    """The names a Host header may carry, in lower case: everything else may be a rebound name and is refused."""
    names = {"localhost", "127.0.0.1", "[::1]", *settings.allowed_hosts}
    if not settings.loopback:
        names |= {_bracket(address) for address in own_addresses()}
        names |= {socket.gethostname(), f"{socket.gethostname()}.local"}
        if settings.host not in ("0.0.0.0", "::"):
            names.add(_bracket(settings.host))
    if settings.advertised_address is not None:
        names.add(_bracket(settings.advertised_address))
    return frozenset(name.lower() for name in names)


def host_is_allowed(host: str | None, names: frozenset[str]) -> bool:
    match = _HOST.fullmatch(host or "")
    return match is not None and match["name"].lower() in names


def origin_is_allowed(headers: Mapping[str, str], scheme: str, extra: Iterable[str]) -> bool:
    """A browser's page may change state only from our origin or a configured one; without Origin it is no page."""
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower() == f"{scheme}://{headers.get('host', '')}".lower() or origin in extra
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


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


def self_signed_certificate(settings: Settings) -> tuple[Path, Path, str]:
    """A certificate for this machine's names, valid 30 days: paths of certificate and key, SHA-256 to compare."""
    names: list[x509.GeneralName] = []
    for name in sorted(allowed_host_names(settings)):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(name.strip("[]"))))
        except ValueError:
            names.append(x509.DNSName(name))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "knotcast")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = Path(tempfile.mkdtemp(prefix="knotcast-tls-"))  # 0700
    cert_path, key_path = folder / "certificate.pem", folder / "key.pem"
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_path.touch(mode=0o600)
    key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    return cert_path, key_path, certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def _bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address
