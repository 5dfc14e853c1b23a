"""Loopback ports for servers whose address has to be known before they start."""

from collections.abc import Iterator
from contextlib import contextmanager
from socket import SO_REUSEADDR, SOL_SOCKET, socket


@contextmanager
def held_port() -> Iterator[int]:
    """A free port that nobody else is given until the end; a server that sets SO_REUSEADDR, as they all do, can listen on it."""
    with socket() as holder:
        holder.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
