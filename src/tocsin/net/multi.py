"""libcurl's transfers on an asyncio event loop, through its multi-socket interface. Works on uvloop and on asyncio's own loop.

libcurl's sockets sit in an epoll of their own, and the loop watches only that: with many hosts this costs a sixth less per request
than a reader and a writer on the loop for each socket. https://curl.se/libcurl/c/libcurl-multi.html

Idle connections stay in the epoll. libcurl looks whether a connection is still alive only if it was idle for a second, so one
that the other side closed within that second is shut down here: a request that libcurl puts on it then fails before a byte is out.
"""

import asyncio
import contextlib
import functools
import resource
import select
import socket
import time
from typing import Protocol

import pycurl

_IDLE = select.EPOLLIN | select.EPOLLRDHUP
_EVENTS = {
    pycurl.POLL_IN: _IDLE,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: _IDLE | select.EPOLLOUT,
}
_BROKEN = select.EPOLLERR | select.EPOLLHUP
_CLOSED = _BROKEN | select.EPOLLRDHUP
_EVENTS_AT_ONCE = 16
_MAX_SECONDS = 0.01  # on the loop at a time: a TLS handshake takes a millisecond
_IDLE_CONNECTIONS = 2000
_LOOK_SECONDS = 0.5  # between checks for answers whose body does not end
_GAP_SECONDS = 0.25  # a timer this late means that the process was stopped, or something held up the loop


class Transfer(Protocol):
    """A request under way, as `Multi` knows it."""

    curl: pycurl.Curl

    def ended(self, code: int) -> None:
        """Called with libcurl's result code, 0 for success, never within a call to `Multi`. Must not raise."""
        ...

    def relieve(self) -> float:
        """Remove libcurl's time limits. Returns the seconds that it may still take."""
        ...

    def is_answered(self, now: float) -> bool:
        """Whether everything worth waiting for in the answer is there. `now`: of time.monotonic()."""
        ...


class Multi:
    """One set of transfers with one cache of connections, bound to the running loop."""

    def __init__(self, idle_share: float) -> None:
        """`idle_share`: the share of the process's descriptors for idle connections. Raises OSError, pycurl.error."""
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._busy: set[int] = set()  # sockets that libcurl waits for
        self._registered: dict[int, int] = {}  # what the epoll waits for, for sockets reported to `opened`
        self._waiting: dict[pycurl.Curl, Transfer] = {}
        self._relieved: dict[pycurl.Curl, asyncio.TimerHandle] = {}  # transfers that outlasted a gap, with their new deadlines
        self._is_closed = False
        self._due: float | None = None  # when libcurl wants to be called, on time.monotonic(): loop.time() may lag behind on uvloop
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0  # uvloop gives a handle without `when` if the time is less than half a millisecond away
        self._soon: asyncio.Handle | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._to_shed: int | None = None  # how many idle connections may still be closed in this turn of the loop
        self._multi = pycurl.CurlMulti()
        self._add, self._remove = self._multi.add_handle, self._multi.remove_handle  # pycurl takes long to find its own methods
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._watch)
        self._multi.setopt(pycurl.M_MAXCONNECTS, _most_idle(idle_share))
        self._loop.add_reader(self._epoll.fileno(), self._on_sockets)

    def start(self, transfer: Transfer) -> None:
        """Begin a transfer, which is told when it ends."""
        if self._is_closed:
            self._loop.call_soon(transfer.ended, pycurl.E_ABORTED_BY_CALLBACK)
        else:
            self._add(transfer.curl)
            self._waiting[transfer.curl] = transfer
            if self._looking is None:
                self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)
            self._act_soon()

    def opened(self, fd: int) -> None:
        """libcurl has opened this socket, so what was known under its number belonged to one that is closed.

        Nothing is remembered of sockets that are not reported here.
        """
        self._registered[fd] = 0

    def abort(self, curl: pycurl.Curl) -> None:
        """End a transfer that nobody waits for any more; its connection is closed."""
        if self._waiting.pop(curl, None) is not None:
            self._forget_relief(curl)
            self._remove(curl)

    def shed(self) -> bool:
        """Descriptors are short: the next connection that is opened closes the oldest idle one; False if none is idle.

        At most half of the idle ones are closed in one turn of the loop.
        """
        if self._to_shed is None:
            idle = sum(self._is_open(fd) for fd in self._registered if fd not in self._busy)
            self._to_shed = (idle + 1) // 2
            if idle:
                # libcurl closes idle connections before it opens one above this number: two at first, because pycurl copies each socket.
                self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, max(1, len(self._busy) + idle - 1))
            self._act_soon()
        if not self._to_shed:
            return False
        self._to_shed -= 1
        return True

    def _is_open(self, fd: int) -> bool:
        try:
            self._epoll.modify(fd, self._registered[fd])
        except OSError:
            return False
        return True

    def cut(self) -> None:
        """End the transfers that are under way, as aborted."""
        for curl in list(self._waiting):
            self._end(curl, pycurl.E_ABORTED_BY_CALLBACK)

    def close(self) -> None:
        """Close every connection; cuts what is under way."""
        if self._is_closed:
            return
        self._is_closed = True
        self.cut()
        self._multi.close()
        for handle in (self._timer, self._soon, self._looking):
            if handle:
                handle.cancel()
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _watch(self, what: int, fd: int, _multi: object, _data: object) -> None:
        """libcurl says what it wants to know about a socket. POLL_REMOVE: it is idle now, or about to be closed."""
        # A reused socket nearly always waits for the same events already, which saves a system call.
        if what == pycurl.POLL_REMOVE:
            self._busy.discard(fd)
            if self._registered.get(fd, _IDLE) != _IDLE:
                self._register(fd, _IDLE)
        else:
            self._busy.add(fd)
            if self._registered.get(fd) != (events := _EVENTS.get(what, 0)):
                self._register(fd, events)

    def _register(self, fd: int, events: int) -> None:
        if fd in self._registered:
            self._registered[fd] = events
        try:
            self._epoll.modify(fd, events)
        except FileNotFoundError:
            self._epoll.register(fd, events)

    def _on_sockets(self) -> None:
        self._mind_a_gap()
        self._act_on_sockets()
        self._set_timer()

    def _act_on_sockets(self) -> None:
        act = self._multi.socket_action
        running = len(self._waiting)
        until = time.monotonic() + _MAX_SECONDS
        while True:
            events = self._epoll.poll(0, _EVENTS_AT_ONCE)
            for fd, event in events:
                if fd in self._busy:
                    _, running = act(fd, _mask(event))
                else:
                    self._on_idle_socket(fd, event)
            if len(events) < _EVENTS_AT_ONCE or time.monotonic() > until:  # the loop calls again if there is more
                break
        if running < len(self._waiting):
            self._collect()

    def _on_idle_socket(self, fd: int, event: int) -> None:
        with contextlib.suppress(OSError):  # libcurl may have closed it just now
            if not event & _CLOSED:
                self._register(fd, select.EPOLLRDHUP)  # libcurl reads what came when it uses the connection again
                return
            self._registered.pop(fd, None)
            self._epoll.unregister(fd)
            idle = socket.socket(fileno=fd)
            try:
                idle.shutdown(socket.SHUT_RDWR)
            finally:
                idle.detach()

    def _act_soon(self) -> None:
        if self._soon is None:
            self._soon = self._loop.call_soon(self._on_soon)

    def _set_timer(self) -> None:
        """libcurl's one timer. It moves with nearly every request, so libcurl is asked for it after many instead of calling back
        for each, and a running one may fire early rather than be set again."""
        wait_ms = self._multi.timeout()
        if wait_ms < 0:
            self._due = None
            return
        self._due = time.monotonic() + wait_ms / 1000
        if wait_ms == 0:
            self._act_soon()
        elif self._timer is None or self._timer_due > self._due:
            self._set_alarm(wait_ms / 1000)

    def _set_alarm(self, seconds: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer_due = time.monotonic() + seconds
        self._timer = self._loop.call_later(seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._due is None:
            return
        early = self._due - time.monotonic()
        if early > 0:
            self._set_alarm(early)
            return
        self._mind_a_gap()
        self._act_on_time()
        self._set_timer()

    def _mind_a_gap(self) -> None:
        """If the loop was stopped, transfers under way get their time once more before libcurl sees the clock: it would time a
        request out without a look at the answer that is waiting in its socket."""
        if self._due is None or time.monotonic() - self._due < _GAP_SECONDS:
            return
        for curl, transfer in self._waiting.items():
            if curl not in self._relieved:
                self._relieved[curl] = self._loop.call_later(transfer.relieve(), self._end, curl, pycurl.E_OPERATION_TIMEDOUT)

    def _forget_relief(self, curl: pycurl.Curl) -> None:
        if self._relieved and (alarm := self._relieved.pop(curl, None)):
            alarm.cancel()

    def _on_soon(self) -> None:
        self._soon = None
        is_shedding = self._to_shed is not None
        self._mind_a_gap()
        self._act_on_sockets()  # so that libcurl learns which connections were closed before it picks one for a new request
        self._act_on_time()
        if is_shedding:
            self._to_shed = None
            self._multi.setopt(pycurl.M_MAX_TOTAL_CONNECTIONS, 0)
        self._set_timer()

    def _act_on_time(self) -> None:
        _, running = self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        if running < len(self._waiting):
            self._collect()

    def _look(self) -> None:
        """End transfers whose answer lacks only a body that does not end. Checking now and then costs less than a call per header line."""
        self._looking = None
        now = time.monotonic()
        for curl, transfer in list(self._waiting.items()):
            if transfer.is_answered(now):
                self._end(curl, pycurl.E_OPERATION_TIMEDOUT)
        if self._waiting:
            self._looking = self._loop.call_later(_LOOK_SECONDS, self._look)

    def _collect(self) -> None:
        _, done, failed = self._multi.info_read()
        for curl in done:
            self._end(curl, 0)
        for curl, code, _ in failed:
            self._end(curl, code)

    def _end(self, curl: pycurl.Curl, code: int) -> None:
        transfer = self._waiting.pop(curl, None)
        if transfer is not None:
            self._forget_relief(curl)
            self._remove(curl)
            transfer.ended(code)


def _most_idle(share: float) -> int:
    return max(1, min(_IDLE_CONNECTIONS, int(resource.getrlimit(resource.RLIMIT_NOFILE)[0] * share)))


@functools.cache
def _mask(event: int) -> int:
    """An epoll event as libcurl's bit mask."""
    found = pycurl.CSELECT_IN if event & select.EPOLLIN else 0
    found |= pycurl.CSELECT_OUT if event & select.EPOLLOUT else 0
    return found | (pycurl.CSELECT_ERR if event & _BROKEN else 0)
