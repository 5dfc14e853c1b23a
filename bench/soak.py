"""`python -m bench.soak`: minutes of mixed load on a service, against receivers that misbehave by a seeded script or are far away, and
beside a user whose handlers hang; and at the same time the matrix of disturbances (`bench.matrix`) on two others, one on SQLite and one
on PostgreSQL. At the end every accepted id is reconciled, and memory and descriptors must have stayed flat.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct, to_builtins

from bench.machine import cores
from bench.misbehaving import Receivers
from bench.probe import Beside, Probe
from bench.receiver import Receiver
from bench.service import NO_QUOTAS
from bench.unkind import Unkind
from tocsin.cli.selftest.service import Down, Service

ROOT = Path(__file__).parents[1]
SENDERS = 4
REQUESTS_A_SECOND = 12  # of each sender
FLAT = 1.10  # the end against minute 2
SAMPLE_SECONDS = 1.0
SETTLE_SECONDS = 420.0  # a mail whose answer was lost waits five minutes
MAIL_ENDS_BEFORE = 60.0  # seconds before the load ends
HANGING, BACKLOG = 200, 5  # handlers beside the healthy one, and deliveries of each


class Sample(Struct):
    """`at`: seconds since the load began. `rss_mb`, `descriptors`: of one process, at least half a second old."""

    at: float
    rss_mb: float
    descriptors: int


class Books(Struct):
    """What was accepted, and what became of it."""

    name: str
    notifications: int
    deliveries: int
    statuses: dict[str, int]
    failures: dict[str, int]
    not_accepted: int  # in the store, though no client was told its id
    waiting: int
    missing: int  # delivered, and yet never answered with a 2xx
    repeated: int
    unexplained: int  # repeated without an attempt that says unknown
    rss_mb: tuple[float, float]  # at minute 2, at the end
    descriptors: tuple[float, float]
    beside: Beside

    @property
    def complaints(self) -> list[str]:
        counts = {what: getattr(self, what) for what in ("not_accepted", "waiting", "missing", "unexplained")}
        found = [f"{self.name}: {count} {what}" for what, count in counts.items() if count]
        for what in ("rss_mb", "descriptors"):
            first, last = getattr(self, what)
            if last > first * FLAT:
                found.append(f"{self.name}: {what} grew from {first:.0f} to {last:.0f}")
        if self.beside.complaint is not None:
            found.append(f"{self.name}: {self.beside.complaint}")
        return found


class Soaked:
    """One service, its senders, and the books of what it accepted."""

    def __init__(self, name: str, folder: Path, seed: int, receivers: Receivers, healthy: Receiver) -> None:
        folder.mkdir()
        self._folder = folder
        self.name = name
        self.accepted: dict[str, int] = {}  # idempotency key: notification id
        self.samples: list[Sample] = []
        self.service = Service(
            folder,
            TOCSIN_RETRY_SCHEDULE="0.5s,1s,2s,4s,8s,16s",
            TOCSIN_DISABLE_AFTER_FAILURES="0",
            TOCSIN_SMTP_URL=receivers.smtp_url,
            TOCSIN_EMAIL_TRUSTED_DOMAINS="*",
            **NO_QUOTAS,
            TOCSIN_EMAIL_FROM="soak@example.com",
        )
        self._seed = f"{seed} {name}"
        self._healthy = healthy
        self._receivers = receivers
        self._handlers: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self._failure: BaseException | None = None

    def begin(self, seconds: float) -> None:
        self.service.start()
        for kind, count in (("well", 6), ("far", 6), ("ill", 10), ("hangs", 2)):
            self._handlers[kind] = [self._add(f"{self._receivers.url}/{kind}/{number}") for number in range(count)]
        self._handlers["mail"] = [self._add_mailbox("operator@example.com")]
        self._handlers["slow mail"] = [self._add_mailbox(f"slow{number}@example.com") for number in range(2)]
        self._unkind = Unkind(self._folder / "data", self.service.port, self._receivers.url)
        self._threads = [threading.Thread(target=self._guarded, args=(self._send, number), daemon=True) for number in range(SENDERS)]
        self._threads.append(threading.Thread(target=self._guarded, args=(self._sample,), daemon=True))
        self._threads.append(threading.Thread(target=self._guarded, args=(self._unkind.run,), daemon=True))
        self._probe = self._begin_probe(self._healthy)
        self._threads.append(threading.Thread(target=self._guarded, args=(self._probe.run,), daemon=True))
        self.began = time.monotonic()
        self._ends = self.began + seconds
        for thread in self._threads:
            thread.start()

    def _begin_probe(self, healthy: Receiver) -> Probe:
        """A healthy handler, then many that hang, each with a backlog."""
        handler = self._add(f"http://127.0.0.1:{healthy.ports[0]}/healthy")
        probe = Probe(healthy, lambda number: self._accept(f"healthy {number}", {"message": f"healthy {number}", "handlers": [handler]}))
        probe.alone()
        hanging = [self._add(f"{self._receivers.url}/hangs/beside {number}".replace(" ", "-")) for number in range(HANGING)]
        for number in range(BACKLOG):
            self._accept(f"backlog {number}", {"message": f"backlog {number}", "handlers": hanging})
        return probe

    def end(self) -> None:
        while time.monotonic() < self._ends and self._failure is None:
            time.sleep(SAMPLE_SECONDS)
        self._unkind.end()
        self._probe.end()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def _guarded(self, work: Any, *args: object) -> None:
        try:
            work(*args)
        except BaseException as failure:
            self._failure = failure
            raise

    def _add(self, url: str) -> int:
        form = {"type": "webhook", "name": url, "webhook": url}
        return int(self.service.call("POST", "/api/notification-handlers", form)["data"]["id"])

    def _add_mailbox(self, address: str) -> int:
        form = {"type": "email", "name": address, "email": address}
        return int(self.service.call("POST", "/api/notification-handlers", form)["data"]["id"])

    # ------------------------------------------------------------------------------------------------------- the load

    def _send(self, number: int) -> None:
        dice = random.Random(f"{self._seed} {number}")
        count = 0
        while (now := time.monotonic()) < self._ends:
            count += 1
            self._act(dice, f"{self.name} {number} {count}", has_mail=now < self._ends - MAIL_ENDS_BEFORE)
            time.sleep(max(0.0, self.began + count / REQUESTS_A_SECOND - time.monotonic()))

    def _act(self, dice: random.Random, key: str, *, has_mail: bool) -> None:
        what = dice.random()
        if what < 0.70:
            self._accept(key, self._content(dice, key, has_mail=has_mail))
        elif what < 0.90:
            texts = [self._content(dice, f"{key} {index}", has_mail=has_mail) for index in range(dice.randint(2, 12))]
            answer = self._insist("POST", "/api/notifications/batch", {"notifications": texts}, key)
            with self._lock:
                self.accepted.update((f"{key} {index}", one["id"]) for index, one in enumerate(answer["data"]))
        elif what < 0.94:
            later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + dice.randint(2, 8)))
            notification = self._accept(key, self._content(dice, key, has_mail=False) | {"send_at": later})
            if dice.random() < 0.5:
                self._insist("DELETE", f"/api/notifications/{notification}", None, None)
        elif what < 0.96:
            self._insist("POST", "/api/deliveries/retry?status=failed&search=" + self.name, {}, f"{key} again")
        else:
            self._insist("GET", "/api/deliveries?results_per_page=100", None, None)

    def _content(self, dice: random.Random, key: str, *, has_mail: bool) -> dict[str, object]:
        mails = (3.2, 0.5) if has_mail else (0, 0)
        kind = dice.choices(("well", "far", "ill", "hangs", "mail", "slow mail"), (35, 15, 46, 0.3, *mails))[0]
        text = f"{key} " + "말씀 **bold** `code`\n\n" * dice.choice((1, 1, 1, 40))
        handlers = self._handlers[kind]
        return {"message": text, "handlers": dice.sample(handlers, min(len(handlers), dice.choice((1, 1, 2))))}

    def _accept(self, key: str, content: dict[str, object]) -> int:
        notification = int(self._insist("POST", "/api/notifications", content, key)["data"]["id"])
        with self._lock:
            self.accepted[key] = notification
        return notification

    def _insist(self, method: str, path: str, content: dict[str, object] | None, key: str | None) -> Any:
        """As a careful client does: again with the same key while the service is down."""
        ends_at = time.monotonic() + 60
        while True:
            try:
                return self.service.call(method, path, content, key)
            except Down:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.05)

    def calm(self) -> None:
        """From now on every receiver takes what comes."""
        self._receivers.calm = True

    # -------------------------------------------------------------------------------------------------------- watching

    def _sample(self) -> None:
        while time.monotonic() < self._ends:
            time.sleep(SAMPLE_SECONDS)
            pid = self.service.pid
            try:
                status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
                descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue  # just killed
            if "VmRSS" not in status:
                continue
            rss = int(status.partition("VmRSS:")[2].split()[0]) / 1024
            self.samples.append(Sample(time.monotonic() - self.began, rss, descriptors))

    def flat(self, what: str) -> tuple[float, float]:
        """The middle of half a minute at minute 2 (or after a fifth of a shorter run), and of the last half minute."""
        whole = self._ends - self.began
        first = min(120.0, whole / 5)
        begin = [getattr(one, what) for one in self.samples if first <= one.at < first + 30]
        end = [getattr(one, what) for one in self.samples if one.at >= whole - 30]
        return statistics.median(begin), statistics.median(end)

    # ------------------------------------------------------------------------------------------------------- the books

    def settle(self, until: float) -> None:
        while time.monotonic() < until and self._insist("GET", "/api/deliveries?status=pending", None, None)["meta"]["total"]:
            time.sleep(0.5)

    def _rows(self) -> Iterator[dict[str, Any]]:
        page = 1
        while rows := self.service.call("GET", f"/api/deliveries?results_per_page=1000&page={page}")["data"]:
            yield from rows
            page += 1

    def _said_unknown(self, delivery: int) -> bool:
        return any(one["outcome"] == "unknown" for one in self.service.call("GET", f"/api/deliveries/{delivery}")["data"]["attempts"])

    def books(self) -> Books:
        rows = {row["id"]: row for row in self._rows()}
        beside = self._probe.found()  # before its arrivals are looked at
        answered, known = self._receivers.answered, set(self.accepted.values())
        answered.update({one: self._probe.arrived[row["notification_id"]] for one, row in rows.items()})
        failed = [row for row in rows.values() if row["status"] == "failed"]
        repeated = [one for one in rows if answered[one] > 1]
        return Books(
            name=self.name,
            notifications=len(known),
            deliveries=len(rows),
            statuses=dict(Counter(row["status"] for row in rows.values())),
            failures=dict(Counter((row["last_error"] or "").partition(":")[0] for row in failed)),
            not_accepted=len({row["notification_id"] for row in rows.values()} ^ known),
            waiting=sum(row["status"] == "pending" for row in rows.values()),
            missing=sum(row["status"] == "delivered" and not answered[one] for one, row in rows.items()),
            repeated=len(repeated),
            unexplained=sum(not self._said_unknown(one) for one in repeated) + sum(one not in rows for one in answered if one),
            rss_mb=self.flat("rss_mb"),
            descriptors=self.flat("descriptors"),
            beside=beside,
        )


def soak(seed: int, minutes: float, folder: Path) -> Books:
    with ExitStack() as stack:
        healthy = Receiver(cores()[1], 1)
        stack.callback(healthy.close)
        receivers = Receivers(seed)
        stack.enter_context(receivers.running())
        steady = Soaked("steady", folder / "steady", seed, receivers, healthy)
        stack.callback(steady.service.kill)
        steady.begin(minutes * 60)
        steady.end()
        steady.calm()
        steady.settle(time.monotonic() + SETTLE_SECONDS)
        return steady.books()


@contextmanager
def disturbed(seed: int, minutes: float, *more: str) -> Generator[subprocess.Popen[str], None, None]:
    """The matrix meanwhile, in a process of its own: it may need a namespace. What it prints is for its end."""
    command = [sys.executable, "-m", "bench.matrix", "--seed", str(seed), "--seconds", str(minutes * 60), "--keep", *more]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    options = parser.parse_args()
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with disturbed(options.seed, options.minutes) as on_sqlite, disturbed(options.seed, options.minutes, "--postgresql") as on_postgresql:
        with tempfile.TemporaryDirectory(prefix="soak-", dir=build) as folder:
            found = soak(options.seed, options.minutes, Path(folder))
        said = [matrix.communicate()[0] for matrix in (on_sqlite, on_postgresql)]
    sys.stdout.write(json.dumps({"seed": options.seed, "minutes": options.minutes, "books": to_builtins(found)}, indent=2) + "\n")
    sys.stdout.write("".join(said))
    sys.stdout.write("\n".join(found.complaints or ["Steady: every promise was kept."]) + "\n")
    return 1 if found.complaints or on_sqlite.returncode or on_postgresql.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
