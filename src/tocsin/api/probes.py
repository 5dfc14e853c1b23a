"""What needs no API key: alive, ready, metrics."""

import hmac

import structlog

from tocsin import observe
from tocsin.api.answers import Health
from tocsin.api.endpoint import Call
from tocsin.api.envelope import plain
from tocsin.api.errors import Answer, Refusal, fault
from tocsin.api.proxies import client_address

log = structlog.get_logger(__name__)


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
            address = client_address(call.scope, call.headers, call.service.settings)
            observe.seldom(log.warning, "key.refused", address=address, path="/metrics", why="not the metrics token")
            raise Refusal(
                fault("unauthorized", "Send the metrics token as `Authorization: Bearer {token}`."), {"www-authenticate": "Bearer"}
            )
    await call.service.metrics.refresh()
    content, content_type = call.service.metrics.render()
    return Answer(200, content, ((b"content-type", content_type.encode()), (b"cache-control", b"no-store")))
