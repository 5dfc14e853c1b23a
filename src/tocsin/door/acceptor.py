"""Takes connections from a listening socket, as many as there is room for; the others wait in the kernel's backlog.

The loops' own servers cannot be told to wait: without descriptors uvloop's closes what it accepts or stops listening for good, and
asyncio's writes to the log once a second. https://github.com/libuv/libuv/blob/v1.x/src/unix/stream.c (uv__emfile_trick)
"""

import asyncio
import errno
import socket
from collections.abc import Callable

from tocsin.door.incoming import Incoming
from tocsin.door.register import FRESH_SECONDS, Register

MAX_AT_ONCE = 64  # connections accepted before others get their turn on the loop
REST_SECONDS = 0.5  # after a shortage that no closed connection of ours ends
_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Of one listening socket, with the `close` and `wait_closed` that uvicorn calls on a server."""

    def __init__(self, listener: socket.socket, register: Register, make_protocol: Callable[[], Incoming]) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._register = register
        self._make_protocol = make_protocol
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._resume()

    def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self._listener.fileno())

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._coming, return_exceptions=True)

    def _accept(self) -> None:
        register = self._register
        for number in range(MAX_AT_ONCE):
            if not register.has_room():
                # A readable socket means that one connection waits, not that there are more, so room is made for one at a time.
                if number == 0 and not register.make_room():
                    self._pause(FRESH_SECONDS)  # everybody has a request in progress, or may be about to send one
                    register.call_when_room(self._resume)
                    register.say("connections.full", limit=register.rules.connections)
                if number or not register.has_room():
                    return
            try:
                accepted, _ = self._listener.accept()
            except OSError as error:
                # Any other error concerns this one connection, or means that there is none. https://man7.org/linux/man-pages/man2/accept.2.html
                if error.errno in _SHORTAGE:
                    self._lacks(error)
                return
            register.expect(1)
            task = self._loop.create_task(self._begin(accepted))
            self._coming.add(task)
            task.add_done_callback(self._coming.discard)

    async def _begin(self, accepted: socket.socket) -> None:
        accepted.setblocking(False)
        protocol = self._make_protocol()
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError:  # the client is gone already
            accepted.close()
            if not protocol.has_begun:
                self._register.expect(-1)

    def _lacks(self, error: OSError) -> None:
        """No descriptor or no memory: close an idle connection and look again later, since the socket stays readable."""
        self._register.say("connections.not_accepted", error=errno.errorcode.get(error.errno or 0, "?"))
        self._register.make_room()
        self._pause(REST_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Leave connections in the backlog for at most this long."""
        self._loop.remove_reader(self._listener.fileno())
        self._timer = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._is_closed:
            self._loop.add_reader(self._listener.fileno(), self._accept)
