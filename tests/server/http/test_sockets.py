"""Listening sockets: bound once for every address of a name, or refused in words."""

import socket

import pytest

from ground.errors import RequestError
from server.http.sockets import bound_sockets


def test_a_free_port_is_the_same_for_every_address() -> None:
    with bound_sockets("localhost", 0) as sockets:
        ports = {one.getsockname()[1] for one in sockets}
        assert len(ports) == 1 and 0 not in ports
    assert all(one.fileno() == -1 for one in sockets)


@pytest.mark.parametrize(
    ("host", "words"), [("127.0.0.1", "in use"), ("203.0.113.1", "assign"), ("nowhere.invalid", "known"), ("a..b", "")]
)
def test_what_cannot_be_bound_is_told(host: str, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RequestError) as refused, bound_sockets(host, port):
            pass
    assert f"cannot listen on {host} port {port}: " in refused.value.message and words in refused.value.message
