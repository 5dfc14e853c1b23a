"""The shapes that charts are made of."""

import re

from tocsin.ports.standings import HandlerHour
from tocsin.web.charts import BOTTOM, LEFT, SPARK_HEIGHT, TOP, WIDTH, bars, lines, nice, spark


def row(p50: float | None, p95: float | None = None) -> dict[str, object]:
    return {"label": "", "tick": "", "p50": p50, "p95": p95}


def bar(good: int, bad: int, tick: str = "") -> dict[str, object]:
    return {"title": f"{good}, {bad}", "tick": tick, "good": good, "bad": bad}


def test_of_nothing_there_are_no_lines() -> None:
    assert lines([row(None), row(None)], ("p50", "p95")) is None


def test_lines_stand_on_a_scale_of_tenfolds_and_part_where_there_is_nothing() -> None:
    drawn = lines([row(0.1, 1.0), row(0.1, 10.0), row(None), row(1.0, 10.0)], ("p50", "p95"))
    assert drawn is not None
    assert [level.seconds for level in drawn.grid] == [0.1, 1.0, 10.0]
    assert [level.y for level in drawn.grid] == [BOTTOM, (TOP + BOTTOM) / 2, TOP]
    step = (WIDTH - LEFT) / 4
    middle = (TOP + BOTTOM) / 2
    assert drawn.paths["p50"] == f"M{LEFT:.1f} {BOTTOM:.1f}h{step:.1f}L{LEFT + step:.1f} {BOTTOM:.1f}h{step:.1f}" + (
        f"M{LEFT + 3 * step:.1f} {middle:.1f}h{step:.1f}"
    )
    assert [column.p50 for column in drawn.columns] == [0.1, 0.1, 1.0]  # what can be pointed at


def test_lines_stay_on_the_chart_whatever_the_numbers() -> None:
    for seconds in ((0.0, 0.0), (1e-9, 5e6), (1.0, 1.0), (0.0025, 0.005)):
        drawn = lines([row(*seconds)], ("p50", "p95"))
        assert drawn is not None and len(drawn.grid) >= 2
        heights = [float(y) for path in drawn.paths.values() for y in re.findall(r"[ML][\d.]+ ([-\d.]+)h", path)]
        assert len(heights) == 2 and all(TOP <= y <= BOTTOM for y in heights), seconds


def test_bars_fill_their_room_and_no_more_and_their_axes_have_numbers() -> None:
    drawn = bars([bar(3, 1, "mon"), bar(0, 0), bar(0, 1, "tue")], ("good", "bad"))
    assert [column.title for column in drawn.columns] == ["3, 1", "0, 1"]
    good, bad = drawn.columns[0].rects
    assert (good.kind, good.x, good.y + good.height) == ("good", LEFT, BOTTOM) and (bad.kind, bad.y + bad.height) == ("bad", good.y)
    assert all(one.y >= TOP and one.x + one.width <= WIDTH for column in drawn.columns for one in column.rects)
    assert [level.label for level in drawn.grid] == ["0", "2", "4"]
    assert [(tick.label, tick.x) for tick in drawn.ticks] == [("mon", LEFT), ("tue", round(LEFT + (WIDTH - LEFT) * 2 / 3, 1))]


def test_an_axis_ends_at_a_round_number() -> None:
    assert [nice(most) for most in (1, 3, 5, 9, 11, 16, 100, 1234, 99_999)] == [2, 4, 5, 10, 15, 20, 100, 1500, 100_000]


def test_a_spark_is_a_day() -> None:
    day = spark([HandlerHour(1, 100, 5, 2, 1), HandlerHour(1, 90, 9, 9, 9)], 100)
    assert (day.delivered, day.failed) == (5, 3)
    assert all(one.y >= 0 and one.y + one.height <= SPARK_HEIGHT for one in day.rects)
