"""More scenes of the selftest: a damaged store, a full disk, a restored copy, a wait that a kill must not cut short.

They are left out of the quick form.
"""

import random
import time
from collections import Counter
from collections.abc import Callable

from tocsin import upkeep
from tocsin.cli.selftest.pages import Damage
from tocsin.cli.selftest.receiver import Answer, Receiver
from tocsin.cli.selftest.scenes import Books, Finding, Place, Run, Scene, reconcile
from tocsin.cli.selftest.service import Down
from tocsin.settings import load

_PATIENCE_SECONDS = 20.0
_MESSAGES = 6


def _until(condition: Callable[[], bool]) -> bool:
    """Whether the condition became true in time."""
    ends_at = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > ends_at:
            return False
        time.sleep(0.02)
    return True


def _is_unready(run: Run) -> bool:
    try:
        run.service.call("GET", "/readyz")
    except Down:
        return True
    return False


def _came(receiver: Receiver, path: str) -> Counter[int]:
    return Counter(one.delivery_id for one in receiver.arrivals if one.path == path)


def damaged_page(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:  # noqa: ARG001  # every scene takes the same
    """A page with attempts is damaged, and repaired later."""
    run = Run(place, "damaged", receiver)
    try:
        run.service.start()
        handlers = [run.add("/damaged"), run.add("/damaged")]
        run.send("before", handlers)
        run.settle()
        run.service.stop()
        damage = Damage(run.service.data / "tocsin.db", "attempts", random.Random(1))  # noqa: S311  # garbage
        run.service.start()
        for number in range(_MESSAGES):
            run.send(f"damaged {number}", [handlers[number % 2]])
        is_said = _until(lambda: _is_unready(run))
        _until(lambda: sum(_came(receiver, "/damaged").values()) >= 2 + len(handlers))
        with run.service.frozen():
            held = sum(_came(receiver, "/damaged").values()) - 2
            damage.undo()
        books = reconcile(run.settle(), _came(receiver, "/damaged"), lambda _: False)
    finally:
        run.service.kill()
    kept = is_said and held < _MESSAGES and _all_came_once(books, _MESSAGES + 2)
    promise = "an outcome that cannot be kept stops its handler, is said by /readyz, and is not sent again"
    return [Finding("damaged page", promise, f"{held} of {_MESSAGES} went out on the damaged store; {books.seen}", kept)]


def full_disk(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:  # noqa: ARG001
    """While an attempt is in flight no file may grow any more; later they may again."""
    receiver.behave("/full", lambda _: Answer(delay_seconds=0.3))
    run = Run(place, "full", receiver)
    refused = 0
    try:
        run.service.start()
        handler = run.add("/full")
        for number in range(_MESSAGES):
            run.send(f"full {number}", [handler])
        run.service.limit_files((run.service.data / "tocsin.db-wal").stat().st_size)
        try:
            run.send("while it is full", [handler])
        except Down:
            refused += 1
        can_read = len(run.statuses()) == _MESSAGES
        time.sleep(0.5)  # answers arrive that cannot be stored now
        run.service.limit_files()
        _until(lambda: not _is_unready(run))
        run.send("while it is full", [handler])
        books = reconcile(run.settle(), _came(receiver, "/full"), lambda _: False)
    finally:
        run.service.kill()
    kept = refused == 1 and can_read and _all_came_once(books, _MESSAGES + 1)
    promise = "nothing is accepted that cannot be kept, reading goes on, and it recovers by itself"
    return [Finding("full disk", promise, f"refused {refused}; then {books.seen}", kept)]


def _all_came_once(books: Books, count: int) -> bool:
    return books.accepted == books.delivered == count and not books.missing and not books.repeated and not books.unexplained


def restored(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:  # noqa: ARG001
    """A copy is restored, and everything after it is gone: its ids are not used again."""
    run = Run(place, "restored", receiver)
    settings = load({"TOCSIN_DATA_DIR": str(run.service.data)}, place.folder / "none.env")
    copy = place.folder / "restored" / "copy.db"
    try:
        run.service.start()
        handler = run.add("/restored")
        run.send("before", [handler])
        run.settle()
        upkeep.back_up(settings, copy)
        lost = {run.send(f"lost {number}", [handler]) for number in range(_MESSAGES)}
        run.settle()
        run.service.kill()
        upkeep.restore(settings, copy, replace=True)
        run.service.start()
        new = {run.send(f"new {number}", [handler]) for number in range(_MESSAGES)}
        statuses = run.settle()
    finally:
        run.service.kill()
    identities = [one.identity for one in receiver.arrivals if one.path == "/restored"]
    count = 1 + 2 * _MESSAGES
    is_whole = len(statuses) == 1 + _MESSAGES and set(statuses.values()) == {"delivered"}
    kept = is_whole and not lost & new and len(identities) == len(set(identities)) == count
    promise = "what was in the copy is there, and no id means another message than before"
    return [
        Finding("restore", promise, f"{count} messages, {len(set(identities))} ids; {len(statuses)} of them are in the copy or new", kept)
    ]


def waits_over_a_kill(place: Place, receiver: Receiver, quick: bool) -> list[Finding]:  # noqa: ARG001
    """The receiver asks for a minute, and the service is killed."""
    receiver.behave("/waits", lambda _: Answer(429, "60"))
    run = Run(place, "waits", receiver)
    try:
        run.service.start()
        handler = run.add("/waits")
        run.send("asked to wait", [handler])
        _until(lambda: any(run.outcomes(one) for one in run.statuses()))
        run.service.kill()
        run.service.start()
        notification = run.send("behind it", [handler])
        [row] = run.service.call("GET", f"/api/deliveries?notification_id={notification}")["data"]
        told = " ".join(one["text"] for one in run.service.call("GET", f"/api/deliveries/{row['id']}")["data"]["events"])
        time.sleep(1)
    finally:
        run.service.kill()
    came = sum(_came(receiver, "/waits").values())
    promise = "a wait that a receiver asked for outlives a kill, for what comes later too"
    return [
        Finding("wait over a kill", promise, f"asked {came} time; then: {told.removeprefix('Accepted. ')}", came == 1 and "pause" in told)
    ]


SCENES: tuple[tuple[str, Scene], ...] = (
    ("damaged page", damaged_page),
    ("full disk", full_disk),
    ("restore", restored),
    ("a wait over a kill", waits_over_a_kill),
)
NEED_A_FILE = {
    "damaged page": "it damages a page of a SQLite file",
    "full disk": "it fills the disk of a SQLite file",
    "restore": "it restores a SQLite file; PostgreSQL has pg_dump",
}
"""Why these scenes are not played on a PostgreSQL server."""
