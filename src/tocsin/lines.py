"""Writes lines to a descriptor that may be slow, full or never read, without ever making the caller wait.

A thread of its own does the writing. Setting O_NONBLOCK instead would change the terminal or pipe for every other process that has it
open (https://man7.org/linux/man-pages/man2/fcntl.2.html: the flag belongs to the open file description).
"""

import contextlib
import os
import queue
import select
import threading
from collections.abc import Callable

MAX_WAITING_BYTES = 2 << 20  # 9,000 attempts, about a second at full speed; further lines are dropped
CLOSE_SECONDS = 2.0  # for waiting lines when the process ends
_AT_ONCE_BYTES = 64 << 10  # of one write
_LOOK_AGAIN_MS = 1000  # if somebody else made the descriptor non-blocking


class Lines:
    """Writes to `file` in the order in which they come. `say(n)`: the line, including its end, that reports n dropped ones."""

    def __init__(self, file: int, say: Callable[[int], bytes], max_bytes: int = MAX_WAITING_BYTES) -> None:
        self._file = file
        self._say = say
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._waiting = 0  # bytes
        self._unsaid = 0
        self._is_torn = False  # the last write ended in the middle of a line
        self.dropped = 0  # lines
        self._thread = threading.Thread(target=self._run, name="tocsin-lines", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Queue one or more whole lines, or drop them. Any thread may."""
        with self._lock:
            if self._waiting + len(data) > self._max_bytes:
                self._count(data)
                return
            self._waiting += len(data)
        self._queue.put(data)

    def close(self, seconds: float = CLOSE_SECONDS) -> bool:
        """Write the waiting lines, for at most this long; returns whether all were written. Later ones are dropped."""
        self._queue.put(None)
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _count(self, data: bytes) -> None:
        lines = data.count(b"\n")
        self.dropped += lines
        self._unsaid += lines

    # ------------------------------------------------------------------------------------------------ in the thread

    def _run(self) -> None:
        is_last = False
        while not is_last:
            pieces, is_last = self._take()
            data = b"".join(pieces)
            is_written = self._put(data)
            with self._lock:
                self._waiting -= len(data)
                if not is_written:
                    self._count(data)
                unsaid, self._unsaid = (self._unsaid, 0) if is_written else (0, self._unsaid)
            if unsaid and not self._put(self._say(unsaid)):
                with self._lock:
                    self._unsaid += unsaid

    def _take(self) -> tuple[list[bytes], bool]:
        """Some of the waiting lines, and whether they are the last."""
        pieces: list[bytes] = []
        piece = self._queue.get()
        size = 0
        with contextlib.suppress(queue.Empty):
            while piece is not None:
                pieces.append(piece)
                size += len(piece)
                if size >= _AT_ONCE_BYTES:
                    return pieces, False
                piece = self._queue.get_nowait()
            return pieces, True
        return pieces, False

    def _put(self, data: bytes) -> bool:
        """False: the disk is full, or nobody can read it any more."""
        view = memoryview(b"\n" + data if self._is_torn and data else data)
        while view:
            try:
                written = os.write(self._file, view)
            except BlockingIOError:
                self._wait()
                continue
            except OSError:
                return False
            self._is_torn = view[written - 1] != 0x0A
            view = view[written:]
        return True

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLOUT)
        poll.poll(_LOOK_AGAIN_MS)


def open_standard_files() -> None:
    """Give standard input, output and error that were closed before the start to /dev/null, so that no store ever takes their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number: this one
