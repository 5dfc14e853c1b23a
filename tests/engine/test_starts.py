"""The files that outlive the process: whatever is in them, the service starts, and what counts goes on counting."""

import resource
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.clock import SECOND, Micros
from tocsin.engine.ledger import SLOTS, Ledger
from tocsin.engine.starts import FIRST_RECORDS, MAX_LENGTH, Starts
from tocsin.model import Delivery, Status
from tocsin.ports.errors import StoreError
from tocsin.ports.ledger import UnderWay

NOW: Micros = 1_700_000_000 * SECOND
RECORD = 24  # bytes
# As every version since the first writes it: delivery, number, start; the middle one has been settled.
OLD_LEDGER = struct.pack("<qqqqqqqqq", 7, 1, NOW, 0, 1, NOW, 9, 3, NOW + 5)


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def kept(starts: Starts, key: str) -> list[Micros]:
    return starts.starts_since(key, 0)


def test_what_counts_is_known_to_the_next_process(tmp_path: Path) -> None:
    first = Starts(tmp_path / "starts", NOW)
    assert first.is_new
    first.complete()
    first.begin("chat", NOW, 60.0)
    first.begin("chat", NOW + SECOND, 60.0)
    first.begin("bot", NOW + SECOND, 1.0)
    first.rest("chat", NOW, NOW + 20 * SECOND)
    second = Starts(tmp_path / "starts", NOW + 2 * SECOND)  # the first one was killed
    assert not second.is_new
    assert (kept(second, "chat"), kept(second, "bot"), kept(second, "other")) == ([NOW, NOW + SECOND], [], [])
    assert second.starts_since("chat", NOW + 1) == [NOW + SECOND]
    assert (second.rests_until, second.rest_until("chat"), second.rest_until("bot")) == (NOW + 20 * SECOND, NOW + 20 * SECOND, 0)
    third = Starts(tmp_path / "starts", NOW + 60 * SECOND)
    assert (kept(third, "chat"), third.rests_until) == ([NOW + SECOND], 0)
    third.forget_before(NOW + 61 * SECOND)
    assert kept(third, "chat") == []


def test_the_file_grows_with_what_counts_at_the_same_time_only(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    starts = Starts(file, NOW)
    for number in range(100):
        starts.begin("long", NOW + number, 900.0)
    for number in range(3 * FIRST_RECORDS):
        starts.begin(f"short {number % 7}", NOW + number * 1000, 1.0)
        starts.rest(f"rest {number % 7}", NOW + number * 1000, NOW + number * 1000 + SECOND)
    assert file.stat().st_size == FIRST_RECORDS * RECORD
    assert kept(Starts(file, NOW + 60 * SECOND), "long") == [NOW + number for number in range(100)]
    for number in range(3 * FIRST_RECORDS):
        starts.begin("many", NOW + 60 * SECOND + number, 60.0)
    assert file.stat().st_size == 4 * FIRST_RECORDS * RECORD
    again = Starts(file, NOW + 61 * SECOND)
    assert (len(kept(again, "many")), len(kept(again, "long"))) == (3 * FIRST_RECORDS, 100)
    assert file.stat().st_size == 4 * FIRST_RECORDS * RECORD
    Starts(file, NOW + 3600 * SECOND)  # when all of it is over
    assert file.stat().st_size == FIRST_RECORDS * RECORD


def test_rests_that_are_over_make_room(tmp_path: Path) -> None:
    starts = Starts(tmp_path / "starts", NOW)
    for number in range(3 * FIRST_RECORDS):
        starts.rest(f"credential {number}", NOW + number * SECOND, NOW + (number + 1) * SECOND)
    assert (tmp_path / "starts").stat().st_size == FIRST_RECORDS * RECORD


def test_on_a_full_disk_the_youngest_starts_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    starts = Starts(file, NOW)
    with full_disk(FIRST_RECORDS * RECORD):
        for number in range(FIRST_RECORDS + 100):
            starts.begin("many", NOW + number, 60.0)
        starts.begin("another", NOW, 5.0)  # nothing of its length to take the place of
    again = Starts(file, NOW)
    assert len(kept(again, "many")) == FIRST_RECORDS - 1
    assert kept(again, "another") == []


@pytest.mark.parametrize("make", [lambda file: Starts(file, NOW), Ledger], ids=["starts", "ledger"])
def test_without_room_for_the_file_it_works_in_memory(tmp_path: Path, make) -> None:
    with full_disk(4096):
        kept = make(tmp_path / "file")
    kept.begin(pending(1), 1, NOW) if isinstance(kept, Ledger) else kept.begin("key", NOW, 60.0)
    kept.close()


def test_what_was_in_memory_for_want_of_room_is_in_the_file_once_there_is_some(tmp_path: Path) -> None:
    file = tmp_path / "starts"
    with full_disk(4096):
        starts = Starts(file, NOW)
    for number in range(FIRST_RECORDS):
        starts.begin("many", NOW + number, 60.0)
    assert len(kept(Starts(file, NOW), "many")) == FIRST_RECORDS


@pytest.mark.parametrize("make", [lambda file: Starts(file, NOW), Ledger], ids=["starts", "ledger"])
def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, make) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(StoreError, match=r"^The file .*/file cannot be used: Is a directory\. "):
        make(tmp_path / "file")


@given(st.binary(max_size=40 * RECORD), st.integers(0, 20 * RECORD), st.booleans())
def test_whatever_the_file_of_starts_holds_nothing_is_held_longer_than_a_day(noise: bytes, cut: int, is_plausible: bool) -> None:
    """Random bytes, true records among them, cut off anywhere."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "starts"
        if is_plausible:
            before = Starts(file, NOW)
            before.complete()
            for number in range(10):
                before.begin("key", NOW + number, 60.0)
                before.rest(f"key {number}", NOW, NOW + 60 * SECOND)
            whole = file.read_bytes()
            file.write_bytes(whole[:cut] + noise + whole[cut + len(noise) : 30 * RECORD])
        else:
            file.write_bytes(noise)
        starts = Starts(file, NOW)
        assert starts.rests_until <= NOW + MAX_LENGTH
        starts.begin("new", NOW, 60.0)
        starts.rest("new", NOW, NOW + SECOND)
        again = Starts(file, NOW)
        assert kept(again, "new") == [NOW]
        assert again.rest_until("new") == NOW + SECOND
        assert Starts(file, NOW + MAX_LENGTH).rests_until == 0


def pending(delivery_id: int, replays: int = 0) -> Delivery:
    return Delivery(delivery_id, 1, 1, 1, Status.PENDING, 1, 1, 1, replays=replays)


@given(st.binary(max_size=40 * RECORD), st.sampled_from([0, 1, RECORD * SLOTS, 3 * RECORD * SLOTS]))
def test_whatever_the_ledger_holds_it_opens_and_is_cleared(noise: bytes, zeros: int) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "in-flight"
        file.write_bytes(OLD_LEDGER + noise + bytes(zeros))
        ledger = Ledger(file)
        assert ledger.found[:2] == [UnderWay(7, 1, 0, NOW), UnderWay(9, 3, 0, NOW + 5)]
        assert all(one.delivery_id > 0 for one in ledger.found)
        ledger.clear()
        ledger.settled(ledger.begin(pending(4), 1, NOW))
        ledger.begin(pending(5, replays=2), 1, NOW)
        assert file.stat().st_size == RECORD * SLOTS
        assert Ledger(file).found == [UnderWay(5, 1, 2, NOW)]
