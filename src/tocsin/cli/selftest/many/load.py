"""Clients of a cluster: each sends to one process after the other, and asks again as a careful client does."""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from random import Random

from tocsin.cli.selftest.many.books import Sent
from tocsin.cli.selftest.many.cluster import Cluster


class Load:
    """`handlers`: names by id; `a_second`: requests of all clients together. The same seed sends the same."""

    def __init__(self, cluster: Cluster, handlers: Mapping[int, str], a_second: float, seed: int = 1, clients: int = 4) -> None:
        self._cluster = cluster
        self._handlers = sorted(handlers)
        self._weights = [0.03 if _is_paced(handlers[one]) else 1.0 for one in self._handlers]
        self._every = clients / a_second
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._failure: BaseException | None = None
        self.sent: list[Sent] = []
        self._threads = [threading.Thread(target=self._guarded, args=(Random(f"{seed} {number}"),)) for number in range(clients)]  # noqa: S311

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """No more. Raises what ended a client before its time."""
        self._ends.set()
        for thread in self._threads:
            thread.join()
        if self._failure is not None:
            raise self._failure

    def wait_for(self, count: int) -> None:
        """Until so many were accepted."""
        while len(self.sent) < count and self._failure is None:
            time.sleep(0.01)

    def _guarded(self, dice: Random) -> None:
        try:
            while not self._ends.is_set():
                began = time.monotonic()
                self._send(dice)
                self._ends.wait(max(0.0, began + self._every - time.monotonic()))
        except BaseException as failure:
            self._failure = failure
            raise

    def _send(self, dice: Random) -> None:
        with self._lock:
            number = next(self._numbers)
        handlers = self._choose(dice)
        asked = time.monotonic()
        content: dict[str, object] = {"message": f"message {number}", "handlers": list(handlers)}
        answer = self._cluster.ask("POST", "/api/notifications", content, f"{id(self)} {number}")
        with self._lock:
            self.sent.append(Sent(int(answer["data"]["id"]), asked, time.monotonic()))

    def _choose(self, dice: Random) -> Sequence[int]:
        return list(dict.fromkeys(dice.choices(self._handlers, self._weights, k=dice.choice((1, 1, 2)))))


def _is_paced(name: str) -> bool:
    return name.startswith(("slack", "discord"))
