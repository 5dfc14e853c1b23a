"""The notification-handlers endpoints: register, read, change, delete, test, and the signing secret."""

from typing import Any

from tocsin import clock
from tocsin.api import answers, envelope
from tocsin.api.endpoint import Call
from tocsin.api.errors import Answer
from tocsin.api.messages import draft_of, time_faults
from tocsin.clock import Micros
from tocsin.flow.handlers.register import HandlerDraft, HandlerFilter, check, redirected
from tocsin.model import Handler


def _filter(call: Call, order_by: str) -> HandlerFilter:
    values = call.values
    return HandlerFilter(
        search=values["search"],
        is_enabled=values["is_enabled"],
        type=values["type"],
        datetime_field=values["datetime_field"],
        datetime_start=values["datetime_start"],
        datetime_end=values["datetime_end"],
        order_by=order_by,
        descending=values["order_type"] == "DESC",
        state=values["state"],
    )


async def page(call: Call) -> Answer:
    which = _filter(call, call.values["order_by"])
    rows, total = await call.service.handlers.page(call.user_id, which, call.values["page"], call.values["results_per_page"])
    clear = await _clear(call, bool(rows))
    return envelope.page(call, [answers.handler(row, clear=clear) for row in rows], total)


async def states(call: Call) -> Answer:
    """Failing ones first, unless another order is asked for."""
    values = call.values
    rows, total = await call.service.handlers.page(
        call.user_id, _filter(call, values["order_by"] or "state"), values["page"], values["results_per_page"]
    )
    found = await call.service.handlers.states(rows)
    return envelope.page(call, [answers.handler_state(*pair) for pair in zip(rows, found, strict=True)], total)


async def get(call: Call) -> Answer:
    row = await call.service.handlers.get(call.user_id, call.id)
    return envelope.data(answers.handler(row, clear=await _clear(call, there_are=True)))


async def _clear(call: Call, there_are: bool) -> bool:
    """Whether secrets are shown. If so, that is written down; `there_are`: whether there is anything to show."""
    if not call.caller.sees_secrets:
        return False
    if there_are:
        await call.service.audit.settings_read(call.user_id)
    return True


async def create(call: Call) -> Answer:
    handler_id = await call.service.handlers.create(call.user_id, _draft(call, None))
    return envelope.data(answers.Made(handler_id), 201)


async def change(call: Call) -> Answer:
    current = await call.service.handlers.get(call.user_id, call.id)
    handler_id = await call.service.handlers.change(call.user_id, call.id, _draft(call, current))
    return envelope.data(answers.Made(handler_id))


async def delete(call: Call) -> Answer:
    await call.service.handlers.delete(call.user_id, call.id)
    return envelope.NOTHING


async def test_saved(call: Call) -> Answer:
    _ = call.body()
    call.check()
    return envelope.data(answers.trial(await call.service.trials.saved(call.user_id, call.id)))


async def test_draft(call: Call) -> Answer:
    return envelope.data(answers.trial(await call.service.trials.draft(call.user_id, _draft(call, None))))


async def preview(call: Call) -> Answer:
    now = clock.now()
    values = call.body()
    send_at: Micros | None = values.get("send_at")
    call.check(*time_faults(send_at, values.get("expires_at"), now))
    message = draft_of(values, max(now, send_at or now)).message
    return envelope.data(answers.preview(await call.service.previews.of(call.user_id, call.id, message)))


async def stats(call: Call) -> Answer:
    handler, facts = await call.service.handlers.stats(call.user_id, call.id)
    [state] = await call.service.handlers.states([handler])
    return envelope.data(answers.stats(handler, facts, state))


async def secret(call: Call) -> Answer:
    return envelope.data(answers.secret(await call.service.handlers.secret(call.user_id, call.id)))


async def rotate_secret(call: Call) -> Answer:
    _ = call.body()
    call.check()
    return envelope.data(answers.secret(await call.service.handlers.rotate_secret(call.user_id, call.id)))


def _draft(call: Call, current: Handler | None) -> HandlerDraft:
    """The handler to be written. Raises Invalid with the faults found by the table and by the types' rules together."""
    values: dict[str, Any] = dict(call.body())
    is_enabled: bool | None = values.pop("is_enabled", None)
    draft, faults = check(values, is_enabled, current, call.service.settings.allow_ports)
    if current is not None and not call.caller.sees_secrets:
        faults += redirected(values, draft, current)
    call.check(*faults)
    return draft
