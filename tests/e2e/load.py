"""Senders that keep on sending whatever dies, and what is looked at afterwards."""

import http.client
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from e2e.service import Client, Service
from receiver import Receiver

SENDERS = 8
HANDLERS = 10


def in_flight(service: Service) -> set[tuple[int, int]]:
    """(delivery, attempt number) of what was under way when the process died, from the file that it leaves."""
    entries = struct.iter_unpack("<qqq", (service.data / "in-flight").read_bytes())
    return {(delivery, number) for delivery, number, _ in entries if delivery > 0}


class Senders:
    """Threads that send numbered messages, each with an idempotency key, again and again until it is accepted."""

    def __init__(self, client: Client, sends: int, refusals: Sequence[int] = ()) -> None:
        """`refusals`: answers that are no surprise, after which they try again."""
        self.client = client
        self.refusals = refusals
        self.accepted: dict[int, int] = {}
        """Number of the message to id of the notification."""
        self.changed = threading.Condition()
        self._numbers = iter(range(sends))
        self._is_up = threading.Event()
        self._failure: BaseException | None = None
        self._is_over = False
        self._threads = [threading.Thread(target=self._send, daemon=True) for _ in range(SENDERS)]
        self._is_up.set()
        for thread in self._threads:
            thread.start()

    def down(self) -> None:
        self._is_up.clear()

    def up(self, port: int) -> None:
        self.client.port = port
        self._is_up.set()

    def wait(self, count: int) -> None:
        with self.changed:
            enough = self.changed.wait_for(lambda: len(self.accepted) >= count or self._failure, 40)
        assert enough and not self._failure, (len(self.accepted), count, self._failure)

    def give_up(self) -> None:
        self._is_over = True
        self._is_up.set()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(40)
            assert not thread.is_alive()
        assert not self._failure, self._failure

    def _send(self) -> None:
        try:
            while (number := self._next()) is not None:
                while (notification := self._try(number)) is None:
                    self._is_up.wait(40)
                    if self._is_over:
                        return
                with self.changed:
                    self.accepted[number] = notification
                    self.changed.notify_all()
        except BaseException as failure:
            self._failure = failure
            with self.changed:
                self.changed.notify_all()
            raise

    def _next(self) -> int | None:
        with self.changed:
            return next(self._numbers, None)

    def _try(self, number: int) -> int | None:
        content = {"message": f"{number}", "handlers": [1 + number % HANDLERS]}
        try:
            reply = self.client.post("/api/notifications", content, Idempotency_Key=f"number {number}")
        except (OSError, http.client.HTTPException):
            return None  # it was killed before it had answered
        if reply.status in self.refusals:
            time.sleep(0.05)
            return None
        assert reply.status == 202, reply.content
        return reply.data["id"]


@contextmanager
def sending(client: Client, sends: int, refusals: Sequence[int] = ()) -> Iterator[Senders]:
    senders = Senders(client, sends, refusals)
    try:
        yield senders
    except BaseException:
        senders.give_up()  # they would try for ever, and take the time of all other tests
        raise
    senders.join()


def arrivals(receiver: Receiver) -> Counter[int]:
    """How often each delivery has arrived."""
    return Counter(one.json()["data"]["delivery_id"] for one in list(receiver.requests))


def nothing_waits(client: Client) -> Callable[[], bool]:
    return lambda: client.get("/api/deliveries?status=pending").json["meta"]["total"] == 0
