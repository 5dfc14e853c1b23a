"""Metrics: their names, and what is counted. No label names a user or a handler."""

import asyncio
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import accumulate

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from tocsin import __version__
from tocsin.clock import SECOND, Micros
from tocsin.model import Attempt, Delivery, Reason
from tocsin.observe import lines_dropped

PATIENCE_SECONDS = 0.2  # for numbers from the store
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
