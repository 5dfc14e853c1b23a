"""Charts as shapes; the templates draw them as inline SVG, with words for who cannot see them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from tocsin.store import HandlerHour

SPARK_HOURS, SPARK_HEIGHT, SPARK_STEP = 24, 24.0, 5
CHART_WIDTH, CHART_HEIGHT = 720.0, 120.0


class Rect(Struct, frozen=True):
    """`kind` is its class in the style sheet."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    title: str = ""


class Spark(Struct, frozen=True):
    """A day, an hour a bar."""

    rects: tuple[Rect, ...]
    delivered: int
    failed: int


class Lines(Struct, frozen=True):
    """Lengths of time on a logarithmic scale from `least` to `most` seconds. `paths`: SVG path data by kind; `grid`: where tenfolds are."""

    least: float
    most: float
    grid: tuple[float, ...]
    paths: dict[str, str]


def spark(hours: Sequence[HandlerHour], since_hour: int) -> Spark:
    """Delivered ones below, failed and expired ones on top; a base line where nothing was."""
    by_hour = {one.hour: one for one in hours}
    shown = [by_hour.get(since_hour + index) for index in range(SPARK_HOURS)]
    most = max([1, *(one.delivered + one.failed + one.expired for one in shown if one)])
    rects: list[Rect] = []
    for index, one in enumerate(shown):
        x, y = index * SPARK_STEP, SPARK_HEIGHT
        rects.append(Rect("none", x, y - 1, SPARK_STEP - 1, 1))
        counts = (("good", one.delivered), ("bad", one.failed + one.expired)) if one else ()
        for kind, count in counts:
            height = max(2.0, count / most * (SPARK_HEIGHT - 4)) if count else 0.0
            y -= height
            if height:
                rects.append(Rect(kind, x, round(y, 1), SPARK_STEP - 1, round(height, 1)))
    failed = sum(one.failed + one.expired for one in shown if one)
    return Spark(tuple(rects), sum(one.delivered for one in shown if one), failed)


def bars(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> list[Rect]:
    """A bar for each row, one piece on the other for each of `kinds`; a row has its `label` and their numbers."""
    most = max([1, *(sum(row[kind] for kind in kinds) for row in rows)])
    width = CHART_WIDTH / max(1, len(rows))
    rects: list[Rect] = []
    for index, row in enumerate(rows):
        y = CHART_HEIGHT
        for kind in kinds:
            height = row[kind] / most * (CHART_HEIGHT - 10)
            y -= height
            if height:
                x, wide = round(index * width, 1), round(max(1.0, width - 1), 1)
                rects.append(Rect(kind, x, round(y, 1), wide, round(height, 1), f"{row['label']}: {row[kind]}"))
    return rects


def lines(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Lines | None:
    """A level stroke for each row that has a number of seconds, joined where the next one has, too. None: there is no number."""
    seconds = [row[kind] for row in rows for kind in kinds if row[kind] is not None]
    if not seconds:
        return None
    low = math.floor(math.log10(max(0.001, min(seconds))))
    high = max(low + 1, math.ceil(math.log10(max(0.001, *seconds))))
    step = CHART_HEIGHT / (high - low)
    width = CHART_WIDTH / len(rows)
    paths: dict[str, str] = {}
    for kind in kinds:
        path, is_joined = "", False
        for index, row in enumerate(rows):
            if row[kind] is not None:
                y = CHART_HEIGHT - (math.log10(max(0.001, row[kind])) - low) * step
                path += f"{'L' if is_joined else 'M'}{index * width:.1f} {y:.1f}h{width:.1f}"
            is_joined = row[kind] is not None
        paths[kind] = path
    return Lines(10.0**low, 10.0**high, tuple(round(number * step, 1) for number in range(1, high - low)), paths)
