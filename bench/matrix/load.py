"""Clients: what they send, cancel, pause, delete and replay while things go wrong, and what they were told."""

import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from msgspec import Struct

from bench.matrix.clocks import Clock
from bench.matrix.evidence import Accepted
from bench.matrix.witness import Witness, mark
from tocsin.cli.selftest.service import Down, Refused, Service

SENDERS = 3
INSISTS_SECONDS = 120.0
KEY_LASTS_SECONDS = 80_000  # a little less than the service promises
BEGINNING = {"well": 5, "ill": 8, "far": 3, "mail": 2, "slowmail": 1, "slack": 2, "discord": 2, "group": 2, "person": 2, "x": 2}
# So many messages a minute of load, that no pace holds them up for long.
_MAX_A_MINUTE = {"mail": 60, "slowmail": 12, "slack": 60, "discord": 40, "group": 24, "person": 40, "x": 16}
# To whom long texts go too: those are sent in parts, or are large.
_LONG = {"well", "ill", "group", "person", "discord", "mail"}
_WORDS = "말씀 **bold** `code` and some more words of an ordinary alarm " * 9
T = TypeVar("T")


class Manner(Struct, frozen=True):
    """How clients behave. `handlers`: how many of each kind there are at the beginning; `weights`: how often something is sent to one.

    `only_sends`: nothing is cancelled, paused, deleted, replayed or read, and everything is due at once and for ever.
    """

    handlers: dict[str, int]
    weights: dict[str, float]
    requests_a_second: float  # of each
    only_sends: bool = False


EVERYTHING = Manner(
    BEGINNING, {"well": 30, "ill": 40, "far": 12, "mail": 3, "slowmail": 0.5, "slack": 3, "discord": 4, "group": 2, "person": 2, "x": 2}, 7
)
HONEST = Manner({"well": 10, "far": 10}, {"well": 60, "far": 40}, 40, only_sends=True)
"""To receivers that take everything, some of them after a while: what arrives twice was in flight at a kill."""


class Load:
    """`accepted`: every 202. `dropped`: tokens of what was refused in the end, though an earlier asking may have been accepted unheard.
    `names`: every handler that was ever registered, by id and key.
    """

    def __init__(self, service: Service, witness: Witness, clock: Clock, seed: int, seconds: float, manner: Manner = EVERYTHING) -> None:
        self.accepted: list[Accepted] = []
        self.names: list[tuple[int, str]] = []
        self.dropped: set[str] = set()
        self.failure: BaseException | None = None
        self.counts = dict.fromkeys(("refused", "cancels", "pauses", "deletes", "replays"), 0)
        self._service, self._witness, self._clock, self._seed = service, witness, clock, seed
        self._seconds, self._manner = seconds, manner
        self._handlers: dict[str, int] = {}  # by key, of those that are there
        self._sent = dict.fromkeys(manner.handlers, 0)
        self._next = dict(manner.handlers)
        self._tokens = iter(range(1, 1 << 30))
        self._lock = threading.Lock()
        self._ends = threading.Event()

    def begin(self) -> None:
        for kind, count in self._manner.handlers.items():
            for number in range(count):
                self._register(f"{kind}{number}")
        self._threads = [threading.Thread(target=self._guarded, args=(number,), daemon=True) for number in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Whatever is being asked for is asked for until it is answered. Raises what went wrong in a client."""
        self._ends.set()
        for thread in self._threads:
            thread.join()
        if self.failure is not None:
            raise self.failure

    def look_again(self) -> None:
        """After a restore: which handlers there are now, all of them switched on."""
        rows = self._all_handlers()
        with self._lock:
            self._handlers = {row["name"]: row["id"] for row in rows}
            self.names += [(row["id"], row["name"]) for row in rows]
        for row in rows:
            if not row["is_enabled"]:
                self._change(row["id"], is_enabled=True)

    # ------------------------------------------------------------------------------------------------------ one client

    def _guarded(self, number: int) -> None:
        dice, began, count = random.Random(f"{self._seed} {number}"), time.monotonic(), 0
        try:
            while not self._ends.is_set():
                count += 1
                try:
                    self._act(dice)
                except Refused as refused:  # a handler or a message that a restore or a client has taken away
                    if refused.status not in {404, 409, 422}:
                        raise
                    self.counts["refused"] += 1
                self._ends.wait(max(0.0, began + count / self._manner.requests_a_second - time.monotonic()))
        except BaseException as failure:
            self.failure = failure
            raise

    def _act(self, dice: random.Random) -> None:
        what = dice.random()
        if self._manner.only_sends:
            self._send(dice)
        elif what < 0.80:
            sent = self._send(dice)
            if sent and dice.random() < 0.08:
                self._cancel(sent)
        elif what < 0.86:
            sent = self._send(dice, later=dice.randint(1, 6))
            if sent and dice.random() < 0.5:
                self._cancel(sent)
        elif what < 0.91:
            self._pause(dice)
        elif what < 0.94:
            self._delete(dice)
        elif what < 0.97:
            self.counts["replays"] += 1
            status = dice.choice(("failed", "cancelled", "skipped", "expired"))
            self._insist(lambda: self._service.call("POST", f"/api/deliveries/retry?status={status}", {}))
        else:
            self._insist(lambda: self._service.call("GET", "/api/deliveries?results_per_page=100"))

    def _send(self, dice: random.Random, later: int = 0) -> Accepted | None:
        keys = self._choose(dice)
        if not keys:
            return None
        with self._lock:
            token = f"zq{next(self._tokens)}"
            handlers = tuple(self._handlers[key] for key in keys if key in self._handlers)
        is_long = dice.random() < 0.06 and all(key.rstrip("0123456789") in _LONG for key in keys)
        text = "\n\n".join(f"{mark(token, paragraph)} {_WORDS if is_long else 'words'}" for paragraph in range(10 if is_long else 1))
        content: dict[str, object] = {"message": text, "handlers": list(handlers)}
        if later:
            content["send_at"] = _written(self._clock.now() + later)
        if dice.random() < 0.03 and not self._manner.only_sends:
            content["expires_at"] = _written(self._clock.now() + later + dice.randint(2, 20))
        began, offset = time.monotonic(), self._clock.offset
        try:
            answer = self._insist(lambda: self._service.call("POST", "/api/notifications", content, token))
        except Refused:
            self.dropped.add(token)
            raise
        may_repeat = any(abs(one - offset) > KEY_LASTS_SECONDS for at, one in self._clock.steps if at >= began)
        sent = Accepted(token, int(answer["data"]["id"]), handlers, began, time.monotonic(), may_repeat)
        with self._lock:
            self.accepted.append(sent)
        return sent

    def _choose(self, dice: random.Random) -> list[str]:
        kind = dice.choices(list(self._manner.weights), list(self._manner.weights.values()))[0]
        with self._lock:
            self._sent[kind] += 1
            if kind in _MAX_A_MINUTE and self._sent[kind] > _MAX_A_MINUTE[kind] * self._seconds / 60:
                return []
            known = sorted(key for key in self._handlers if key.rstrip("0123456789") == kind)
        return dice.sample(known, min(len(known), dice.choice((1, 1, 2))))

    def _cancel(self, sent: Accepted) -> None:
        self.counts["cancels"] += 1
        self._insist(lambda: self._service.call("DELETE", f"/api/notifications/{sent.notification}"))

    def _pause(self, dice: random.Random) -> None:
        """Off, and on again soon: what waits is skipped."""
        with self._lock:
            handler = dice.choice(list(self._handlers.values()))
        self.counts["pauses"] += 1
        self._change(handler, is_enabled=False)
        self._ends.wait(dice.uniform(0.0, 0.5))
        self._change(handler, is_enabled=True)

    def _delete(self, dice: random.Random) -> None:
        """A webhook's handler, for which another one comes. One is left of each kind."""
        with self._lock:
            kind = dice.choice(("well", "ill", "far"))
            known = [key for key in self._handlers if key.rstrip("0123456789") == kind]
            if len(known) < 2:
                return
            key = dice.choice(known)
            handler = self._handlers.pop(key)
            number = self._next[kind]
            self._next[kind] += 1
        self.counts["deletes"] += 1
        self._insist(lambda: self._service.call("DELETE", f"/api/notification-handlers/{handler}"))
        self._register(f"{kind}{number}")

    # -------------------------------------------------------------------------------------------------------- requests

    def _register(self, key: str) -> None:
        """Asked again after no answer it may be there already, twice even: the last one counts."""
        form = {"name": key, **self._witness.settings(key)}
        handler = int(self._insist(lambda: self._service.call("POST", "/api/notification-handlers", form))["data"]["id"])
        with self._lock:
            self.names.append((handler, key))
            self._handlers[key] = handler

    def _change(self, handler: int, *, is_enabled: bool) -> None:
        path = f"/api/notification-handlers/{handler}"
        self._insist(lambda: self._service.call("POST", path, {"is_enabled": is_enabled}))

    def _all_handlers(self) -> list[dict[str, Any]]:
        return self._insist(lambda: self._service.call("GET", "/api/notification-handlers?results_per_page=1000"))["data"]

    def _insist(self, ask: Callable[[], T]) -> T:
        """As a careful client does: again while the service is down or says 503."""
        ends_at = time.monotonic() + INSISTS_SECONDS
        while True:
            try:
                return ask()
            except (Down, Refused) as error:
                is_in_flight = isinstance(error, Refused) and "Still in flight" in str(error)  # of ours, whose answer was lost
                if time.monotonic() > ends_at or (isinstance(error, Refused) and not is_in_flight):
                    raise
                time.sleep(0.03)


def _written(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
