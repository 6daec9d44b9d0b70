"""ICE policy: the addresses and ports that are offered and accepted, and a guard between ICE and DTLS.

aioice 0.13 leaves loopback out, has no port range, and passes every non-STUN datagram up, whatever its source. The
policy is installed on each connection object; the library is not changed.
"""

import asyncio
import ipaddress
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aioice import ice
from aioice.candidate import Candidate, candidate_foundation, candidate_priority

from server.access.hosts import own_addresses
from server.settings import Settings

logger = logging.getLogger(__name__)

_SOCKET_BUFFER = 1 << 20  # bytes
_PORT_TRIES = 64  # random ports of the range that are tried for one socket
_MAX_CHECKED = 64  # addresses remembered as having answered a check


@dataclass(frozen=True, slots=True)
class IcePolicy:
    """Addresses and ports of this server, and the remote candidates it accepts.

    local: addresses that sockets are bound to. loopback: only this machine may call. advertised: address to put into
    candidates in place of a bound one of the same family (1:1 NAT), or None. ports: inclusive range, or None for any.
    """

    local: tuple[str, ...]
    loopback: bool
    advertised: str | None
    ports: tuple[int, int] | None

    @classmethod
    def from_settings(cls, settings: Settings) -> "IcePolicy":
        """A server on loopback offers 127.0.0.1 first and then the machine's other addresses, because some browsers
        pair loopback candidates only with each other. It drops datagrams from other machines."""
        others = tuple(own_addresses())
        local = ("127.0.0.1", *others) if settings.loopback else others or ("127.0.0.1",)
        ports = (max(1, settings.udp_port_min), settings.udp_port_max) if settings.udp_port_max else None
        return cls(local, settings.loopback, settings.advertised_address, ports)

    def accepts(self, host: str, port: int) -> bool:
        """Whether to send checks to this remote candidate, so that a stranger's offer cannot make the server scan a
        network."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False  # an mDNS name: resolving one may take a second, and the browser's own checks connect anyway
        if not 1024 <= port < 65_536 or address.is_multicast or address.is_unspecified:
            return False
        if self.loopback:
            return address.is_loopback or host in self.local
        if address.is_loopback or address.is_link_local or address.is_reserved:
            return False
        return address.is_global or not self._public

    @property
    def _public(self) -> bool:
        """The server is reachable from the internet, so offers must not point it at the networks behind it. A caller in
        those still connects by its own checks."""
        own = self.local if self.advertised is None else (*self.local, self.advertised)
        return any(ipaddress.ip_address(address).is_global for address in own)


class GuardedProtocol(ice.StunProtocol):
    """Datagram endpoint that passes media and DTLS up only from addresses that answered a connectivity check."""

    def __init__(self, connection: ice.Connection, policy: IcePolicy, heard: Callable[[], None]) -> None:
        super().__init__(connection)
        self._policy, self._heard = policy, heard
        self._trusted: set[tuple[str, int]] = set()

    def datagram_received(self, data: bytes | str, addr: tuple[object, ...]) -> None:
        assert isinstance(data, bytes)
        source = (str(addr[0]), int(str(addr[1])))
        if self._policy.loopback and source not in self._trusted and not self._policy.accepts(*source):
            return
        if data and data[0] < 4:  # STUN (RFC 7983)
            super().datagram_received(data, addr)
            return
        if source not in self._trusted and not self._has_answered(source):
            return
        self._heard()
        self.receiver.data_received(data, self.local_candidate.component)

    def _has_answered(self, source: tuple[str, int]) -> bool:
        pairs = self.receiver._check_list
        if any(pair.state == ice.CandidatePair.State.SUCCEEDED and pair.remote_addr == source for pair in pairs):
            if len(self._trusted) < _MAX_CHECKED:
                self._trusted.add(source)
            return True
        return False


def govern(connection: ice.Connection, policy: IcePolicy, heard: Callable[[], None]) -> None:
    """Make this connection gather candidates under ``policy``, and call ``heard`` for each media or DTLS datagram from
    its peer."""

    async def gather(component: int, addresses: list[str], timeout: int = 5) -> list[Candidate]:
        candidates = []
        for rank, address in enumerate(policy.local):
            protocol = await _bind(connection, policy, address, heard)
            if protocol is None:
                continue
            shown = address
            if policy.advertised is not None and ("." in policy.advertised) == ("." in address):
                shown = policy.advertised
            local = protocol.transport.get_extra_info("sockname")
            protocol.local_candidate = Candidate(
                foundation=candidate_foundation("host", "udp", address),
                component=component,
                transport="udp",
                priority=candidate_priority(component, "host", max(1, 65535 - rank)),
                host=shown,
                port=local[1],
                type="host",
            )
            connection._protocols.append(protocol)
            candidates.append(protocol.local_candidate)
        # Host candidates only: STUN and TURN are the browser's business, and ``advertised`` is the public address.
        return candidates

    replacement: Callable[..., Awaitable[list[Candidate]]] = gather
    connection.get_component_candidates = replacement  # type: ignore[method-assign, assignment]


async def _bind(
    connection: ice.Connection, policy: IcePolicy, address: str, heard: Callable[[], None]
) -> GuardedProtocol | None:
    loop = asyncio.get_running_loop()
    for port in _ports(policy):
        try:
            transport, protocol = await loop.create_datagram_endpoint(
                lambda: GuardedProtocol(connection, policy, heard), local_addr=(address, port)
            )
        except OSError:
            continue
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER)
        return protocol
    family = "ipv6" if ":" in address else "ipv4"
    logger.warning("no UDP port could be bound family=%s; widen KNOTCAST_UDP_PORT_MIN to KNOTCAST_UDP_PORT_MAX", family)
    return None


def _ports(policy: IcePolicy) -> list[int]:
    if policy.ports is None:
        return [0]
    ports = range(policy.ports[0], policy.ports[1] + 1)
    return random.sample(ports, min(len(ports), _PORT_TRIES))
