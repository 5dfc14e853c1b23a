"""A store that several engines share, in memory: what a PostgreSQL server does for them, with answers that take time, and faults."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from support.virtual import EPOCH, Process, World
from tocsin.channels.contract import home_of, settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.clock import SECOND, Micros
from tocsin.model import Busy, Delivery, Message, Notification, Status
from tocsin.partitions import PARTITIONS, own_root, partition_of
from tocsin.ports.asks import NotAnswered
from tocsin.ports.claims import Claimed, Noted
from tocsin.ports.handlers import HandlerRow
from tocsin.ports.pauses import Pause
from tocsin.ports.queue import Due, Settlement, Waiting, Wanted
from tocsin.ports.workers import Beat, DueIn, Introduction, Load, Member, Owners, Taken, Waking
from tocsin.settings import Settings
from tocsin.vault import Vault

T = TypeVar("T")


class Handler(Struct):
    row: HandlerRow
    partition: int


class Ask(Struct):
    """A question: taken by who is to answer it; then answered."""

    worker_id: int
    question: bytes
    answer: bytes | None = None


class Claim(Struct, frozen=True):
    worker_id: int
    at: Micros
    delivery_id: int
    number: int
    due_at: Micros
    replays: int


class Server:
    """Everything is done at once when a request arrives; `Session` is how processes reach it."""

    def __init__(self, world: World, settings: Settings, vault: Vault) -> None:
        self.world = world
        self.settings = settings
        self.vault = vault
        self.handlers: dict[int, Handler] = {}
        self.rows: dict[int, Waiting] = {}
        self.pending: dict[int, set[int]] = defaultdict(set)  # delivery ids by handler
        self.attempts: dict[tuple[int, int], Micros] = {}
        self.members: dict[int, Member] = {}
        self.listening: dict[int, tuple[Process, Callable[[Sequence[Waking]], None]]] = {}
        self.owner = [0] * PARTITIONS
        self.is_crashed = [False] * PARTITIONS
        self.state: list[bytes | None] = [None] * PARTITIONS
        self.version = 0
        self.claims: list[Claim] = []
        self.noted: list[tuple[int, Noted]] = []
        self.pauses: dict[str, Pause] = {}
        self.looks: list[int | None] = []  # for what is due: at how many deliveries of each partition, at the most
        self.asks: dict[int, Ask] = {}
        self.answering: dict[int, tuple[Process, Callable[[int], None]]] = {}  # by worker
        self._last_ask = 0
        self.away_until = 0.0
        self.loses_rings = 0.0
        self.rings = 0
        self._last_worker = 0

    def now(self) -> Micros:
        return EPOCH + int(self.world.now * SECOND)

    # -------------------------------------------------------------------------------------------------- rows

    def add_handler(self, kind: str, settings: dict[str, str]) -> int:
        handler_id = len(self.handlers) + 1
        row = HandlerRow(handler_id, 1 + handler_id % 5, kind, "", self.vault.seal(settings), None, True, 1, None, None, 1, None, None)
        self.handlers[handler_id] = Handler(row, self._home(handler_id, kind, settings))
        return handler_id

    def change(self, handler_id: int, kind: str, settings: dict[str, str]) -> None:
        handler = self.handlers[handler_id]
        handler.row = replace(handler.row, type=kind, settings=self.vault.seal(settings), version=handler.row.version + 1)
        handler.partition = self._home(handler_id, handler.row.type, settings)

    def _home(self, handler_id: int, kind: str, settings: dict[str, str]) -> int:
        home = home_of(CHANNELS[kind], settings_of(CHANNELS[kind], settings), self.settings)
        return partition_of(own_root(handler_id)) if home is None else home

    def accept(self, handler_id: int, text: str, wait: float, partition: int) -> Waiting:
        """One notification to one handler, due after so long."""
        delivery_id, now, user_id = len(self.rows) + 1, self.now(), self.handlers[handler_id].row.user_id
        due_at = now + int(wait * SECOND)
        delivery = Delivery(delivery_id, delivery_id, handler_id, user_id, Status.PENDING, due_at, due_at, now, partition=partition)
        self.rows[delivery_id] = Waiting(delivery, Notification(delivery_id, user_id, Message(text, at=now), None, None))
        self.pending[handler_id].add(delivery_id)
        return self.rows[delivery_id]

    def settle(self, settlement: Settlement) -> bool:
        after, attempt = settlement.delivery, settlement.attempt
        before = self.rows[after.id].delivery
        arrived = after.status is Status.DELIVERED
        if before.status is Status.DELIVERED or (before.status is not Status.PENDING and not arrived):
            return False
        if attempt is not None:
            self.attempts.setdefault((after.id, attempt.number), attempt.at)
        self.rows[after.id] = Waiting(replace(after, partition=before.partition), self.rows[after.id].notification)
        if after.status is not Status.PENDING:
            self.pending[after.handler_id].discard(after.id)
        return True

    def cancel(self, delivery_id: int) -> None:
        job = self.rows[delivery_id]
        if job.delivery.status is Status.PENDING:
            self.rows[delivery_id] = Waiting(replace(job.delivery, status=Status.CANCELLED), job.notification)
            self.pending[job.delivery.handler_id].discard(delivery_id)

    def due(self, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
        found: dict[int, Due] = {}
        for handler_id, want in wanted.items():
            rows = sorted((self.rows[one] for one in self.pending[handler_id]), key=lambda one: (one.delivery.due_at, one.delivery.id))
            due_now = [one for one in rows if one.delivery.due_at <= now]
            later = [one.delivery.due_at for one in rows if one.delivery.due_at > now]
            some = due_now[: want.limit]
            jobs = [one for one in some if one.delivery.id not in want.known]
            found[handler_id] = Due(jobs, later[0] if later else None, len(some) >= want.limit)
        return found

    # ----------------------------------------------------------------------------------------------- workers

    def join(self, who: Introduction, process: Process, rang: Callable[[Sequence[Waking]], None]) -> int:
        self._last_worker += 1
        self.members[self._last_worker] = Member(self._last_worker, who, 0, 0, False, self.now(), Load())
        self.listening[self._last_worker] = process, rang
        return self._last_worker

    def beat(self, worker_id: int, seen: int, load: Load, is_leaving: bool) -> Beat | None:
        member = self.members.get(worker_id)
        if member is None:
            return None
        self.members[worker_id] = replace(member, beat=member.beat + 1, seen=seen, load=load, is_leaving=is_leaving)
        return Beat(list(self.members.values()), self.version, 0, self.now())

    def prune(self, worker_id: int, beat: int) -> bool:
        member = self.members.get(worker_id)
        if member is None or member.beat != beat:
            return False
        self.leave(worker_id)
        return True

    def leave(self, worker_id: int) -> None:
        self.members.pop(worker_id, None)
        for partition in range(PARTITIONS):
            if self.owner[partition] == worker_id:
                self.owner[partition], self.is_crashed[partition] = 0, True
        self.version += 1

    def take(self, worker_id: int, most: int, held: Collection[int]) -> list[Taken]:
        if worker_id not in self.members:
            return []
        mine = [one for one in range(PARTITIONS) if self.owner[one] == worker_id and one not in held]
        free = [*mine, *(one for one in range(PARTITIONS) if self.owner[one] == 0)][:most]
        for partition in free:
            self.owner[partition] = worker_id
        self.version += 1
        return [Taken(partition, self.is_crashed[partition], self.state[partition]) for partition in free]

    def release(self, worker_id: int, states: Mapping[int, bytes | None]) -> None:
        for partition, state in states.items():
            if self.owner[partition] == worker_id:
                self.owner[partition], self.is_crashed[partition], self.state[partition] = 0, False, state
        self.version += 1

    def ring(self, wakings: Mapping[int, Sequence[Waking]]) -> None:
        self.rings += 1
        for worker_id, some in wakings.items():
            if worker_id in self.listening and self.world.dice.random() >= self.loses_rings:
                process, rang = self.listening[worker_id]
                process.do(rang, some)

    def due_in(self, partitions: Collection[int], until: Micros, since: Micros, most: int | None = None) -> list[DueIn]:
        self.looks.append(most)
        rows = [self.rows[one].delivery for pending in self.pending.values() for one in pending]
        found: dict[tuple[int, int], Micros] = {}
        seen: Counter[int] = Counter()
        for delivery in sorted(rows, key=lambda one: one.due_at):
            if delivery.partition in partitions and since <= delivery.due_at < until:
                seen[delivery.partition] += 1
                if most is None or seen[delivery.partition] <= most:
                    found.setdefault((delivery.partition, delivery.handler_id), delivery.due_at)
        return [
            DueIn(partition, handler_id, self.handlers[handler_id].row.user_id, due_at, self.handlers[handler_id].partition)
            for (partition, handler_id), due_at in found.items()
        ]

    def rehome(self, handler_id: int, partition: int) -> Waking:
        handler = self.handlers[handler_id]
        for one in self.pending[handler_id]:
            job = self.rows[one]
            if job.delivery.partition == partition:
                self.rows[one] = Waiting(replace(job.delivery, partition=handler.partition), job.notification)
        return Waking(handler.partition, handler_id, handler.row.user_id)

    # ------------------------------------------------------------------------------------------------ claims

    def claim(self, worker_id: int, at: Micros, deliveries: Sequence[Delivery]) -> set[int] | None:
        if worker_id not in self.members:
            return None
        may: set[int] = set()
        for given in deliveries:
            row = self.rows[given.id].delivery
            is_home = self.handlers[row.handler_id].partition == row.partition
            as_given = is_home and (row.attempt_count, row.due_at, row.replays) == (given.attempt_count, given.due_at, given.replays)
            if row.status is Status.PENDING and as_given and self.owner[row.partition] == worker_id:
                may.add(row.id)
                self.claims.append(Claim(worker_id, at, row.id, row.attempt_count + 1, row.due_at, row.replays))
        return may

    def note(self, worker_id: int, until: Micros, partition: int, paces: bytes) -> bool:
        if self.owner[partition] != worker_id or worker_id not in self.members:
            return False
        self.noted.append((partition, Noted(until, paces)))
        return True

    def claimed(self, partitions: Collection[int], since: Mapping[str, Micros]) -> list[Claimed]:
        found: dict[tuple[int, int], Claim] = {}
        for claim in self.claims:
            handler = self.handlers[self.rows[claim.delivery_id].delivery.handler_id]
            is_dead = claim.worker_id not in self.members
            if (is_dead or claim.at >= since.get(handler.row.type, claim.at + 1)) and handler.partition in partitions:
                found[claim.delivery_id, claim.number] = claim
        made: list[Claimed] = []
        for (delivery_id, number), claim in found.items():
            row = self.rows[delivery_id].delivery
            started_at = self.attempts.get((delivery_id, number))
            is_due = row.status is not Status.PENDING or row.due_at == claim.due_at or claim.replays < row.replays
            is_open = claim.worker_id not in self.members and started_at is None and row.attempt_count + 1 == number and is_due
            made.append(Claimed(row, number, claim.at, is_open, started_at, claim.replays))
        return made

    # ------------------------------------------------------------------------------------------------ pauses

    def begin_pauses(self, pauses: Sequence[Pause], now: Micros) -> None:
        self.pauses = {key: one for key, one in self.pauses.items() if one.until > now}
        for one in pauses:
            self.pauses[one.key] = max(one, self.pauses.get(one.key, one), key=lambda pause: pause.until)

    def pauses_of(self, partitions: Collection[int], now: Micros) -> list[Pause]:
        return [one for one in self.pauses.values() if one.until > now and (one.partition is None or one.partition in partitions)]

    # -------------------------------------------------------------------------------------------------- asks

    def put(self, worker_id: int, question: bytes) -> int | None:
        if worker_id not in self.members:
            return None
        self._last_ask += 1
        self.asks[self._last_ask] = Ask(worker_id, question)
        self.put_again(self._last_ask)
        return self._last_ask

    def put_again(self, ask_id: int) -> None:
        process, asked = self.answering[self.asks[ask_id].worker_id]
        if self.world.dice.random() >= self.loses_rings:
            process.do(asked, ask_id)

    def read(self, ask_id: int, worker_id: int) -> bytes:
        one = self.asks.get(ask_id)
        if one is None or one.worker_id != worker_id:
            return b""
        question, one.question = one.question, b""
        return question

    def keep_answer(self, ask_id: int, answer: bytes) -> None:
        if (one := self.asks.get(ask_id)) is not None:
            one.answer = answer

    def look_for_answer(self, ask_id: int) -> tuple[bytes | None, bool]:
        """The answer, and whether its worker is there."""
        one = self.asks[ask_id]
        if one.answer is not None:
            del self.asks[ask_id]
            return one.answer, True
        if one.worker_id in self.members:
            self.put_again(ask_id)
        return None, one.worker_id in self.members


class Session:
    """The ports of one process. `away_until`: it cannot reach the server; `is_gone`: what its process had asked for is not done."""

    def __init__(self, server: Server, process: Process) -> None:
        self.server = server
        self.process = process
        self.away_until = 0.0
        self.slow = 0.0004

    async def ask(self, call: Callable[..., T], *args: Any) -> T:
        world, answer = self.server.world, self.process.loop.create_future()

        def latency() -> float:
            return self.slow * (0.5 + world.dice.random()) * (20 if world.dice.random() < 0.01 else 1)

        def arrives() -> None:
            if world.now < max(self.away_until, self.server.away_until):
                world.after(0.5, lambda: self.process.do(fail))
            else:
                result = call(*args)
                world.after(latency(), lambda: self.process.do(answered, result))

        def answered(result: T) -> None:
            if not answer.done():
                answer.set_result(result)

        def fail() -> None:
            if not answer.done():
                answer.set_exception(Busy("the store is away"))

        world.after(latency(), arrives)
        return await answer

    # workers
    async def join(self, who: Introduction, rang: Callable[[Sequence[Waking]], None]) -> int:
        worker_id = await self.ask(self.server.join, who, self.process, rang)
        self.hears_asks(worker_id)
        return worker_id

    async def beat(self, worker_id: int, seen: int, load: Load, is_leaving: bool) -> Beat | None:
        return await self.ask(self.server.beat, worker_id, seen, load, is_leaving)

    async def prune(self, worker_id: int, beat: int) -> bool:
        return await self.ask(self.server.prune, worker_id, beat)

    async def leave(self, worker_id: int) -> None:
        await self.ask(self.server.leave, worker_id)

    async def members(self) -> Sequence[Member]:
        return await self.ask(lambda: list(self.server.members.values()))

    async def owners(self) -> Owners:
        return await self.ask(lambda: Owners(self.server.version, list(self.server.owner)))

    async def take(self, worker_id: int, most: int, held: Collection[int]) -> Sequence[Taken]:
        return await self.ask(self.server.take, worker_id, most, set(held))

    async def release(self, worker_id: int, states: Mapping[int, bytes | None]) -> None:
        await self.ask(self.server.release, worker_id, states)

    def ring(self, wakings: Mapping[int, Sequence[Waking]]) -> None:
        self.server.world.after(self.slow, lambda: self.server.ring(wakings))

    async def due_in(self, partitions: Collection[int], until: Micros, since: Micros = 0, first: int | None = None) -> Sequence[DueIn]:
        return await self.ask(self.server.due_in, set(partitions), until, since, first)

    async def rehome(self, handler_id: int, partition: int) -> Waking | None:
        return await self.ask(self.server.rehome, handler_id, partition)

    async def close(self) -> None:
        pass

    # claims
    async def claim(self, worker_id: int, at: Micros, deliveries: Sequence[Delivery]) -> Collection[int] | None:
        return await self.ask(self.server.claim, worker_id, at, list(deliveries))

    async def note(self, worker_id: int, until: Micros, partition: int, paces: bytes) -> bool:
        return await self.ask(self.server.note, worker_id, until, partition, paces)

    async def noted(self, partitions: Collection[int], since: Micros) -> Sequence[Noted]:
        return await self.ask(lambda: [one for home, one in self.server.noted if home in partitions and one.until >= since])

    async def of(self, partitions: Collection[int], since: Mapping[str, Micros]) -> Sequence[Claimed]:
        return await self.ask(self.server.claimed, set(partitions), dict(since))

    # pauses
    async def begin_pauses(self, pauses: Sequence[Pause], now: Micros) -> None:
        await self.ask(self.server.begin_pauses, pauses, now)

    async def pauses_of(self, partitions: Collection[int], now: Micros) -> Sequence[Pause]:
        return await self.ask(self.server.pauses_of, set(partitions), now)

    # asks: as the store's, which looks each second at the latest
    async def ask_worker(self, worker_id: int, question: bytes, seconds: float) -> bytes:
        ask_id, until, misses = await self.ask(self.server.put, worker_id, question), self.server.world.now + seconds, 0
        while ask_id is not None and misses < 2 and self.server.world.now < until:
            await asyncio.sleep(0.1)
            try:
                answer, is_there = await self.ask(self.server.look_for_answer, ask_id)
            except Busy:
                continue
            if answer is not None:
                return answer
            misses = 0 if is_there else misses + 1
        raise NotAnswered(is_begun=ask_id is not None and self.server.asks.pop(ask_id).question == b"")

    def answer_with(self, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._answers = answer

    def hears_asks(self, worker_id: int) -> None:
        self.server.answering[worker_id] = self.process, lambda ask_id: self.process.spawn(self._reply(ask_id, worker_id))

    async def _reply(self, ask_id: int, worker_id: int) -> None:
        try:
            question = await self.ask(self.server.read, ask_id, worker_id)
        except Busy:
            return
        if not question:
            return
        answer, is_kept = await self._answers(question), False
        while not is_kept:
            try:
                await self.ask(self.server.keep_answer, ask_id, answer)
                is_kept = True
            except Busy:
                await asyncio.sleep(1.0)

    # queue
    async def due(self, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
        return await self.ask(self.server.due, dict(wanted), now)

    async def waiting(self, delivery_ids: Sequence[int]) -> list[Waiting]:
        return await self.ask(
            lambda: [self.server.rows[one] for one in delivery_ids if self.server.rows[one].delivery.status == Status.PENDING]
        )

    async def named(self, delivery_ids: Sequence[int]) -> list[Delivery]:
        return await self.ask(lambda: [self.server.rows[one].delivery for one in delivery_ids])

    def settle(self, settlement: Settlement, ticket: Any, done: Callable[[Sequence[Any], Sequence[Any]], None]) -> None:
        async def settled() -> None:
            try:
                result: bool | Exception = await self.ask(self.server.settle, settlement)
            except Busy as busy:
                result = busy
            done([ticket], [result])

        self.process.spawn(settled())

    # handlers
    async def get(self, handler_id: int) -> HandlerRow | None:
        return await self.ask(lambda: self.server.handlers[handler_id].row)

    async def rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        return await self.ask(lambda: [self.server.handlers[one].row for one in handler_ids])
