"""Looking at what was sent, cancelling what waits, sending again what did not arrive."""

from collections.abc import Sequence

from msgspec.structs import replace

from tocsin import clock
from tocsin.clock import SECOND, Micros
from tocsin.flow.directory import Directory
from tocsin.flow.handlers.waits import FREE, Hold, Waits, next_start
from tocsin.flow.intake.repeats import Repeats, answer_of
from tocsin.flow.quotas import Quotas
from tocsin.flow.words import Event, absence, events, turn
from tocsin.model import REPLAYABLE, Attempt, Delivery, Missing, Notification, Status
from tocsin.ports.engine import Engine
from tocsin.ports.history import DeliveryFilter, History, Labels, Page
from tocsin.ports.intake import Answered, Idempotency

MAX_RETRIED = 10_000  # deliveries of one request
MAX_COUNTED = 10_000  # deliveries before another


class Deliveries:
    """What was sent, for its sender. A named row that is not this user's raises Missing; a store that cannot answer, Busy."""

    def __init__(
        self, history: History, engine: Engine, repeats: Repeats, directory: Directory, waits: Waits, quotas: Quotas | None = None
    ) -> None:
        self._quotas = quotas
        self._history = history
        self._engine = engine
        self._repeats = repeats
        self._directory = directory
        self._waits = waits

    async def notifications(self, user_id: int, page: int, size: int) -> Page[tuple[Notification, dict[Status, int]]]:
        """Newest first, each with how many of its deliveries are in which status."""
        return await self._history.notifications(user_id, page, size)

    async def notification(self, user_id: int, notification_id: int) -> tuple[Notification, dict[Status, int]]:
        """Raises Missing."""
        found = await self._history.notification(user_id, notification_id)
        if found is None:
            raise Missing
        return found

    async def cancel(self, user_id: int, notification_id: int) -> int:
        """How many deliveries were cancelled; what is in flight may still arrive. Raises Missing."""
        await self.notification(user_id, notification_id)
        cancelled = await self._history.cancel(user_id, notification_id)
        self._engine.forget(cancelled)
        return len(cancelled)

    async def cancel_one(self, user_id: int, delivery_id: int) -> int:
        """1 if the delivery was cancelled, 0 if it was no longer waiting. Raises Missing."""
        if await self._history.delivery(user_id, delivery_id) is None:
            raise Missing
        cancelled = await self._history.cancel_delivery(user_id, delivery_id)
        self._engine.forget(cancelled)
        return len(cancelled)

    async def page(self, user_id: int, which: DeliveryFilter, page: int, size: int) -> Page[Delivery]:
        """Newest first. What waits is due when it can start: not in the past."""
        found = await self._history.deliveries(user_id, which, page, size)
        return replace(found, rows=await self._as_they_can_start(found.rows))

    async def _as_they_can_start(self, rows: Sequence[Delivery]) -> list[Delivery]:
        now = clock.now()
        due = {row.handler_id for row in rows if row.status is Status.PENDING and row.due_at <= now}
        holds = await self._waits.of(due)
        return [_as_it_can_start(row, holds.get(row.handler_id, FREE), now) for row in rows]

    async def labels(self, user_id: int, rows: Sequence[Delivery]) -> Labels:
        """What the rows are about and where they went, for lists."""
        return await self._history.labels(user_id, list({row.notification_id for row in rows}), list({row.handler_id for row in rows}))

    async def fan_out(
        self, user_id: int, notification_id: int, most: int
    ) -> tuple[Notification, dict[Status, int], Page[Delivery], Labels]:
        """A notification with up to so many of its deliveries, newest first, all as of one moment. Raises Missing."""
        found = await self._history.fan_out(user_id, notification_id, most)
        if found is None:
            raise Missing
        notification, counts, page, labels = found
        return notification, counts, replace(page, rows=await self._as_they_can_start(page.rows)), labels

    async def replayable(self, user_id: int, which: DeliveryFilter) -> int:
        """How many `retry` would send again."""
        return await self._history.replayable(user_id, which, MAX_RETRIED)

    async def undelivered(self, user_id: int, which: DeliveryFilter) -> int:
        """How many settled deliveries that did not arrive a filter lets through; counted up to 10,000 of each status."""
        found = 0
        for status in REPLAYABLE:
            if which.status in (None, status):
                found += (await self._history.deliveries(user_id, replace(which, status=status), 1, 10)).total
        return found

    async def get(self, user_id: int, delivery_id: int) -> tuple[Delivery, list[Attempt], list[Event]]:
        """Raises Missing."""
        found = await self._history.delivery(user_id, delivery_id)
        if found is None:
            raise Missing
        delivery, notification, attempts, replays = found
        story = events(delivery, notification, attempts, replays)
        now = clock.now()
        if delivery.status is not Status.PENDING or delivery.due_at > now:
            return delivery, attempts, story
        hold = (await self._waits.of([delivery.handler_id])).get(delivery.handler_id, FREE)
        story += await self._turn(delivery, hold, now)
        return _as_it_can_start(delivery, hold, now), attempts, story

    async def _turn(self, delivery: Delivery, hold: Hold, now: Micros) -> list[Event]:
        """What one that is due waits for: its provider's pace, a pause that the provider asked for, or a process that sends it."""
        if hold.absent:
            return [absence(now, hold.absent, hold.sender)]
        loaded = await self._directory.loaded(delivery.handler_id)
        if loaded is None:
            return []
        wait = hold.wait
        ahead = await self._history.ahead(delivery, MAX_COUNTED) if loaded.paces else 0
        steps = max((ahead // pace.count * pace.seconds for pace in loaded.paces), default=0.0)
        if wait.seconds <= 0 and steps <= 0:
            return []
        until = now + int((max(wait.seconds, 0.0) + steps) * SECOND)
        return [turn(loaded.channel.title, now, until, wait.pace, ahead, is_paused=wait.seconds > 0 and wait.pace is None)]

    async def retry(self, user_id: int, which: DeliveryFilter | int, idempotency: Idempotency | None = None) -> int:
        """How many settled, undelivered deliveries of enabled handlers wait again. Raises Missing where one is named that is not there."""
        async with self._repeats.once(user_id, idempotency) as answer:
            if answer is not None:
                return answer[0]
            if isinstance(which, int) and await self._history.delivery(user_id, which) is None:
                raise Missing
            counts = self._quotas is not None and await self._quotas.check_again(user_id)
            now = clock.now()
            try:
                retried = await self._history.retry(user_id, which, now, MAX_RETRIED, idempotency)
            except Answered as answered:
                return answer_of(answered.remembered, idempotency)[0]
        if counts and self._quotas is not None:
            self._quotas.sent_again(user_id, len(retried))
        for handler_id in {handler_id for _, handler_id in retried}:
            self._engine.wake(handler_id, user_id, now)
        return len(retried)


def _as_it_can_start(row: Delivery, hold: Hold, now: Micros) -> Delivery:
    if row.status is not Status.PENDING or row.due_at > now:
        return row
    return replace(row, due_at=next_start(hold, row.due_at, now))
