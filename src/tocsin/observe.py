"""What can be seen from outside: metric names, log events, one structured line per attempt.

No label names a user or a handler; no line holds a secret or a URL.
"""

import asyncio
import contextlib
import io
import logging
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, TextIO

import msgspec
import structlog
from msgspec import Struct, structs
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from tocsin import __version__
from tocsin.clock import SECOND, Micros
from tocsin.lines import Lines
from tocsin.model import Attempt, Delivery, Reason, Status
from tocsin.settings import Settings

PATIENCE_SECONDS = 0.2  # for numbers from the store
LINES_LINGER_SECONDS = 0.05
SELDOM_SECONDS = 60.0
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400)
_BUCKETS = tuple(int(seconds * SECOND) for seconds in LATENCY_BUCKETS)


class Metrics(Collector):
    """The service's numbers, in the Prometheus text format.

    Counting adds to a dict; prometheus-client's own counters take a lock each and ten times as long, on the hot path.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._accepted: Counter[str] = Counter()
        self._failed: Counter[tuple[str, ...]] = Counter()
        self._attempts: Counter[tuple[str, ...]] = Counter()
        self._latency: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self._duration: defaultdict[str, _Histogram] = defaultdict(_Histogram)
        self._slow: dict[str, tuple[str, Callable[[], Awaitable[float]]]] = {}
        self._reading: dict[str, asyncio.Future[None]] = {}
        self._values: dict[str, float] = {}
        Gauge("tocsin_info", "Version of the service.", ["version"], registry=self._registry).labels(__version__).set(1)
        self._registry.register(self)

    def watch(self, name: str, sentence: str, read: Callable[[], float]) -> None:
        """A number that is read on demand."""
        Gauge(name, sentence, registry=self._registry).set_function(read)

    def watch_store(self, name: str, sentence: str, read: Callable[[], Awaitable[float]]) -> None:
        """A number whose reading may hang: it is left out if it does not come at once. See `refresh`."""
        self._slow[name] = (sentence, read)

    async def refresh(self) -> None:
        """Read the numbers that need a thread, and wait only a moment for them."""
        for name, (_, read) in self._slow.items():
            if name not in self._reading:
                self._values.pop(name, None)
                self._reading[name] = asyncio.ensure_future(self._read(name, read))
        if self._reading:
            await asyncio.wait(self._reading.values(), timeout=PATIENCE_SECONDS)

    async def _read(self, name: str, read: Callable[[], Awaitable[float]]) -> None:
        try:
            self._values[name] = await read()
        except Exception as error:  # noqa: BLE001  # nothing depends on these numbers
            structlog.get_logger(__name__).debug("metric.not_read", metric=name, why=type(error).__name__)
        finally:
            del self._reading[name]

    def accepted(self, notifications: int, deliveries: int) -> None:
        self._accepted["notifications"] += notifications
        self._accepted["deliveries"] += deliveries

    def attempted(self, channel: str, attempts: Sequence[tuple[Delivery, Attempt]]) -> None:
        counts = self._attempts
        for _, attempt in attempts:
            counts[channel, attempt.outcome, attempt.reason] += 1
        self._duration[channel].observe([attempt.duration_us for _, attempt in attempts])

    def delivered(self, channel: str, arrived: Sequence[tuple[int, Micros]]) -> None:
        """Handlers and latencies."""
        self._latency[channel].observe([latency for _, latency in arrived])

    def failed(self, channel: str, reason: Reason) -> None:
        self._failed[channel, reason] += 1

    def render(self) -> tuple[bytes, str]:
        """The body and content type of /metrics."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        for name, value in self._values.items():
            yield GaugeMetricFamily(name, self._slow[name][0], value=value)
        for what, sentence in (("notifications", "Notifications accepted."), ("deliveries", "Deliveries accepted.")):
            yield CounterMetricFamily(f"tocsin_{what}_accepted", sentence, value=self._accepted[what])
        delivered: Counter[tuple[str, ...]] = Counter({(channel,): sum(latency.counts) for channel, latency in self._latency.items()})
        yield _counter("tocsin_deliveries_delivered", "Deliveries that arrived.", ["type"], delivered)
        yield _counter("tocsin_deliveries_failed", "Deliveries that ended without arriving.", ["type", "reason"], self._failed)
        yield _counter("tocsin_attempts", "Attempts.", ["type", "outcome", "reason"], self._attempts)
        yield CounterMetricFamily("tocsin_log_lines_dropped", "Lines of the log that could not be written.", value=lines_dropped())
        yield _histogram("tocsin_delivery_latency_seconds", "Time from due to delivered.", self._latency)
        yield _histogram("tocsin_attempt_duration_seconds", "Duration of one attempt.", self._duration)


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS) + 1)
        self.sum: Micros = 0

    def observe(self, values: Sequence[Micros]) -> None:
        counts = self.counts
        for value in values:
            counts[bisect_left(_BUCKETS, value)] += 1
        self.sum += sum(values)


def _counter(name: str, sentence: str, labels: list[str], counts: Counter[tuple[str, ...]]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, sentence, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _histogram(name: str, sentence: str, histograms: dict[str, _Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, sentence, labels=["type"])
    bounds = [*map(str, LATENCY_BUCKETS), "+Inf"]
    for channel, histogram in histograms.items():
        family.add_metric([channel], list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True)), histogram.sum / SECOND)
    return family


# ------------------------------------------------------------------------------------------------------------------ logs


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
