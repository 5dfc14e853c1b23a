"""Clients of a cluster: each sends to one process after the other, and asks again as a careful client does."""

import itertools
import threading
import time
from collections.abc import Mapping, Sequence
from random import Random

from tocsin.cli.selftest.many.books import Sent
from tocsin.cli.selftest.many.cluster import Cluster

PACED = 0.03  # of what others get


class Load:
    """`handlers`: names by id; `a_second`: requests of all clients together. The same seed sends the same."""

    def __init__(self, cluster: Cluster, handlers: Mapping[int, str], a_second: float, seed: int = 1, clients: int = 6) -> None:
        self._cluster = cluster
        self._handlers = sorted(handlers)
        self._weights = [PACED if handlers[one].startswith(("slack", "discord")) else 1.0 for one in self._handlers]
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
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def end(self) -> None:
        """No more. Raises what ended a client before its time."""
        self.__exit__()
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
                self.send(self._choose(dice))
                self._ends.wait(max(0.0, began + self._every - time.monotonic()))
        except BaseException as failure:
            self._failure = failure
            raise

    def text(self) -> str:
        """Of a message that is like no other."""
        with self._lock:
            return f"message {next(self._numbers)}."

    def send(self, handlers: Sequence[int]) -> int:
        """The notification's id."""
        text = self.text()
        content: dict[str, object] = {"message": text, "handlers": list(handlers)}
        asked = time.monotonic()
        answer = self._cluster.ask("POST", "/api/notifications", content, f"{id(self)} {text}")
        return self.accepted([answer["data"]["id"]], asked)[0]

    def send_batch(self, handler: int, count: int) -> list[int]:
        """The notifications' ids."""
        texts = [self.text() for _ in range(count)]
        asked = time.monotonic()
        content: dict[str, object] = {"notifications": [{"message": text, "handlers": [handler]} for text in texts]}
        answer = self._cluster.ask("POST", "/api/notifications/batch", content, f"{id(self)} {texts[0]}")
        return self.accepted([one["id"] for one in answer["data"]], asked)

    def accepted(self, notifications: Sequence[int], asked: float) -> list[int]:
        """Note what was answered with 202 just now."""
        with self._lock:
            self.sent += [Sent(int(one), asked, time.monotonic()) for one in notifications]
        return [int(one) for one in notifications]

    def _choose(self, dice: Random) -> Sequence[int]:
        return list(dict.fromkeys(dice.choices(self._handlers, self._weights, k=dice.choice((1, 1, 2)))))
