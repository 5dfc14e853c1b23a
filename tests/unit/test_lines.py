"""Lines go out in order, and their writers never wait: what nobody reads is dropped, counted and told."""

import os
import threading

from tocsin import observe
from tocsin.lines import Lines
from tocsin.observe import SELDOM_SECONDS, Seldom


def say(count: int) -> bytes:
    return f"dropped {count}\n".encode()


def read_to_end(file: int) -> bytes:
    found = b""
    while piece := os.read(file, 1 << 16):
        found += piece
    return found


def test_all_lines_come_in_order() -> None:
    reading, writing = os.pipe()
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_to_end(reading)))
    reader.start()
    lines = Lines(writing, say)
    for number in range(20_000):
        lines.write(b"%d\n" % number)
    assert lines.close(30)
    os.close(writing)
    reader.join()
    assert found[0].split() == [b"%d" % number for number in range(20_000)]
    assert lines.dropped == 0


def test_what_nobody_reads_is_dropped_and_told_once_somebody_does() -> None:
    reading, writing = os.pipe()
    lines = Lines(writing, say, max_bytes=200_000)
    line = b"x" * 99 + b"\n"
    for _ in range(10_000):
        lines.write(line)
    assert lines.dropped >= 10_000 - (200_000 + 65_536) // 100 - 1
    assert not lines.close(0.0)  # nobody reads: it does not wait for ever
    found = ended(lines, reading, writing)
    told = [int(one.split()[1]) for one in found.splitlines() if one.startswith(b"dropped")]
    assert sum(told) == lines.dropped
    assert found.count(line) == 10_000 - lines.dropped


def ended(lines: Lines, reading: int, writing: int) -> bytes:
    """What comes out once somebody reads, to the end."""
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(read_to_end(reading)))
    reader.start()
    assert lines.close(30)
    os.close(writing)
    reader.join()
    return found[0]


def test_a_descriptor_that_another_process_made_non_blocking_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    lines = Lines(writing, say)
    for _ in range(5_000):
        lines.write(b"x" * 99 + b"\n")
    assert (ended(lines, reading, writing).count(b"\n"), lines.dropped) == (5_000, 0)


def test_a_pipe_that_is_closed_stops_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    lines = Lines(writing, say)
    for _ in range(100):
        lines.write(b"to nobody\n")
    assert lines.close(30)
    assert lines.dropped == 100
    os.close(writing)


def test_a_fault_that_repeats_is_written_once_a_minute_with_a_count() -> None:
    now = 1000.0
    written: list[tuple[str, dict[str, object]]] = []

    def write(event: str, **values: object) -> None:
        written.append((event, values))

    seldom = Seldom(lambda: now)
    for number in range(1000):
        seldom(write, "store.waits", why=f"{number}")
    seldom(write, "another", why="once")
    assert written == [("store.waits", {"why": "0"}), ("another", {"why": "once"})]
    now += SELDOM_SECONDS
    seldom(write, "store.waits", why="later")
    assert written[2:] == [("store.waits", {"times": 1000, "why": "later"})]
    seldom(write, "store.waits", why="last")
    seldom.flush()
    assert written[3:] == [("store.waits", {"times": 1, "why": "last"})]
    assert observe.seldom is not seldom
