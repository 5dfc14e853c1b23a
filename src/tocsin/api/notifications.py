"""The notifications endpoints: send one or many, read, cancel."""

from collections.abc import Awaitable, Sequence

from tocsin import clock
from tocsin.api import answers, envelope, messages, quick
from tocsin.api.bodies import Pairs
from tocsin.api.endpoint import Call
from tocsin.api.errors import Answer, fault
from tocsin.clock import Micros
from tocsin.flow import pools
from tocsin.model import Draft

MAX_AT_ONCE = 128 * 1024  # bytes of a body that is read on the event loop, in a few milliseconds


async def send(call: Call) -> Answer:
    now = clock.now()
    draft = quick.one(call.content, now) if _is_plain(call) else None
    if draft is None:
        draft = _read_one(call, now)
    [made] = await _accept(call, [draft])
    return envelope.data(answers.Made(made), 202)


async def send_batch(call: Call) -> Answer:
    now = clock.now()
    is_large = len(call.content) > MAX_AT_ONCE
    drafts = quick.batch(call.content, now) if not is_large and _is_plain(call) else None
    if drafts is None:
        # Large ones never take the quick way: it reads the whole body in one go, during which no other thread runs.
        drafts = await pools.here().bodies.run(call.user_id, _read_batch, call, now) if is_large else _read_batch(call, now)
    return envelope.data([answers.Made(one) for one in await _accept(call, drafts, batch=True)], 202)


async def page(call: Call) -> Answer:
    number, size = call.values["page"], call.values["results_per_page"]
    found = await call.service.deliveries.notifications(call.user_id, number, size)
    return envelope.page(call, [answers.notification(row, counts) for row, counts in found.rows], found.total, exact=found.exact)


async def get(call: Call) -> Answer:
    row, counts = await call.service.deliveries.notification(call.user_id, call.id)
    return envelope.data(answers.notification(row, counts))


async def cancel(call: Call) -> Answer:
    cancelled = await call.service.deliveries.cancel(call.user_id, call.id)
    return envelope.data(answers.Cancelled(call.id, cancelled))


def _is_plain(call: Call) -> bool:
    return not call.faults and call.headers.get(b"content-type") in quick.CONTENT_TYPES


def _accept(call: Call, drafts: list[Draft], batch: bool = False) -> Awaitable[Sequence[int]]:
    key = call.idempotency(messages.fingerprint(drafts)) if b"idempotency-key" in call.headers else None
    return call.service.accepting.accept(call.caller.user_id, drafts, key, batch, call.faults)


def _read_one(call: Call, now: Micros) -> Draft:
    draft = messages.draft_of(call.body(), now)
    call.faults.extend(messages.time_faults(draft.send_at, draft.expires_at, now))
    return draft


def _read_batch(call: Call, now: Micros) -> list[Draft]:
    """The drafts; their errors are added to the call's faults. An item that is not an object becomes an empty draft."""
    drafts: list[Draft] = []
    for index, item in enumerate(call.body().get("notifications", ())):
        prefix = f"notifications[{index}]"
        if isinstance(item, Pairs):
            draft, found = messages.read_draft(item, now, f"{prefix}.")
            call.faults.extend(found)
        else:
            draft = messages.draft_of({}, now)
            call.faults.append(fault("invalid", f"{prefix} must be an object.", prefix))
        drafts.append(draft)
    return drafts
