"""The shapes that charts are made of."""

import re

from tocsin.store import HandlerHour
from tocsin.web.charts import CHART_HEIGHT, CHART_WIDTH, SPARK_HEIGHT, bars, lines, spark


def row(p50: float | None, p95: float | None = None) -> dict[str, object]:
    return {"label": "", "p50": p50, "p95": p95}


def test_of_nothing_there_are_no_lines() -> None:
    assert lines([row(None), row(None)], ("p50", "p95")) is None


def test_lines_stand_on_a_scale_of_tenfolds_and_part_where_there_is_nothing() -> None:
    drawn = lines([row(0.1, 1.0), row(0.1, 10.0), row(None), row(1.0, 10.0)], ("p50", "p95"))
    assert drawn is not None
    assert (drawn.least, drawn.most) == (0.1, 10.0)
    assert drawn.grid == (CHART_HEIGHT / 2,)
    assert drawn.paths["p50"] == "M0.0 120.0h180.0L180.0 120.0h180.0M540.0 60.0h180.0"
    assert drawn.paths["p95"] == "M0.0 60.0h180.0L180.0 0.0h180.0M540.0 0.0h180.0"


def test_lines_stay_on_the_chart_whatever_the_numbers() -> None:
    for seconds in ((0.0, 0.0), (1e-9, 5e6), (1.0, 1.0), (0.0025, 0.005)):
        drawn = lines([row(*seconds)], ("p50", "p95"))
        assert drawn is not None and drawn.least < drawn.most
        heights = [float(y) for path in drawn.paths.values() for y in re.findall(r"[ML][\d.]+ ([-\d.]+)h", path)]
        assert len(heights) == 2 and all(0 <= y <= CHART_HEIGHT for y in heights), seconds


def test_bars_and_sparks_fill_their_room_and_no_more() -> None:
    rects = bars([{"label": "a", "good": 3, "bad": 1}, {"label": "b", "good": 0, "bad": 0}], ("good", "bad"))
    assert [(one.kind, one.x, one.y + one.height) for one in rects] == [("good", 0, CHART_HEIGHT), ("bad", 0, rects[0].y)]
    assert all(one.y >= 0 and one.x + one.width <= CHART_WIDTH for one in rects)
    day = spark([HandlerHour(1, 100, 5, 2, 1), HandlerHour(1, 90, 9, 9, 9)], 100)
    assert (day.delivered, day.failed) == (5, 3)
    assert all(one.y >= 0 and one.y + one.height <= SPARK_HEIGHT for one in day.rects)
