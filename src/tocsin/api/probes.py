"""What needs no API key: alive, ready, metrics."""

import hmac

from tocsin.api.answers import Health
from tocsin.api.endpoint import Call
from tocsin.api.envelope import plain
from tocsin.api.errors import Answer, Refusal, fault


async def alive(_call: Call) -> Answer:
    return plain(Health("ok", []))


async def ready(call: Call) -> Answer:
    unready, complaints = call.service.unready(), call.service.complaints()
    return plain(Health("unready", [*unready, *complaints]), 503) if unready else plain(Health("ok", complaints))


async def metrics(call: Call) -> Answer:
    token = call.service.settings.metrics_token
    if token:
        scheme, _, given = call.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), token.encode()):
            raise Refusal(
                fault("unauthorized", "Send the metrics token as `Authorization: Bearer {token}`."), {"www-authenticate": "Bearer"}
            )
    content, content_type = call.service.metrics.render()
    return Answer(200, content, ((b"content-type", content_type.encode()), (b"cache-control", b"no-store")))
