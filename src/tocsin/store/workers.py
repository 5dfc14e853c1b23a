"""The processes that share a store, and what each owns: `tocsin.ports.workers`.

Every owner has a row of `workers`. That row is the fence: whatever a worker writes as such locks it (`FOR KEY SHARE`), so that
the process that removes it waits for what is under way, and nothing comes after.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import structlog
from psycopg import Connection as Driver
from sqlalchemy import ARRAY, Connection, SmallInteger, func, literal, select, true

from tocsin import clock
from tocsin.clock import Micros
from tocsin.model import Busy
from tocsin.ports.workers import Beat, DueIn, Introduction, Load, Member, Owners, Taken, Waking
from tocsin.store.database import Database
from tocsin.store.dialects import SERVER_NOW, arrays
from tocsin.store.dialects.connecting import hang_up_on_lost
from tocsin.store.dialects.listening import Listener
from tocsin.store.dialects.quick import Quick, Session
from tocsin.store.noting import NEWS
from tocsin.store.queue import rehome
from tocsin.store.rows import PENDING
from tocsin.store.tables import deliveries, handlers

MAX_PAYLOAD = 200  # wakings in one NOTIFY, whose text has 8,000 bytes at most
_JOINING = 0x746A6F69  # "tjoi", an advisory lock

log = structlog.get_logger(__name__)

_MEMBER = "w.id, w.name, w.roles, w.address, w.egress, w.version, w.beat, w.seen, w.is_leaving, w.started_at, w.load"
# Ids in the order of the commits: who knows of one knows of all below it.
_JOIN_ALONE = f"SELECT pg_advisory_xact_lock({_JOINING})"
_JOIN = (
    "INSERT INTO workers (name, roles, address, egress, version, beat, beat_at, seen, is_leaving, started_at, load)"
    f" VALUES (%s, %s, %s, %s, %s, 0, {SERVER_NOW}, 0, FALSE, %s, '{{}}') RETURNING id"
)
_BEAT = (
    "WITH mine AS ("
    f"UPDATE workers SET beat = beat + 1, beat_at = {SERVER_NOW}, seen = greatest(seen, %s), is_leaving = %s, load = %s"
    " WHERE id = %s RETURNING id)"
    f" SELECT EXISTS (SELECT FROM mine), (SELECT version FROM ownership), (SELECT coalesce(max(id), 0) FROM changes),"
    f" {SERVER_NOW}, {_MEMBER} FROM workers w ORDER BY w.id"
)
_OWNERS = "SELECT (SELECT version FROM ownership), array_agg(coalesce(owner, 0) ORDER BY partition) FROM partitions"
# In two statements, so that the second sees what a statement of the worker's brought that the first had to wait for.
_REMOVE = "DELETE FROM workers WHERE id = %s AND beat = %s RETURNING id"
_LEAVE = "DELETE FROM workers WHERE id = %s RETURNING id"
_FREE = (
    "WITH freed AS (UPDATE partitions SET owner = NULL, is_crashed = TRUE"
    " WHERE owner = %s AND NOT EXISTS (SELECT FROM workers WHERE id = %s) RETURNING partition)"
    " UPDATE ownership SET version = version + 1 WHERE EXISTS (SELECT FROM freed)"
)
# What the row says stays there until its owner releases it: a worker that asks again after a lost answer is told the same.
_TAKE = (
    "WITH me AS (SELECT id FROM workers WHERE id = %s FOR KEY SHARE),"
    " free AS (SELECT p.partition, p.owner FROM me CROSS JOIN partitions p"
    " WHERE p.owner IS NULL OR (p.owner = me.id AND p.partition <> ALL (%s))"
    " ORDER BY p.owner NULLS LAST, p.is_crashed DESC, p.partition LIMIT %s FOR UPDATE OF p SKIP LOCKED),"
    " taken AS (UPDATE partitions p SET owner = %s FROM free WHERE p.partition = free.partition"
    " RETURNING p.partition, p.is_crashed, p.state),"
    " moved AS (UPDATE ownership SET version = version + 1 WHERE EXISTS (SELECT FROM taken))"
    " SELECT partition, is_crashed, state FROM taken ORDER BY partition"
)
_RELEASE = (
    "WITH me AS (SELECT id FROM workers WHERE id = %s FOR KEY SHARE),"
    " freed AS (UPDATE partitions p SET owner = NULL, is_crashed = FALSE, state = v.state"
    " FROM me CROSS JOIN unnest(%s::smallint[], %s::bytea[]) AS v(partition, state)"
    " WHERE p.partition = v.partition AND p.owner = me.id RETURNING p.partition)"
    " UPDATE ownership SET version = version + 1 WHERE EXISTS (SELECT FROM freed)"
)
_NOTIFY = "SELECT pg_notify(channel, payload) FROM unnest(%s::text[], %s::text[]) AS v(channel, payload)"


def channel_of(worker_id: int) -> str:
    """On which a worker hears what is due."""
    return f"tocsin_w{worker_id}"


class SqlWorkers:
    """`changed` is called when other processes changed something, or may have. To be made on the event loop that uses it."""

    def __init__(self, database: Database, changed: Callable[[], None]) -> None:
        self._database = database
        self._changed = changed
        self.quick = Quick(database.engine, "beats")
        self.firm = Quick(database.engine, "ownership")  # commits that wait for disk and standby, behind which no beat may wait
        self.worker_id = 0
        """Of the last one that joined."""
        self.told: dict[str, Callable[[str], None]] = {}
        """Who is told what follows these words when they are said to the worker; all else that is said are wakings."""
        self._listener: Listener | None = None
        self._rang: Callable[[Sequence[Waking]], None] = _nobody
        self._rings: dict[int, dict[Waking, None]] = {}
        self._ringing: asyncio.Task[None] | None = None

    async def join(self, who: Introduction, rang: Callable[[Sequence[Waking]], None]) -> int:
        if self._listener is not None:
            await self._listener.close()
        self._rang, self._listener = rang, Listener(self._database.engine, self._hear, self._changed)
        values = (who.name, who.roles, who.address, who.egress, who.version, clock.now())

        def join(driver: Driver[Any]) -> tuple[int, Sequence[str]]:
            driver.execute(_JOIN_ALONE.encode())
            [(worker_id,)] = driver.execute(_JOIN.encode(), values).fetchall()
            return worker_id, (channel_of(worker_id), NEWS)

        self.worker_id = await self._listener.begin(join)
        return self.worker_id

    def _hear(self, channel: str, payload: str) -> None:
        if channel == NEWS:
            self._changed()
            return
        word, _, rest = payload.partition(" ")
        try:
            if (told := self.told.get(word)) is not None:
                told(rest)
            else:
                self._rang(wakings_of(payload))
        except ValueError:
            log.warning("store.strange_notice", payload=payload[:100])

    async def beat(self, worker_id: int, seen: int, load: Load, is_leaving: bool) -> Beat | None:
        values = (seen, is_leaving, msgspec.json.encode(load).decode(), worker_id)

        def beat(session: Session) -> Beat | None:
            rows = session.rows(_BEAT, values)
            if not rows or not rows[0][0]:
                return None
            _, version, newest, now = rows[0][:4]
            hang_up_on_lost(session.driver)
            return Beat([_member(row[4:]) for row in rows], version, newest, now)

        return await self.quick.run(beat)

    async def prune(self, worker_id: int, beat: int) -> bool:
        def prune(session: Session) -> bool:
            gone, _ = session.durably((_REMOVE, (worker_id, beat)), (_FREE, (worker_id, worker_id)))
            return bool(gone)

        return await self.firm.run(prune)

    async def leave(self, worker_id: int) -> None:
        await self.firm.run(lambda session: session.durably((_LEAVE, (worker_id,)), (_FREE, (worker_id, worker_id))))

    async def owners(self) -> Owners:
        def owners(session: Session) -> Owners:
            [(version, of)] = session.rows(_OWNERS)
            return Owners(version, of)

        return await self.quick.run(owners)

    async def take(self, worker_id: int, most: int, held: Collection[int]) -> Sequence[Taken]:
        def take(session: Session) -> list[Taken]:
            [rows] = session.durably((_TAKE, (worker_id, list(held), most, worker_id)))
            return [Taken(*row) for row in rows]

        return await self.firm.run(take)

    async def release(self, worker_id: int, states: Mapping[int, bytes | None]) -> None:
        values = (worker_id, list(states), list(states.values()))
        await self.firm.run(lambda session: session.durably((_RELEASE, values)))

    def ring(self, wakings: Mapping[int, Sequence[Waking]]) -> None:
        for worker_id, some in wakings.items():
            self._rings.setdefault(worker_id, {}).update(dict.fromkeys(some))
        if self._rings and self._ringing is None:
            self._ringing = asyncio.get_running_loop().create_task(self._ring())

    async def _ring(self) -> None:
        """What is asked for while one message is under way goes with the next."""
        try:
            while self._rings:
                rings, self._rings = self._rings, {}
                said = [(channel_of(worker_id), text) for worker_id, some in rings.items() for text in payloads(list(some))]
                channels, texts = zip(*said, strict=True)
                values = arrays.texts(channels), arrays.texts(texts)
                await self.quick.run(lambda session, values=values: session.rows(_NOTIFY, values))
        except Busy:  # it is in the log; sweeps find it
            self._rings.clear()
        finally:
            self._ringing = None

    async def due_in(self, partitions: Collection[int], until: Micros, since: Micros = 0, first: int | None = None) -> Sequence[DueIn]:
        return await self._database.read(due_in, partitions, until, since, first)

    async def rehome(self, handler_id: int, partition: int) -> Waking | None:
        while True:
            waking, is_done = await self._database.write(follow, handler_id, partition)
            if is_done:
                return waking

    async def close(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        if self._ringing is not None:
            await self._ringing
        await self.firm.close()
        await self.quick.close()


def due_in(connection: Connection, partitions: Collection[int], until: Micros, since: Micros = 0, first: int | None = None) -> list[DueIn]:
    waiting = select(deliveries.c.partition, deliveries.c.handler_id, deliveries.c.user_id, deliveries.c.due_at).where(
        PENDING, deliveries.c.due_at >= since, deliveries.c.due_at < until
    )
    if first is None:
        rows = waiting.where(deliveries.c.partition.in_(partitions)).subquery()
    else:  # by the index, without looking at the others
        each = func.unnest(literal(list(partitions), ARRAY(SmallInteger))).table_valued("partition").render_derived("each_one")
        some = waiting.where(deliveries.c.partition == each.c.partition).order_by(deliveries.c.due_at).limit(first).lateral()
        rows = select(some).select_from(each.join(some, true())).subquery()
    what = (rows.c.partition, rows.c.handler_id, rows.c.user_id)
    due = select(*what, func.min(rows.c.due_at).label("due_at")).group_by(*what).subquery()
    home = func.coalesce(handlers.c.partition, due.c.partition)
    return [DueIn(*row) for row in connection.execute(select(*due.c, home).join(handlers, handlers.c.id == due.c.handler_id))]


def follow(connection: Connection, handler_id: int, partition: int) -> tuple[Waking | None, bool]:
    """What waits for a handler in a partition goes where the handler is: who is to be woken there, and whether all has gone."""
    is_it = (handlers.c.id == handler_id, handlers.c.partition.is_not(None))
    found = connection.execute(select(handlers.c.partition, handlers.c.user_id).where(*is_it).with_for_update(read=True)).first()
    if found is None:
        return None, True
    return Waking(found.partition, handler_id, found.user_id), rehome(connection, handler_id, found.partition, partition)


def _nobody(_: Sequence[Waking]) -> None:
    """Nobody has joined."""


def _member(row: Sequence[Any]) -> Member:
    worker_id, name, roles, address, egress, version, beat, seen, is_leaving, started_at, load = row
    who = Introduction(name, roles, address, egress, version)
    return Member(worker_id, who, beat, seen, is_leaving, started_at, msgspec.json.decode(load, type=Load))


def payloads(wakings: Sequence[Waking]) -> list[str]:
    """As NOTIFY carries them."""
    some = (wakings[start : start + MAX_PAYLOAD] for start in range(0, len(wakings), MAX_PAYLOAD))
    return [" ".join(f"{one.partition} {one.handler_id} {one.user_id}" for one in part) for part in some]


def wakings_of(payload: str) -> list[Waking]:
    """Raises ValueError where that is not what `payloads` made."""
    numbers = map(int, payload.split())
    return [Waking(*three) for three in zip(numbers, numbers, numbers, strict=True)]
