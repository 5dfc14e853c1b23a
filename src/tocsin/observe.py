"""What can be seen from outside: metric names, log events, one structured line per attempt.

No label names a user or a handler; no line holds a secret or a URL.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from tocsin import __version__
from tocsin.model import SECOND, Attempt, Micros, Reason
from tocsin.settings import Settings

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 86400)


class Metrics:
    """The service's numbers, in the Prometheus text format."""

    def __init__(self) -> None:
        disable_created_metrics()  # pyright: ignore[reportUnknownMemberType]  # twice the lines, and nobody reads them
        self._registry = CollectorRegistry()
        registry = self._registry
        Gauge("tocsin_info", "Version of the service.", ["version"], registry=registry).labels(__version__).set(1)
        self._accepted = Counter("tocsin_notifications_accepted_total", "Notifications accepted.", registry=registry)
        self._planned = Counter("tocsin_deliveries_accepted_total", "Deliveries accepted.", registry=registry)
        self._delivered = Counter("tocsin_deliveries_delivered_total", "Deliveries that arrived.", ["type"], registry=registry)
        self._failed = Counter("tocsin_deliveries_failed_total", "Deliveries that ended otherwise.", ["type", "reason"], registry=registry)
        self._attempts = Counter("tocsin_attempts_total", "Attempts.", ["type", "outcome", "reason"], registry=registry)
        self._latency = Histogram(
            "tocsin_delivery_latency_seconds", "From due to delivered.", ["type"], buckets=LATENCY_BUCKETS, registry=registry
        )
        self._duration = Histogram(
            "tocsin_attempt_duration_seconds", "Of one attempt.", ["type"], buckets=LATENCY_BUCKETS[:14], registry=registry
        )
        self._children: dict[tuple[object, ...], Any] = {}

    def watch(self, name: str, sentence: str, read: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        Gauge(name, sentence, registry=self._registry).set_function(read)

    def accepted(self, notifications: int, deliveries: int) -> None:
        self._accepted.inc(notifications)
        self._planned.inc(deliveries)

    def attempted(self, channel: str, outcome: str, reason: Reason, seconds: float) -> None:
        self._child(self._attempts, channel, outcome, reason.value).inc()
        self._child(self._duration, channel).observe(seconds)

    def delivered(self, channel: str, seconds: float) -> None:
        self._child(self._delivered, channel).inc()
        self._child(self._latency, channel).observe(seconds)

    def failed(self, channel: str, reason: Reason) -> None:
        self._child(self._failed, channel, reason.value).inc()

    def _child(self, metric: Any, *labels: str) -> Any:
        """The labelled child, kept: looking it up takes longer than counting."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return child

    def render(self) -> tuple[bytes, str]:
        """The body and content type of /metrics."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST


def now() -> Micros:
    return time.time_ns() // 1000


# ------------------------------------------------------------------------------------------------------------------ logs


def set_up_logs(settings: Settings) -> None:
    """Structured lines on standard error: JSON, or coloured text on a terminal. Libraries speak only when something is wrong."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    as_text = settings.log_format == "text" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _time]
    if as_text:
        renderers: list[Any] = [
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        ]  # others print local variables, secrets too
        factory: Any = structlog.PrintLoggerFactory(sys.stderr)
    else:
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_encode)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True)


def _time(_: Any, __: str, event: Any) -> Any:
    event["time"] = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return event


_ENCODER = msgspec.json.Encoder(enc_hook=repr)


def _encode(value: Any, **_: Any) -> bytes:
    return _ENCODER.encode(value)


_attempts = structlog.get_logger("tocsin.attempt")


def log_attempt(channel: str, handler_id: int, attempt: Attempt, status: str) -> None:
    """The one line per attempt: everything needed to find it again, nothing secret."""
    _attempts.info(
        "attempt",
        delivery=attempt.delivery_id,
        handler=handler_id,
        type=channel,
        number=attempt.number,
        outcome=attempt.outcome,
        reason=attempt.reason,
        status=status,
        code=attempt.status_code,
        ms=round(attempt.duration_us / 1000, 1),
        next_seconds=None if attempt.next_at is None else round((attempt.next_at - attempt.at) / SECOND, 1),
    )
