"""The port that a test keeps for a server of its own."""

import errno
import socket

import pytest


def test_a_held_port_is_given_to_nobody_else_and_servers_may_come_and_go(own_port: int) -> None:
    address = ("127.0.0.1", own_port)
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)
        with socket.socket() as other, pytest.raises(OSError) as refused:
            other.bind(address)  # what the kernel asks before it gives a port to a connection
        assert refused.value.errno == errno.EADDRINUSE
        with socket.create_server(address) as server, socket.create_connection(address) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
