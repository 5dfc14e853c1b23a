"""From checked drafts to durable rows, and the hand-over to the engine."""

from collections.abc import Callable, Sequence

from tocsin.flow.directory import Directory
from tocsin.flow.intake.plan import plan
from tocsin.flow.intake.repeats import Repeats, answer_of
from tocsin.flow.quotas import Quotas
from tocsin.metrics import Metrics
from tocsin.model import Busy, Draft, Fault, Invalid, Status
from tocsin.ports.engine import Engine
from tocsin.ports.intake import Accept, Accepted, Answered, Idempotency, Intake, Planned
from tocsin.ports.queue import Waiting


class Accepting:
    """Turns checked drafts into rows, and tells the engine what is due. `may_be_old`: whether a change of handlers by another process may
    have gone unnoticed; nothing is accepted then."""

    def __init__(
        self,
        intake: Intake,
        directory: Directory,
        engine: Engine,
        repeats: Repeats,
        metrics: Metrics,
        may_be_old: Callable[[], bool] = lambda: False,
        quotas: Quotas | None = None,
    ) -> None:
        self._quotas = quotas
        self._intake = intake
        self._directory = directory
        self._engine = engine
        self._repeats = repeats
        self._metrics = metrics
        self._may_be_old = may_be_old

    async def accept(
        self,
        user_id: int,
        drafts: Sequence[Draft],
        idempotency: Idempotency | None = None,
        batch: bool = False,
        faults: Sequence[Fault] = (),
    ) -> Sequence[int]:
        """Ids of the kept notifications, after their commit. All or none. They were accepted when their messages say.

        `faults`: what is wrong with the drafts, told together with what is wrong with their handlers. A repeated request gets its first
        answer all the same: the same content was in order then, and only its times have passed since.

        Raises Invalid (unknown or no handlers, too many deliveries, an idempotency key used with other content), OverQuota, InFlight,
        Busy.
        """
        if self._may_be_old():
            raise Busy("this process has lost touch with the others on its store")
        async with self._repeats.once(user_id, idempotency) as answer:
            if answer is not None:
                return answer
            planned = await self._plan(user_id, drafts, batch, faults)
            accept = Accept(user_id, drafts[0].message.at, planned, idempotency)
            try:
                if (quotas := self._quotas) is None or quotas.knows_exempt(user_id):
                    accepted = await self._intake.accept(accept, self._hand_over)
                else:
                    accepted = await self._within(quotas, accept, drafts)
            except Answered as answered:
                return answer_of(answered.remembered, idempotency)
            return [one.id for one in accepted]

    async def _within(self, quotas: Quotas, accept: Accept, drafts: Sequence[Draft]) -> list[Accepted]:
        """Nothing is counted that was not kept. Raises OverQuota too."""
        taken = await quotas.take(accept.user_id, drafts, sum([len(one.deliveries) for one in accept.planned]))
        try:
            return await self._intake.accept(accept, self._hand_over)
        except BaseException:
            quotas.give_back(accept.user_id, taken)
            raise

    async def _plan(self, user_id: int, drafts: Sequence[Draft], batch: bool, faults: Sequence[Fault]) -> Sequence[Planned]:
        """Another process may have added a handler just now: before one is called unknown, the store is asked."""
        briefs = await self._directory.briefs(user_id)
        try:
            return plan(drafts, briefs, batch, faults)
        except Invalid:
            unknown = {one for draft in drafts for one in draft.handlers or () if one not in briefs}
            if not unknown or not await self._directory.look_for(user_id, unknown):
                raise
            return plan(drafts, await self._directory.briefs(user_id), batch, faults)

    async def notice(self, user_id: int, draft: Draft | None) -> tuple[Accept | None, Callable[[list[Accepted]], None]]:
        """A notification of the service's own, to be kept with what it is about, and who is told what it became. Raises Invalid."""
        if draft is None:
            return None, self._hand_over
        return Accept(user_id, draft.message.at, plan([draft], await self._directory.briefs(user_id))), self._hand_over

    def _hand_over(self, accepted: Sequence[Accepted]) -> None:
        """Within the commit's answer: a settlement of these deliveries can only come later."""
        jobs: list[Waiting] = []
        pending, count = Status.PENDING, 0
        for one in accepted:
            notification, deliveries = one.notification, one.deliveries
            count += len(deliveries)
            for delivery in deliveries:
                if delivery.status is not pending:
                    continue
                if delivery.due_at > delivery.created_at:
                    self._engine.wake(delivery.handler_id, delivery.user_id, delivery.due_at)
                else:
                    jobs.append(Waiting(delivery, notification))
        self._metrics.accepted(len(accepted), count)
        if jobs:
            self._engine.hand_over(jobs)
