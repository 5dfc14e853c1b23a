"""Processes with the real engine and the real flow on one fake server, the providers that they send to, and books of all that happened."""

import asyncio
import itertools
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
from msgspec import Struct

from support.server import Server, Session
from support.virtual import EPOCH, Process, World
from tocsin import clock, observe
from tocsin.channels.contract import Pace
from tocsin.clock import SECOND
from tocsin.engine.places import Bounds
from tocsin.engine.server_clock import Times
from tocsin.engine.shared import SharedEngine
from tocsin.flow import pools
from tocsin.flow.delivery import sending
from tocsin.flow.delivery.deliver import Delivering
from tocsin.flow.delivery.keep import Keeping
from tocsin.flow.delivery.sending import Sending
from tocsin.flow.delivery.takeover import TakeOver
from tocsin.flow.directory import Directory
from tocsin.flow.egress import Egress
from tocsin.flow.handlers.at_owner import TrialsByOwners
from tocsin.flow.handlers.trial import Letter, Trial, Trials, _Test
from tocsin.flow.pace import Pacer
from tocsin.flow.pauses import SharedPauses
from tocsin.metrics import Metrics
from tocsin.model import Busy, HttpReply, MailReply, Message, NoReply, Reason, Request, Status
from tocsin.ports.errors import StoreError
from tocsin.ports.queue import Settlement, Waiting
from tocsin.ports.workers import Introduction
from tocsin.settings import load
from tocsin.vault import Vault

PLENTY = Bounds(places=3000, size=48 << 20, untrusted=1200, silent=600)
SETTINGS = {"TOCSIN_RETRY_SCHEDULE": ",".join(["1s", "2s", "3s", *["5s"] * 20]), "TOCSIN_DISABLE_AFTER_FAILURES": "0"}


def _taken(kind: str) -> bytes:
    """What a provider says of a message that it took."""
    return b'{"ok":true,"result":{"message_id":1},"id":"1"}' if kind != "slack" else b"ok"


class Sent(Struct):
    """A request that a provider got."""

    delivery_id: int
    number: int
    part: int
    node: "Node"
    at: float
    paces: tuple[Pace, ...]
    arrived: bool
    settled_at: float = float("inf")


class Told(Struct):
    """An accepted delivery: when it was asked for, and when its sender had the answer."""

    delivery_id: int
    handler_id: int
    asked_at: float
    told_at: float


class _Asking:
    """The port of a session, whose own `ask` is another."""

    def __init__(self, session: Session) -> None:
        self.ask = session.ask_worker
        self.answer_with = session.answer_with


class _Pausing:
    """The port of a session, whose own `of` is another."""

    def __init__(self, session: Session) -> None:
        self.begin = session.begin_pauses
        self.of = session.pauses_of


class _TestWires:
    """The wires of one test send."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._flying: _Test | None = None

    def start(self, _: Request, sender: "_Test") -> None:
        self._flying = sender
        seconds, reply = self._node.cluster.tester(self._node, sender)
        self._node.cluster.world.after(seconds, lambda: self._node.process.do(self._replied, reply))

    def _replied(self, reply: HttpReply | MailReply | NoReply) -> None:
        if (sender := self._flying) is not None:
            self._flying = None
            sender.replied(reply)

    def cut(self) -> None:
        self._node.process.loop.call_soon(self._replied, NoReply(Reason.CUT, sent=True, detail="cut off", stopped=True))


class _Stand:
    """What the flow needs and these tests do not look at."""

    answered_at = 0
    found = ()
    mail = None

    def identity(self, delivery_id: int) -> str:
        return f"msg_{delivery_id}"

    def begin(self, *_: Any) -> int:
        return 0

    def settled(self, _: int) -> None:
        pass

    def delivered(self, _: Any) -> None:
        pass

    def ended(self, *_: Any) -> None:
        pass


class Node:
    """One process of the service."""

    def __init__(self, cluster: "Cluster", name: str, roles: str, ahead: float, version: str) -> None:
        self.cluster = cluster
        self.roles = roles
        self.process: Process = cluster.world.process(name, ahead)
        self.session = Session(cluster.server, self.process)
        self.is_joined = False
        self.refusal = ""
        self.lost_at: list[float] = []  # when a watcher took it for dead, or it was
        store = cast(Any, self.session)
        self.directory = Directory(store, cluster.vault, cluster.settings)
        egress = Egress()
        self.pacer = Pacer(wall=self.process.now, egress=egress)
        times = Times(self.process.steady, self.process.own, self.process.follow)
        who = Introduction(name, roles, "", "", version)
        self.engine = SharedEngine(store, {"http": PLENTY, "mail": PLENTY}, self.session, self.session, who, times=times)
        self.pacer.fence = self.engine.fence
        pauses = SharedPauses(cast(Any, _Pausing(self.session)), self.pacer)
        stand = cast(Any, _Stand())
        keeping = Keeping(store, stand, stand, Metrics(), stand)
        self._delivering = Delivering(store, self.directory, self.pacer, cast(Any, self), keeping, stand)
        self.engine.succession = TakeOver(self.session, store, self.directory, self.pacer, egress, keeping, pauses)
        nobody = cast(Any, None)  # to ask, since nothing is mailed
        trials = Trials(self.directory, self.pacer, cast(Any, self), cluster.settings, nobody, nobody)
        self.tests = TrialsByOwners(trials, self.engine, cast(Any, _Asking(self.session)), self.session, cluster.vault)
        self._flying: dict[int, Sending] = {}
        self._count = itertools.count()
        self.process.spawn(self._start())

    async def _start(self) -> None:
        while not self.is_joined:
            try:
                await self.engine.start(self._delivering)
                self.is_joined = True
            except Busy:
                await asyncio.sleep(1.0)
            except StoreError as error:
                self.refusal = str(error)
                self.process.kill()
                return

    async def accept(self, handler_id: int, text: str, wait: float = 0.0, partition: int | None = None) -> None:
        """As a request to this process."""
        asked_at, server = self.cluster.world.now, self.cluster.server
        home = server.handlers[handler_id].partition if partition is None else partition
        try:
            job: Waiting = await self.session.ask(server.accept, handler_id, text, wait, home)
        except Busy:
            return
        if wait:
            self.engine.wake(handler_id, job.delivery.user_id, job.delivery.due_at)
        else:
            self.engine.hand_over([job])
            self.cluster.told.append(Told(job.delivery.id, handler_id, asked_at, self.cluster.world.now))

    async def leave(self) -> None:
        await self.engine.stop(5.0)
        self.process.kill()

    async def test(self, handler_id: int) -> None:
        """As a request to test a handler. What comes of it is in the books."""
        try:
            trial = await self.tests.saved(self.cluster.server.handlers[handler_id].row.user_id, handler_id)
        except Busy as busy:
            self.cluster.trials.append(str(busy))
        else:
            self.cluster.trials.append(trial)

    async def mail(self, address: str, letter: Letter) -> None:
        """As the one that tells users of changes."""
        self.cluster.trials.append(await self.tests.mail(1, address, letter))

    # the wires
    def for_tests(self, _: int) -> _TestWires:
        return _TestWires(self)

    def start(self, request: Request, sender: Sending) -> None:  # the protocol
        sender.goes_out()
        number = next(self._count)
        self._flying[number] = sender
        seconds, reply = self.cluster.provider(self, sender)
        self.cluster.world.after(seconds, lambda: self.process.do(self._replied, number, reply))

    def _replied(self, number: int, reply: HttpReply | NoReply) -> None:
        sender = self._flying.pop(number, None)
        if sender is not None:
            sender.replied(reply)

    def cut(self) -> None:
        for number in list(self._flying):
            self.process.loop.call_soon(self._replied, number, NoReply(Reason.CUT, sent=True, detail="cut off", stopped=True))


class Cluster:
    def __init__(self, seed: int) -> None:
        self.world = World(seed)
        self.settings = load(SETTINGS)
        self.vault = Vault(["a-key-for-tests-only"])
        self.server = Server(self.world, self.settings, self.vault)
        self.nodes: list[Node] = []
        self.sent: list[Sent] = []
        self.tested: list[Sent] = []
        self.letters: list[Message] = []
        self.trials: list[Trial | str] = []
        self.told: list[Told] = []
        self._open: dict[tuple[int, int], list[Sent]] = defaultdict(list)
        self.answer_seconds = (0.005, 0.08)
        self.errors_of_providers = 0.0
        settle, leave = self.server.settle, self.server.leave

        def settled(settlement: Settlement) -> bool:
            if settlement.attempt is not None:
                for one in self._open.pop((settlement.delivery.id, settlement.attempt.number), ()):
                    one.settled_at = self.world.now
            return settle(settlement)

        def left(worker_id: int) -> None:
            for node in self.nodes:
                if node.engine.worker_id == worker_id:
                    node.lost_at.append(self.world.now)
            leave(worker_id)

        self.server.settle, self.server.leave = settled, left

    def node(self, roles: str = "all", ahead: float = 0.0, version: str = "1.2.0") -> Node:
        made = Node(self, f"{roles}-{len(self.nodes) + 1}", roles, ahead, version)
        self.nodes.append(made)
        return made

    def live(self, roles: str = "") -> list[Node]:
        return [one for one in self.nodes if one.process.is_alive and one.is_joined and (not roles or one.roles in {roles, "all"})]

    def kill(self, node: Node) -> None:
        node.process.kill()
        node.lost_at.append(self.world.now)

    def provider(self, node: Node, sender: Sending) -> tuple[float, HttpReply]:
        """A request arrives: in how many seconds it is answered, and with what."""
        dice = self.world.dice
        is_ok = dice.random() >= self.errors_of_providers
        one = Sent(sender.job.delivery.id, sender.context.attempt, sender.part, node, self.world.now, sender.loaded.paces, is_ok)
        self.sent.append(one)
        self._open[one.delivery_id, one.number].append(one)
        return dice.uniform(*self.answer_seconds), HttpReply(200 if is_ok else 503, {}, _taken(sender.loaded.channel.type))

    def tester(self, node: Node, sender: _Test) -> tuple[float, HttpReply | MailReply]:
        """A test, or a letter, arrives."""
        one = Sent(0, 0, sender.part, node, self.world.now, sender.loaded.paces, arrived=True)
        self.tested.append(one)
        if sender.loaded.channel.wire == "mail":
            self.letters.append(sender.message)
            return self.world.dice.uniform(*self.answer_seconds), MailReply(250, "queued", "final")
        return self.world.dice.uniform(*self.answer_seconds), HttpReply(200, {}, _taken(sender.loaded.channel.type))

    # ------------------------------------------------------------------------------------------------ the books

    def check(self) -> dict[str, int]:
        """Counts of what must not be, and of what may be."""
        assert self.world.errors == []
        arrived: dict[tuple[int, int], list[Sent]] = defaultdict(list)
        for one in self.sent:
            if one.arrived:
                arrived[one.delivery_id, one.part].append(one)
        rows = [job.delivery for job in self.server.rows.values()]
        undelivered = [row.id for row in rows if row.status not in {Status.DELIVERED, Status.CANCELLED}]
        lost = [row.id for row in rows if row.status is Status.DELIVERED and (row.id, 0) not in arrived]
        repeats = sum(len(some) - 1 for some in arrived.values())
        unexplained = [
            (earlier, later)
            for some in arrived.values()
            for earlier, later in itertools.pairwise(some)
            if not any(earlier.at <= at + 3.0 and earlier.settled_at > at for at in earlier.node.lost_at)
        ]
        assert undelivered == [], (len(undelivered), [self.server.rows[one].delivery for one in undelivered[:5]])
        assert lost == []
        assert unexplained == [], unexplained[:2]
        assert self._out_of_order() == []
        assert self._too_fast() == []
        return {"rows": len(rows), "requests": len(self.sent), "repeats": repeats}

    def _out_of_order(self) -> list[tuple[Told, Told]]:
        """Deliveries that began before one of the same handler whose sender had its answer before they were asked for."""
        began = {key[0]: (at - EPOCH) / SECOND for key, at in self.server.attempts.items() if key[1] == 1}  # claimed, and the process died
        seen = {one.delivery_id for one in self.sent if one.number == 1}
        first = {one: at for one, at in began.items() if one not in seen}
        for one in self.sent:
            first.setdefault(one.delivery_id, one.at)
        by_handler: dict[int, list[Told]] = defaultdict(list)
        for told in self.told:
            if told.delivery_id in first:
                by_handler[told.handler_id].append(told)
        wrong: list[tuple[Told, Told]] = []
        for some in by_handler.values():
            latest: Told | None = None  # of those whose answer had come, the one that began last
            answered = sorted(some, key=lambda one: one.told_at)
            index = 0
            for told in sorted(some, key=lambda one: one.asked_at):
                while index < len(answered) and answered[index].told_at < told.asked_at:
                    if latest is None or first[answered[index].delivery_id] > first[latest.delivery_id]:
                        latest = answered[index]
                    index += 1
                if latest is not None and first[latest.delivery_id] > first[told.delivery_id]:
                    wrong.append((latest, told))
        return wrong

    def _too_fast(self) -> list[tuple[Pace, float]]:
        """Windows that held more than their count, by more than 5 ms."""
        starts: dict[Pace, list[float]] = defaultdict(list)
        for one in sorted([*self.sent, *self.tested], key=lambda one: one.at):
            for pace in one.paces:
                starts[pace].append(one.at)
        return [
            (pace, times[index])
            for pace, times in starts.items()
            for index in range(len(times) - pace.count)
            if times[index + pace.count] - times[index] < pace.seconds - 0.005
        ]


@contextmanager
def cluster(seed: int) -> Iterator[Cluster]:
    """In its own time: whatever asks what time it is gets the answer of the process that asks."""
    made = Cluster(seed)

    async def at_once(_pool: Any, _user: Any, call: Callable[..., Any], *args: Any) -> Any:
        return call(*args)

    def now() -> int:
        return made.world.current.now() if made.world.current is not None else made.server.now()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "now", now)
        patch.setattr(time, "monotonic", lambda: made.world.now)
        patch.setattr(sending, "_random", made.world.dice)
        patch.setattr(random, "random", made.world.dice.random)
        patch.setattr(pools.Pool, "run", at_once)  # threads live in another time
        patch.setattr(observe, "log_attempts", lambda *_: None)
        try:
            yield made
        finally:
            made.world.close()
