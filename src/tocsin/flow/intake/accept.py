"""From checked drafts to durable rows, and the hand-over to the engine."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from tocsin import clock, observe
from tocsin.clock import Micros
from tocsin.flow.directory import Directory
from tocsin.flow.intake.plan import MAX_DELIVERIES, faults, plan
from tocsin.model import Delivery, Draft, Fault, InFlight, Invalid, Notification, Status
from tocsin.ports.engine import Engine
from tocsin.ports.intake import Accept, Accepted, Planned, Remembered
from tocsin.ports.queue import Waiting
from tocsin.ports.store import Store

IDEMPOTENCY_WINDOW: Micros = 86_400_000_000  # a day


class Idempotency(Struct, frozen=True):
    """An Idempotency-Key with the path it came to and a hash of the parsed content."""

    path: str
    key: str
    content: bytes


class Repeats:
    """Requests with an idempotency key: one at a time, answered as before if the key was used."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_flight: set[tuple[int, str, str]] = set()

    async def begin(self, user_id: int, idempotency: Idempotency) -> tuple[int, ...] | None:
        """The answer of a day at most ago, or None: then `end` must follow. Raises InFlight, Invalid."""
        mark = (user_id, idempotency.path, idempotency.key)
        if mark in self._in_flight:
            raise InFlight
        self._in_flight.add(mark)
        answer: tuple[int, ...] | None = None
        is_new = False
        try:
            answer = await self.answer_of(user_id, idempotency)
            is_new = answer is None
        finally:
            if not is_new:
                self._in_flight.discard(mark)
        return answer

    async def answer_of(self, user_id: int, idempotency: Idempotency) -> tuple[int, ...] | None:
        """The answer of a day at most ago, if any. Raises Invalid if the content was another."""
        now = clock.now()
        # At most as far ahead: what a clock noted that was years ahead would swallow new messages for years.
        window = (now - IDEMPOTENCY_WINDOW, now + IDEMPOTENCY_WINDOW)
        found = await self._store.remembered(user_id, idempotency.path, idempotency.key, *window)
        if found is None:
            return None
        if found.content != idempotency.content:
            detail = "This idempotency key was used with other content."
            raise Invalid(Fault("idempotency_mismatch", "Idempotency key reused", detail, "Idempotency-Key"))
        return found.answer

    def end(self, user_id: int, idempotency: Idempotency) -> None:
        self._in_flight.discard((user_id, idempotency.path, idempotency.key))


def to_remember(idempotency: Idempotency | None) -> Remembered | None:
    return None if idempotency is None else Remembered(idempotency.path, idempotency.key, idempotency.content)


class Accepting:
    def __init__(self, store: Store, directory: Directory, engine: Engine, repeats: Repeats, metrics: observe.Metrics) -> None:
        self._store = store
        self._directory = directory
        self._engine = engine
        self._repeats = repeats
        self._metrics = metrics

    async def accept(
        self,
        user_id: int,
        drafts: Sequence[Draft],
        idempotency: Idempotency | None = None,
        batch: bool = False,
    ) -> list[int]:
        """Ids of the kept notifications, after their commit. All or none. They were accepted when their messages say.

        Raises Invalid (unknown or no handlers, too many deliveries, an idempotency key used with other content), InFlight, Busy.
        """
        if idempotency is None:
            return await self._accept(user_id, drafts, None, batch)
        answer = await self._repeats.begin(user_id, idempotency)
        if answer is not None:
            return list(answer)
        try:
            return await self._accept(user_id, drafts, idempotency, batch)
        finally:
            self._repeats.end(user_id, idempotency)

    async def answered(self, user_id: int, idempotency: Idempotency) -> list[int] | None:
        """What these ids were, if the key was used for this content: also when it could not be accepted any more. Raises Invalid."""
        answer = await self._repeats.answer_of(user_id, idempotency)
        return None if answer is None else list(answer)

    async def notice(self, user_id: int, draft: Draft | None) -> tuple[Accept | None, Callable[[Accepted], None]]:
        """A notification of the service's own, to be kept together with what it is about; and who is told what it became."""
        if draft is None:
            return None, lambda _: None
        planned = [plan(draft, await self._directory.briefs(user_id))]
        now = draft.message.at

        def committed(accepted: Accepted) -> None:
            self._metrics.accepted(1, len(planned[0].deliveries))
            self._hand_over(user_id, now, planned, accepted)

        return Accept(user_id, now, planned), committed

    async def handler_faults(self, user_id: int, handlers: tuple[int, ...] | None, parameter: str) -> list[Fault]:
        """What `accept` would say of these handlers, to be reported together with other faults."""
        return faults(handlers, await self._directory.briefs(user_id), parameter)

    async def _accept(self, user_id: int, drafts: Sequence[Draft], idempotency: Idempotency | None, batch: bool) -> list[int]:
        briefs = await self._directory.briefs(user_id)
        found: list[Fault] = []
        enabled, count = -1, 0
        for index, draft in enumerate(drafts):
            wanted = draft.handlers
            if wanted is None:
                enabled = sum(brief.is_enabled for brief in briefs.values()) if enabled < 0 else enabled
                count += enabled
            else:
                count += len(wanted)
            if not wanted or not all(map(briefs.__contains__, wanted)):
                found += faults(wanted, briefs, f"notifications[{index}].handlers" if batch else "handlers")
        if found:
            raise Invalid(*found)
        if count > MAX_DELIVERIES:
            detail = f"The request would make {count:,} deliveries; at most {MAX_DELIVERIES:,} are allowed."
            raise Invalid(Fault("too_many_deliveries", "Too many deliveries", detail, None if batch else "handlers"))
        now = drafts[0].message.at
        planned = [plan(draft, briefs) for draft in drafts]

        def committed(accepted: Accepted) -> None:
            self._metrics.accepted(len(planned), count)
            self._hand_over(user_id, now, planned, accepted)

        accepted = await self._store.accept(Accept(user_id, now, planned, to_remember(idempotency)), committed)
        first = accepted.first_notification_id
        return list(range(first, first + len(planned)))

    def _hand_over(self, user_id: int, now: Micros, planned: Sequence[Planned], accepted: Accepted) -> None:
        jobs: list[Waiting] = []
        pending = Status.PENDING
        notification_id, delivery_id = accepted.first_notification_id, accepted.first_delivery_id
        for one in planned:
            notification = Notification(notification_id, user_id, one.message, one.send_at, one.expires_at)
            for made in one.deliveries:
                handler_id, due_at = made.handler_id, made.due_at
                if made.status is pending and due_at > now:
                    self._engine.wake(handler_id, user_id, due_at)
                elif made.status is pending:
                    delivery = Delivery(delivery_id, notification_id, handler_id, user_id, pending, due_at, due_at, now)
                    jobs.append(Waiting(delivery, notification))
                delivery_id += 1
            notification_id += 1
        if jobs:
            self._engine.hand_over(jobs)
