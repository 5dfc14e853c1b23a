"""The deliveries endpoints: read, and send again."""

import hashlib
from collections.abc import Mapping
from typing import Any

from msgspec import msgpack

from tocsin.api import answers, envelope
from tocsin.api.endpoint import Call
from tocsin.api.errors import Answer, fault
from tocsin.model import Fault, Status
from tocsin.ports.history import DeliveryFilter


async def page(call: Call) -> Answer:
    number, size = call.values["page"], call.values["results_per_page"]
    found = await call.service.deliveries.page(call.user_id, _filter(call.values), number, size)
    return envelope.page(call, [answers.delivery(row) for row in found.rows], found.total, exact=found.exact)


async def get(call: Call) -> Answer:
    row, attempts, events = await call.service.deliveries.get(call.user_id, call.id)
    return envelope.data(answers.delivery_detail(row, attempts, events))


async def cancel(call: Call) -> Answer:
    _ = call.body()
    call.check()
    return envelope.data(answers.Cancelled(call.id, await call.service.deliveries.cancel_one(call.user_id, call.id)))


async def retry(call: Call) -> Answer:
    _ = call.body()
    call.check()
    return await _retry(call, call.id)


async def retry_many(call: Call) -> Answer:
    """The filters may be in the query, as for the list, or in the body."""
    body = call.body()
    query = {name: value for name, value in call.values.items() if value not in (None, "")}
    twice = [fault("repeated", f"{name} is given in the query and in the body.", name) for name in query if name in body]
    wanted = _filter({**query, **body})
    if wanted == DeliveryFilter() and not call.faults and not twice:
        call.faults.append(Fault("no_filter", "No filter", "Name at least one filter, so that not everything is sent again.", status=400))
    call.check(*twice)
    return await _retry(call, wanted)


async def _retry(call: Call, which: DeliveryFilter | int) -> Answer:
    content = hashlib.sha256(msgpack.encode(which)).digest()
    retried = await call.service.deliveries.retry(call.user_id, which, call.idempotency(content))
    return envelope.data(answers.Retried(retried), 202)


def _filter(values: Mapping[str, Any]) -> DeliveryFilter:
    word = values.get("status")
    return DeliveryFilter(
        notification_id=values.get("notification_id"),
        notification_handler_id=values.get("notification_handler_id"),
        status=Status[word.upper()] if word else None,
        datetime_start=values.get("datetime_start"),
        datetime_end=values.get("datetime_end"),
        search=values.get("search") or "",
    )
