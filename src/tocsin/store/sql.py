"""The store in SQL, for both databases (`dialects`): SQLAlchemy Core, synchronous drivers.

Writes go through the group commit of writer.py; reads run in a few threads with connections of their own and are interrupted
after `READ_SECONDS`, so that none holds up a delivery.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from tocsin.clock import Micros
from tocsin.model import Attempt, Busy, Delivery, Notification, Reason, Replay, Status
from tocsin.ports.errors import StoreError
from tocsin.ports.handlers import (
    HandlerBrief,
    HandlerChange,
    HandlerEvent,
    HandlerFacts,
    HandlerFilter,
    HandlerHour,
    HandlerRow,
    Standing,
    Streak,
    SwitchOff,
)
from tocsin.ports.history import DeliveryFilter, Labels, Page
from tocsin.ports.intake import Accept, Accepted, Idempotency, Remembered
from tocsin.ports.people import KeyRow
from tocsin.ports.queue import Due, PostFacts, Recent, Settlement, Waiting, Wanted
from tocsin.store import dialects, faults, listing, notices, reading, standing, writing
from tocsin.store.accepting import AcceptAll
from tocsin.store.faults import Damaged
from tocsin.store.settling import SettleAll
from tocsin.store.writer import Writer

READ_SECONDS = 5.0
READ_THREADS = 2  # for the flow's own short reads
LOOK_AGAIN_SECONDS = 2.0  # between two looks whether what a reading found damaged is whole again
LIST_THREADS = 3  # for what people list and search, which may take long and must not hold up the flow
T = TypeVar("T")


class SqlStore:
    """See `tocsin.ports.store.Store` for what each method promises."""

    def __init__(self, engine: Engine, changed: Callable[[], None]) -> None:
        self._dialect = dialects.of(engine)
        self._writer = Writer(partial(self._dialect.session, engine), changed, writing.note_alive)
        self._threads = ThreadPoolExecutor(READ_THREADS, "tocsin-reader")
        self._list_threads = ThreadPoolExecutor(LIST_THREADS, "tocsin-lists")
        self._loop = asyncio.get_running_loop()
        self._engine = engine
        self._damage: str | None = None  # what a reading ran into, in a sentence
        self._damaged: Callable[[], object] = _nothing  # that reading
        self._look_at = 0.0

    async def close(self) -> None:
        await self._writer.close()
        self._threads.shutdown(wait=True)
        self._list_threads.shutdown(wait=True)
        self._engine.dispose()

    @property
    def is_alive(self) -> bool:
        return self._writer.is_alive

    @property
    def trouble(self) -> str | None:
        """What keeps the store from being read or written, in a sentence. Being asked, it looks anew soon."""
        if not self.is_alive:
            return "The store does not take writes."
        if self._damage is None:
            return self._writer.trouble
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_AGAIN_SECONDS
            with contextlib.suppress(RuntimeError):  # it is being closed
                self._list_threads.submit(self._look_whether_it_is_whole)
        return self._damage

    def _look_whether_it_is_whole(self) -> None:
        """Others may not touch the damaged page for days, so the reading that found it says when it is whole."""
        damaged = self._damaged
        with contextlib.suppress(Busy):
            damaged()
            if self._damaged is damaged:
                self._damage = None

    @property
    def writes_waiting(self) -> int:
        return self._writer.waiting

    # ------------------------------------------------------------------------------------------------------ machinery

    async def _read(self, read: Callable[..., T], *args: object) -> T:
        return await self._loop.run_in_executor(self._threads, partial(self._read_in_thread, read, *args))

    async def _list(self, read: Callable[..., T], *args: object) -> T:
        return await self._loop.run_in_executor(self._list_threads, partial(self._read_in_thread, read, *args))

    def _read_in_thread(self, read: Callable[..., T], *args: object) -> T:
        try:
            with self._dialect.reading(self._engine, READ_SECONDS) as connection:
                return read(connection, *args)
        except DBAPIError as error:  # of the connection itself too: there may be no descriptor left for it
            if faults.is_damage(error):
                self._damaged, self._damage = partial(self._read_in_thread, read, *args), faults.sentence(error)
                raise Damaged(faults.words_of(error)) from error
            why = "this reading took too long: ask for less" if faults.is_interrupted(error) else "the store cannot be read now"
            raise Busy(why, 5) from error

    def _write(self, write: Callable[..., T], *args: object) -> "asyncio.Future[T]":
        def run(connection: Connection) -> T:
            return write(connection, *args)

        return self._writer.submit(run)

    # ------------------------------------------------------------------------------------------------------- hot path

    def accept(self, accept: Accept, committed: Callable[[list[Accepted]], None] | None = None) -> "asyncio.Future[list[Accepted]]":
        return self._writer.submit(accept, AcceptAll, committed)

    def settle(self, settlement: Settlement, ticket: T, done: Callable[[Sequence[T], Sequence[bool | Exception]], None]) -> None:
        self._writer.submit_then(settlement, SettleAll, done, ticket)

    # ----------------------------------------------------------------------------------------------------- what is due

    async def ask(self, read: Callable[..., T], *args: object) -> T:
        return await self._read(read, *args)

    async def tell(self, write: Callable[..., T], *args: object) -> T:
        return await self._write(write, *args)

    async def fold_log(self) -> None:
        await self._loop.run_in_executor(self._list_threads, self._dialect.fold_log, self._engine)

    async def labels(self, user_id: int, notification_ids: Sequence[int], handler_ids: Sequence[int]) -> Labels:
        return await self._list(listing.labels, user_id, notification_ids, handler_ids)

    async def waiting_handlers(self) -> list[tuple[int, int, Micros]]:
        return await self._read(reading.waiting_handlers)

    async def due(self, wanted: Mapping[int, Wanted], now: Micros) -> dict[int, Due]:
        return await self._read(reading.due, wanted, now)

    async def named(self, delivery_ids: Sequence[int]) -> list[Delivery]:
        return await self._read(reading.named, delivery_ids)

    async def recent(self, since: Micros, types: Sequence[str], limit: int) -> list[Recent]:
        return await self._read(reading.recent, since, types, limit)

    async def ahead(self, delivery: Delivery, most: int) -> int:
        return await self._read(reading.ahead, delivery, most)

    async def waiting(self, delivery_ids: Sequence[int]) -> list[Waiting]:
        return await self._read(reading.waiting, delivery_ids)

    # ------------------------------------------------------------------------------------------------------ deliveries

    async def end_pending(self, handler_id: int, status: Status, reason: Reason, limit: int, error: str | None = None) -> int:
        return await self._write(writing.end_pending, handler_id, status, reason, limit, error)

    async def cancel(self, user_id: int, notification_id: int) -> list[int]:
        return await self._write(writing.cancel, user_id, notification_id)

    async def cancel_delivery(self, user_id: int, delivery_id: int) -> list[int]:
        return await self._write(writing.cancel_delivery, user_id, delivery_id)

    async def retry(
        self, user_id: int, which: DeliveryFilter | int, at: Micros, limit: int, idempotency: Idempotency | None
    ) -> list[tuple[int, int]]:
        return await self._write(writing.retry, user_id, which, at, limit, idempotency)

    async def replayable(self, user_id: int, which: DeliveryFilter, limit: int) -> int:
        return await self._list(listing.replayable, user_id, which, limit)

    async def notifications(self, user_id: int, page: int, size: int) -> Page[tuple[Notification, dict[Status, int]]]:
        return await self._list(listing.notifications_page, user_id, page, size)

    async def notification(self, user_id: int, notification_id: int) -> tuple[Notification, dict[Status, int]] | None:
        return await self._list(listing.notification, user_id, notification_id)

    async def deliveries(self, user_id: int, which: DeliveryFilter, page: int, size: int) -> Page[Delivery]:
        return await self._list(listing.deliveries_page, user_id, which, page, size)

    async def fan_out(
        self, user_id: int, notification_id: int, limit: int
    ) -> tuple[Notification, dict[Status, int], Page[Delivery], Labels] | None:
        return await self._list(listing.fan_out, user_id, notification_id, limit)

    async def delivery(self, user_id: int, delivery_id: int) -> tuple[Delivery, Notification, list[Attempt], list[Replay]] | None:
        return await self._list(listing.delivery, user_id, delivery_id)

    async def remembered(self, user_id: int, path: str, key: str, since: Micros, until: Micros) -> Remembered | None:
        return await self._read(reading.remembered, user_id, path, key, since, until)

    async def posted(self, key: str, text_hash: bytes, delivery_id: int, at: Micros, limit: int) -> PostFacts:
        return await self._write(writing.posted, key, text_hash, delivery_id, at, limit)

    # -------------------------------------------------------------------------------------------------------- handlers

    async def handler_briefs(self, user_id: int) -> list[HandlerBrief]:
        return await self._read(reading.handler_briefs, user_id)

    async def handlers(self, user_id: int, which: HandlerFilter, page: int, size: int) -> Page[HandlerRow]:
        return await self._list(listing.handlers_page, user_id, which, page, size)

    async def handler(self, handler_id: int) -> HandlerRow | None:
        return await self._read(reading.handler, handler_id)

    async def handler_rows(self, handler_ids: Sequence[int]) -> list[HandlerRow]:
        return await self._read(reading.handler_rows, handler_ids)

    async def add_handler(self, user_id: int, change: HandlerChange, at: Micros) -> int:
        return await self._write(writing.add_handler, user_id, change, at)

    async def change_handler(
        self, handler_id: int, change: HandlerChange, expected_version: int | None = None, event: HandlerEvent | None = None, most: int = 0
    ) -> bool:
        return await self._write(writing.change_handler, handler_id, change, expected_version, event, most)

    async def delete_handler(self, handler_id: int, at: Micros, most: int = 0) -> bool:
        return await self._write(writing.delete_handler, handler_id, at, most)

    async def switch_off(self, what: SwitchOff) -> bool:
        return await self._write(writing.switch_off, what)

    async def tell_owner(self, telling: notices.Telling, committed: Callable[[list[Accepted]], None]) -> None:
        def run(connection: Connection) -> list[Accepted] | None:
            return notices.tell(connection, telling)

        def told(accepted: list[Accepted] | None) -> None:
            if accepted is not None:
                committed(accepted)

        await self._writer.submit(run, committed=told)

    async def count_failure(self, handler_id: int, at: Micros) -> Streak:
        return await self._write(writing.count_failure, handler_id, at)

    async def stopped_handlers(self) -> list[tuple[int, Status, Reason]]:
        return await self._read(reading.stopped_handlers)

    async def handler_facts(self, handler_id: int, since_hour: int) -> HandlerFacts:
        return await self._list(listing.handler_facts, handler_id, since_hour)

    async def standings(self, handler_ids: Sequence[int]) -> dict[int, Standing]:
        return await self._list(standing.standings, handler_ids)

    async def handler_hours(self, handler_ids: Sequence[int], since_hour: int) -> list[HandlerHour]:
        return await self._list(listing.handler_hours, handler_ids, since_hour)

    async def add_hours(self, hours: Sequence[HandlerHour]) -> None:
        await self._write(writing.add_hours, hours)

    # ---------------------------------------------------------------------------------------------------------- keys

    async def key(self, key_hash: bytes) -> KeyRow | None:
        return await self._read(reading.key, key_hash)

    async def touch_keys(self, used: dict[int, Micros]) -> None:
        await self._write(writing.touch_keys, used)

    # What is measured has no need of the flow's threads.

    async def backlog(self) -> int:
        """Pending deliveries, due or not; a quick look at the totals."""
        return await self._list(reading.backlog)

    async def size(self) -> int:
        """Bytes of the store and its log on the disk."""
        return await self._list(self._dialect.size)

    async def unused(self) -> int:
        """Bytes of the store that hold nothing."""
        return await self._list(self._dialect.unused)


def _nothing() -> None:
    """No reading ran into damage."""


# ------------------------------------------------------------------------------------------------------ beside the service


def write_now(engine: Engine, write: Callable[[Connection], T]) -> T:
    """One write in a transaction of its own, for commands that run beside the service or before it."""
    try:
        with dialects.of(engine).writing(engine) as connection:
            return write(connection)
    except DBAPIError as error:
        raise StoreError(faults.sentence(error)) from error
