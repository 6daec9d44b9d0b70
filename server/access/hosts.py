"""Host and Origin checks: the names, addresses and origins under which this server may be asked.

Pure functions of headers and settings; the middleware (server/http/middleware.py) applies them.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping

import ifaddr

from server.settings import Settings

_HOST = re.compile(r"(?P<name>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>\d{1,5}))?")


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
    """Names that a Host header may carry, in lower case. Any other may be a DNS rebinding attack and is refused."""
    names = {"localhost", "127.0.0.1", "[::1]", *settings.allowed_hosts}
    if not settings.loopback:
        names |= {bracket(address) for address in own_addresses()}
        names |= {socket.gethostname(), f"{socket.gethostname()}.local"}
        if settings.host not in ("0.0.0.0", "::"):
            names.add(bracket(settings.host))
    if settings.advertised_address is not None:
        names.add(bracket(settings.advertised_address))
    if settings.public_origin is not None:
        names.add(re.sub(r":\d+$", "", settings.public_origin.partition("://")[2]))
    return frozenset(name.lower() for name in names)


def host_is_allowed(host: str | None, names: frozenset[str]) -> bool:
    match = _HOST.fullmatch(host or "")
    return match is not None and match["name"].lower() in names


def origin_is_allowed(headers: Mapping[str, str], scheme: str, extra: Iterable[str]) -> bool:
    """Whether a request may change state: from our origin, a configured one, or without an Origin (not a page)."""
    origin = headers.get("origin")
    if origin is not None:
        return origin.lower() == f"{scheme}://{headers.get('host', '')}".lower() or origin in extra
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def bracket(address: str) -> str:
    return f"[{address}]" if ":" in address else address
