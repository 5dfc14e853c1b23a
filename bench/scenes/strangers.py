"""What one user, or a stranger without a key, can do to all others: lists, heads without end, connections that say nothing."""

import contextlib
import http.client
import socket
import time
from collections.abc import Sequence

from bench.distant import Distant
from bench.filling import MINE, OTHER, OTHER_KEY, Planned, webhook
from bench.machine import forget_peak, peak_bytes
from bench.scenes.stage import Goal, Place
from bench.scenes.visitor import Visitor
from bench.service import Service

MAX_MORE_MB = 50.0
LOOKS = 3
SLACK_HANDLERS, LONG_LISTS, LONG_ITEMS = 8, 16, 16_300
SHORT_LISTS, SHORT_ITEMS = 100, 1020
HEAD_MB, VALUE_MB, LINE_MB = 152, 100, 50
FLOOD_SECONDS = 12.0
DESCRIPTORS, SILENT, HALF, FORMS = 1024, 1100, 100, 100
FORM_BYTES = 1 << 20


def slack_lists(place: Place) -> list[Goal]:
    """A batch of 1 MB of short lists to eight Slack handlers; then a hundred lists that are rendered at once."""
    with place.distant() as distant:
        planned = [webhook(OTHER, distant.url(0)), *(_slack(distant, number) for number in range(1, SHORT_LISTS + 1))]
        with place.serving(planned) as running:
            visitor, before = Visitor(running, distant, 1), peak_bytes(running.pid)
            handlers = range(2, 2 + SLACK_HANDLERS)
            _post(running, [("N\n\n" + "- a\n" * LONG_ITEMS, handlers[number % SLACK_HANDLERS]) for number in range(LONG_LISTS)])
            visitor.look(LOOKS)
            _post(running, [("- a\n" * SHORT_ITEMS, 2 + number) for number in range(SHORT_LISTS)])
            visitor.look(LOOKS)
            return [*visitor.goals("beside lists to Slack"), _memory(running, before, "beside lists to Slack")]


def _slack(distant: Distant, number: int) -> Planned:
    return Planned(MINE, "slack", {"slack": distant.url(number)})


def _post(running: Service, texts: Sequence[tuple[str, int]]) -> None:
    running.call("POST", "/api/notifications/batch", {"notifications": [{"message": text, "handlers": [one]} for text, one in texts]})


def _memory(running: Service, before: int, where: str) -> Goal:
    return Goal(f"memory more than before {where}", (peak_bytes(running.pid) - before) / 1e6, MAX_MORE_MB, " MB")


def heads(place: Place) -> list[Goal]:
    """152 MB of header lines, one header of 100 MB, and a path of 50 MB, each on a connection that stays as long as it may."""
    with place.distant() as distant, place.serving([webhook(OTHER, distant.url(0))]) as running:
        visitor = Visitor(running, distant, 1)
        forget_peak(running.pid)
        before = peak_bytes(running.pid)
        line = b"x-header: " + b"y" * 1012 + b"\r\n"
        with contextlib.ExitStack() as stack:
            taken = [
                _flood(running, stack, b"GET /healthz HTTP/1.1\r\nhost: a\r\n", line * 64, HEAD_MB),
                _flood(running, stack, b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-header: ", b"y" * 65_536, VALUE_MB),
                _flood(running, stack, b"GET /", b"y" * 65_536, LINE_MB),
            ]
            visitor.look(LOOKS)
        place.say(f"  taken of {HEAD_MB}, {VALUE_MB} and {LINE_MB} MB: {', '.join(f'{one / 1e6:.1f}' for one in taken)}")
        return [*visitor.goals("beside heads without end"), _memory(running, before, "beside heads without end")]


def _flood(running: Service, stack: contextlib.ExitStack, begin: bytes, piece: bytes, megabytes: int) -> int:
    """How many bytes were taken before the other side refused, or the time was up."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=FLOOD_SECONDS))
    sent, ends_at = 0, time.monotonic() + FLOOD_SECONDS
    with contextlib.suppress(OSError):
        connection.sendall(begin)
        while sent < megabytes * 1_000_000 and time.monotonic() < ends_at:
            connection.sendall(piece)
            sent += len(piece)
    return sent


def silent(place: Place) -> list[Goal]:
    """More connections that say nothing, or stop in the middle, than the service has descriptors."""
    with place.distant() as distant:
        planned = [webhook(OTHER, distant.url(number)) for number in range(2)]
        with place.serving(planned, descriptors=DESCRIPTORS) as running, contextlib.ExitStack() as stack:
            visitor = Visitor(running, distant, 1)
            forget_peak(running.pid)
            before = peak_bytes(running.pid)
            form = b"POST /sign-in HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-www-form-urlencoded\r\n"
            form += b"content-length: %d\r\n\r\nemail=" % FORM_BYTES + b"y" * (FORM_BYTES - 12)
            _open(running, stack, FORMS, form)
            _open(running, stack, HALF, b"GET /healthz HTTP/1.1\r\nhost:")
            _open(running, stack, SILENT, b"")
            visitor.look(LOOKS)
            return [*visitor.goals("beside silent connections"), _memory(running, before, "beside silent connections")]


def _open(running: Service, stack: contextlib.ExitStack, count: int, say: bytes) -> None:
    for _ in range(count):
        with contextlib.suppress(OSError):  # refused, or closed in the middle: as it should be
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=2))
            connection.sendall(say)


def fill_descriptors(place: Place, hanging: int = 600) -> list[Goal]:
    """256 descriptors, 600 that hang, and five healthy ones that close after each answer: what these get never fails."""
    healthy, seconds = 5, 14
    environ = {"TOCSIN_RETRY_SCHEDULE": "1s,1s"}
    with place.distant() as distant:
        planned = [webhook(OTHER, distant.url(number, "close")) for number in range(healthy)]
        planned += [webhook(MINE, distant.url(10 + number, "hang")) for number in range(hanging)]
        with place.serving(planned, environ, descriptors=256) as running:
            for _ in range(3):
                running.call("POST", "/api/notifications", {"message": "backlog", "handlers": list(range(6, 6 + hanging))})
            visitor = _Sender(running, healthy)
            visitor.send(seconds)
            time.sleep(3)
            failed, waiting = visitor.total("failed"), visitor.total("pending")
            arrived = {one.id for one in distant.take()} & visitor.sent
        place.say(f"  {len(arrived)} of {len(visitor.sent)} arrived, {failed} failed, {waiting} wait, {visitor.resets} calls reset")
        share = 100 * len(arrived) / max(1, len(visitor.sent))
        where = "without descriptors"
        return [
            Goal(f"failed {where}", failed, 0),
            Goal(f"calls reset {where}", visitor.resets, 0),
            Goal(f"arrived {where}", share, 97, " %", at_least=True),
        ]


class _Sender:
    """One message a second to each of the other user's first handlers, over one connection."""

    def __init__(self, running: Service, handlers: int) -> None:
        self._service = running
        self._handlers = list(range(1, handlers + 1))
        self.sent: set[int] = set()
        self.resets = 0  # calls that were not answered

    def send(self, seconds: int) -> None:
        for _ in range(seconds):
            texts = [{"message": "Well?", "handlers": [one]} for one in self._handlers]
            try:
                answer = self._service.call("POST", "/api/notifications/batch", {"notifications": texts}, OTHER_KEY)
            except (OSError, http.client.HTTPException):
                self.resets += 1
            else:
                self.sent.update(int(one["id"]) for one in answer["data"])
            time.sleep(1)

    def total(self, status: str) -> float:
        """How many of the other user's deliveries are in that state; infinite if the service does not say."""
        for _ in range(10):
            try:
                return int(self._service.call("GET", f"/api/deliveries?status={status}", key=OTHER_KEY)["meta"]["total"])
            except (OSError, http.client.HTTPException):
                self.resets += 1
                time.sleep(1)
        return float("inf")
