"""Logs: events, and one structured line per attempt. No line holds a secret or a URL."""

import asyncio
import contextlib
import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TextIO

import msgspec
import structlog
from msgspec import Struct, structs

from tocsin.clock import SECOND
from tocsin.lines import Lines
from tocsin.model import Attempt, Delivery, Status
from tocsin.settings import Settings

LINES_LINGER_SECONDS = 0.05
SELDOM_SECONDS = 60.0


def set_up_logs(settings: Settings) -> None:
    """Structured lines on standard error: JSON, or coloured text on a terminal. Libraries log only when something is wrong.

    From here until `close_logs` nothing that writes to standard error waits for its reader, including tracebacks and prints.
    """
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    is_terminal = sys.stderr.isatty()
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and is_terminal)
    if as_text:  # the plain traceback: others print local variables, secrets too
        console = structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=structlog.dev.plain_traceback)
        renderers: list[Any] = [console, _to_bytes]
    else:
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_encode)]
    _standard_error.open(sys.stderr, _say_dropped_as_text if as_text else _say_dropped)
    structlog.configure(
        processors=[structlog.processors.add_log_level, _add_time, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Logger,
        cache_logger_on_first_use=True,
    )
    _attempt_lines.is_quick = not as_text
    _attempt_lines.is_wanted = level <= logging.INFO
    sys.stderr = _standard_error
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True)


def close_logs() -> None:
    """Write waiting lines, within `lines.CLOSE_SECONDS`; before the process ends."""
    flush_logs()
    _standard_error.close()


def lines_dropped() -> int:
    """How many lines of the log could not be written since the start."""
    return _standard_error.dropped


class _StandardError(io.TextIOBase):
    """Standard error as a stream that never blocks. Before `open` and after `close` it drops what it is given."""

    def __init__(self) -> None:
        self._lines: Lines | None = None
        self._real: TextIO | None = None
        self._part = ""
        self._lock = threading.RLock()  # a signal handler that prints may interrupt a thread

    def open(self, real: TextIO, say: Callable[[int], bytes]) -> None:
        if self._lines is None:
            self._real = real
            self._lines = Lines(real.fileno(), say)

    def close(self) -> None:
        if self._lines is None:
            return
        self.write("" if not self._part else "\n")
        if self._lines.close() and self._real is not None:
            sys.stderr = self._real  # otherwise it would swallow the interpreter's last messages
        self._lines = None

    @property
    def dropped(self) -> int:
        return self._lines.dropped if self._lines is not None else 0

    def put(self, data: bytes) -> None:
        """Whole lines."""
        if self._lines is not None:
            self._lines.write(data)

    def write(self, text: str, /) -> int:
        """Text as it comes from print and tracebacks, in pieces: it goes line by line."""
        with self._lock:
            whole, end, self._part = (self._part + text).rpartition("\n")
        if end:
            self.put((whole + end).encode("utf-8", "backslashreplace"))
        return len(text)

    def fileno(self) -> int:
        return 2 if self._real is None else self._real.fileno()

    def isatty(self) -> bool:
        return self._real is not None and self._real.isatty()

    def writable(self) -> bool:
        return True


def _say_dropped(count: int) -> bytes:
    event = {"lines": count, "event": "log.dropped", "level": "warning", "time": _clock(int(time.time()))}
    return _ENCODER.encode(event) + b"\n"


def _say_dropped_as_text(count: int) -> bytes:
    return f"{_clock(int(time.time()))} [warning  ] log.dropped lines={count}\n".encode()


_standard_error = _StandardError()


class _Logger:
    """Where structlog's lines go. Lines that cannot be written are dropped and counted: deliveries continue without their log."""

    def __init__(self, *_: Any) -> None:
        pass

    def msg(self, line: bytes) -> None:
        _standard_error.put(line + b"\n")

    log = debug = info = warning = error = critical = exception = msg


def _add_time(_: Any, __: str, event: Any) -> Any:
    event["time"] = _clock(int(time.time()))
    return event


@lru_cache(maxsize=2)
def _clock(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(second))


_ENCODER = msgspec.json.Encoder(enc_hook=repr)


def _encode(value: Any, **_: Any) -> bytes:
    return _ENCODER.encode(value)


def _to_bytes(_: Any, __: str, line: str) -> bytes:
    return line.encode("utf-8", "replace")


class _Line(Struct, gc=False):
    """The one line per attempt: everything needed to find it again, nothing secret. Seconds and words of our own, `ms` of the exchange."""

    time: str
    delivery: int
    handler: int
    type: str
    number: int
    outcome: str
    reason: str
    status: str
    code: int | None
    ms: float
    next_seconds: float | None
    event: str = "attempt"
    level: str = "info"


class _AttemptLines:
    """On the hot path, so many lines are written at once: structlog and a system call per line cost ten times as much."""

    def __init__(self) -> None:
        self.is_quick = False
        self.is_wanted = True
        self._log = structlog.get_logger("tocsin.attempt")
        self._lines: list[_Line] = []

    def write(self, channel: str, attempts: Sequence[tuple[Delivery, Attempt]]) -> None:
        """`attempts`: the delivery after the attempt, and the attempt."""
        if not self.is_wanted:
            return
        now = _clock(int(time.time()))
        lines = [
            _Line(
                now,
                delivery.id,
                delivery.handler_id,
                channel,
                attempt.number,
                attempt.outcome,
                attempt.reason._value_,
                _WORDS[delivery.status],
                attempt.status_code,
                attempt.duration_us / 1000,
                None if attempt.next_at is None else (attempt.next_at - attempt.at) / SECOND,
            )
            for delivery, attempt in attempts
        ]
        if not self.is_quick:
            for line in lines:
                self._log.info(**structs.asdict(line))
            return
        if not self._lines:
            asyncio.get_running_loop().call_later(LINES_LINGER_SECONDS, self.flush)
        self._lines += lines

    def flush(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            _standard_error.put(_ENCODER.encode_lines(lines))


_WORDS = {status: status.word for status in Status}
_attempt_lines = _AttemptLines()
log_attempts = _attempt_lines.write


def flush_logs() -> None:
    """Write lingering lines; before the process ends."""
    _attempt_lines.flush()
    seldom.flush()


# --------------------------------------------------------------------------------------------------- lines that may repeat


class Seldom:
    """For lines about a fault that may come back thousands of times a second. Any thread may write."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._written_at: dict[str, float] = {}
        self._held: dict[str, tuple[Callable[..., Any], dict[str, Any], int]] = {}

    def __call__(self, write: Callable[..., Any], event: str, **values: Any) -> None:
        """Write the line, but at most once in `SELDOM_SECONDS` for the same event.

        `write`: a method of a logger, such as `log.warning`; for a traceback pass `exc_info=error`. Repeats in between are reported by one
        line at the end of that time: the last of them, with their number in `times`.
        """
        with self._lock:
            _, _, times = self._held.get(event, (None, None, 0))
            written_at = self._written_at.get(event)
            if written_at is not None and self._clock() - written_at < SELDOM_SECONDS:
                self._held[event] = (write, values, times + 1)
                wait = None if times else SELDOM_SECONDS - (self._clock() - written_at)
            else:
                self._held.pop(event, None)
                self._written_at[event] = self._clock()
                write(event, **({"times": times + 1} if times else {}), **values)
                return
        if wait is not None:
            with contextlib.suppress(RuntimeError):  # no event loop in this thread: the next line says it
                asyncio.get_running_loop().call_later(wait, self.release, event)

    def release(self, event: str) -> None:
        """Write the line that was held back for an event."""
        with self._lock:
            held = self._held.pop(event, None)
            if held is not None:
                write, values, times = held
                self._written_at[event] = self._clock()
                write(event, times=times, **values)

    def flush(self) -> None:
        """Write all lines that were held back; before the process ends."""
        for event in list(self._held):
            self.release(event)


seldom = Seldom()
