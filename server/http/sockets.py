"""Listening sockets of the server, bound before anything else is started."""

import contextlib
import errno
import socket
from collections.abc import Iterator

from ground.errors import RequestError

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # a name may have an address of a family that is switched off


@contextlib.contextmanager
def bound_sockets(host: str, port: int) -> Iterator[list[socket.socket]]:
    """One socket for each address of ``host``, closed at the end. port: 0 for any free one, the same for all.

    Raises RequestError ``cannot_listen``.
    """
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        reason = ""
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(found):
                try:
                    one = stack.enter_context(_bound(family, (address[0], port, *address[2:])))
                except OSError as error:
                    if error.errno not in _NOT_HERE:
                        raise
                    reason = error.strerror or str(error)
                    continue
                sockets.append(one)
                port = one.getsockname()[1]
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            sockets = []
        if not sockets:
            raise RequestError("cannot_listen", f"cannot listen on {host} port {port}: {reason}", param="port")
        yield sockets


def _bound(family: int, address: tuple[object, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(address)
    except OSError:
        one.close()
        raise
    return one
