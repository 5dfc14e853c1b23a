"""Times in users' zones: how they are written, and what is meant by those that clocks skip or show twice."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin import zones
from tocsin.api import times
from tocsin.clock import SECOND

AT = times.read("2026-11-29 10:00:00")


@pytest.mark.parametrize(
    ("zone", "at", "shown"),
    [
        ("UTC", "2026-11-29 10:00:00", "2026-11-29 10:00:00 UTC"),
        ("Asia/Seoul", "2026-11-29 15:30:00", "2026-11-30 00:30:00 UTC+09:00"),
        ("Asia/Kolkata", "2026-11-29 10:00:00", "2026-11-29 15:30:00 UTC+05:30"),
        ("Asia/Kathmandu", "2026-11-29 10:00:00", "2026-11-29 15:45:00 UTC+05:45"),
        ("Pacific/Chatham", "2026-11-29 10:00:00", "2026-11-29 23:45:00 UTC+13:45"),
        ("America/St_Johns", "2026-11-29 03:00:00", "2026-11-28 23:30:00 UTC-03:30"),
        ("Europe/London", "2026-11-29 10:00:00", "2026-11-29 10:00:00 UTC"),
        ("Europe/London", "2026-07-01 10:00:00", "2026-07-01 11:00:00 UTC+01:00"),
        ("Africa/Monrovia", "1970-01-01 00:00:00", "1969-12-31 23:15:30 UTC-00:44:30"),
        ("Europe/Berlin", "2999-07-01 10:00:00", "2999-07-01 12:00:00 UTC+02:00"),  # summer time, for as long as the rule holds
        ("Asia/Seoul", "9999-12-31 23:59:59", "9999-12-31 23:59:59 UTC"),  # there it is the year 10000
        ("America/New_York", "0001-01-01 00:00:00", "0001-01-01 00:00:00 UTC"),
    ],
)
def test_a_time_is_written_with_its_offset(zone: str, at: str, shown: str) -> None:
    assert zones.shown(times.read(at), zones.zone_of(zone)) == shown


@pytest.mark.parametrize(
    ("zone", "text", "first", "last", "is_skipped"),
    [
        ("UTC", "2027-03-28T02:30", "2027-03-28 02:30:00", "2027-03-28 02:30:00", False),
        ("Asia/Kathmandu", "2027-03-28T02:30", "2027-03-27 20:45:00", "2027-03-27 20:45:00", False),
        ("Europe/Berlin", "2027-03-28T01:59:59", "2027-03-28 00:59:59", "2027-03-28 00:59:59", False),
        ("Europe/Berlin", "2027-03-28T02:00", "2027-03-28 01:00:00", "2027-03-28 01:00:00", True),
        ("Europe/Berlin", "2027-03-28T02:30", "2027-03-28 01:00:00", "2027-03-28 01:00:00", True),  # clocks go from 2 to 3
        ("Europe/Berlin", "2027-03-28T03:00", "2027-03-28 01:00:00", "2027-03-28 01:00:00", False),
        ("Europe/Berlin", "2027-10-31T02:30", "2027-10-31 00:30:00", "2027-10-31 01:30:00", False),  # from 3 to 2
        ("Europe/Berlin", "2027-10-31T03:00", "2027-10-31 02:00:00", "2027-10-31 02:00:00", False),
        ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-03 15:30:00", "2026-10-03 15:30:00", True),  # by half an hour
        ("Australia/Lord_Howe", "2027-04-04T01:45", "2027-04-03 14:45:00", "2027-04-03 15:15:00", False),
        ("Pacific/Apia", "2011-12-30T10:00", "2011-12-30 10:00:00", "2011-12-30 10:00:00", True),  # a day that never was
        ("Europe/Berlin", "2027-03-28T02:30:00+09:00", "2027-03-27 17:30:00", "2027-03-27 17:30:00", False),
        ("Europe/Berlin", "2027-03-28", "2027-03-27 23:00:00", "2027-03-27 23:00:00", False),
    ],
)
def test_which_moments_a_time_may_mean(zone: str, text: str, first: str, last: str, is_skipped: bool) -> None:
    reading = zones.read(text, ZoneInfo(zone))
    assert (times.show(reading.first), times.show(reading.last), reading.is_skipped) == (first, last, is_skipped)
    assert reading.is_twice is (first != last)


@pytest.mark.parametrize("text", ["", "yesterday", "2027-02-30T10:00", "0001-01-01T00:00", "2027-13-01", "10:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        zones.read(text, ZoneInfo("Asia/Seoul"))
    with pytest.raises(ValueError, match="beyond the calendar"):
        zones.read("9999-12-31T23:59", ZoneInfo("America/New_York"))


SET_OFTEN = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "Pacific/Apia", "Asia/Kathmandu")


@given(
    st.sampled_from(SET_OFTEN),
    st.integers(0, 70 * 366 * 96).map(lambda quarters: timedelta(minutes=15 * quarters)),
    st.integers(-3 * 96, 3 * 96).map(lambda quarters: quarters * 15 * 60 * SECOND),
)
def test_no_clock_shows_a_time_outside_of_its_moments(zone: str, since: timedelta, distance: int) -> None:
    """Before the first it shows earlier ones and after the last later ones, however near; so a filter from the one to the other has all."""
    place, wanted = ZoneInfo(zone), datetime(1970, 1, 3) + since
    reading = zones.read(wanted.isoformat(), place)

    def clock(at: int) -> datetime:
        return zones.local(at, place).replace(tzinfo=None)

    if reading.is_skipped:
        assert clock(reading.first - 1) < wanted < clock(reading.first)
    else:
        assert clock(reading.first) == wanted == clock(reading.last)
    before, after = reading.first - abs(distance), reading.last + abs(distance)
    if distance:
        assert clock(before) < wanted and clock(after) > wanted


def test_names_are_found_in_any_case_and_like_ones_are_named() -> None:
    assert zones.canonical(" asia/seoul ") == "Asia/Seoul"
    assert zones.canonical("utc") == "UTC"
    assert zones.canonical("Asia/Calcutta") == "Asia/Calcutta"  # as some browsers still call it
    for name in ("", "Seoul", "../../etc/passwd", "/etc/localtime", "Asia", "localtime", "Factory", "+09:00", "Asia/Seoul\0"):
        assert zones.canonical(name) is None, name
    assert zones.like("Seoul")[0] == zones.like("asia seol")[0] == zones.like("Seol")[0] == "Asia/Seoul"
    assert zones.like("new york")[0] == "America/New_York"
    assert zones.like("xyzzy") == []
    assert zones.like("UTC+9") == ["UTC"]  # Etc/GMT+9 is nine hours behind it


def test_a_zone_that_is_no_longer_known_is_utc() -> None:
    for name in (None, "Gone/Away", "Asia", "../../etc/passwd", "a\0b", ""):
        assert zones.zone_of(name) is UTC, name
    assert str(zones.zone_of("Asia/Seoul")) == "Asia/Seoul"


def test_without_the_systems_database_there_are_the_same_zones() -> None:
    code = (
        "from tocsin import zones;"
        " print(len(zones.names()) > 500, zones.canonical('asia/calcutta'), zones.shown(0, zones.zone_of('Asia/Seoul')))"
    )
    environ = {**os.environ, "PYTHONTZPATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split(maxsplit=2) == ["True", "Asia/Calcutta", "1970-01-01 09:00:00 UTC+09:00\n"]
