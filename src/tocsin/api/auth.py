"""Who is asking, whether they may, and how often."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import structlog
from starlette.types import Scope

from tocsin import acting
from tocsin.acting import Actor
from tocsin.api.errors import Refusal, fault
from tocsin.api.proxies import client_address, neighbourhood
from tocsin.flow.people.access import Access, Caller
from tocsin.flow.people.failures import Failures
from tocsin.flow.quotas import Policy, Quotas
from tocsin.flow.windows import WINDOW_SECONDS, Standing, Windows
from tocsin.ports.audit import Act
from tocsin.settings import Settings

FAILURES_A_MINUTE = 30
MAX_KEY = 512

Headers: TypeAlias = Mapping[bytes, bytes]

log = structlog.get_logger(__name__)
_NO_KEY = "Send your API key as `Authorization: Bearer {api_key}`."
_BAD_KEY = "This API key is unknown, was revoked or has expired."


def _headers(name: str, standing: Standing) -> dict[str, str]:
    """As drafts and habits have it, and as the current draft does: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers"""
    left = max(0, standing.share - standing.used)
    return {
        "ratelimit-limit": str(standing.limit),
        "ratelimit-remaining": str(left),
        "ratelimit-reset": str(standing.reset_seconds),
        "ratelimit-policy": f'"{name}";q={standing.limit};w={WINDOW_SECONDS:.0f}',
        "ratelimit": f'"{name}";r={left};t={standing.reset_seconds}',
    }


def quota_headers(quotas: Quotas, user_id: int) -> list[tuple[bytes, bytes]]:
    """What a user has left of the quotas over time, in the current draft's two headers; none for administrators."""
    left = quotas.left(user_id)
    if not left:
        return []
    now = ", ".join([f'"{name}";r={count};t={seconds}' for name, count, seconds in left])
    return [(b"ratelimit-policy", _policies(quotas.over_time)), (b"ratelimit", now.encode())]


@functools.cache
def _policies(over_time: tuple[Policy, ...]) -> bytes:
    return ", ".join([f'"{one.name}";q={one.most};w={one.seconds}' for one in over_time]).encode()


class Doorkeeper:
    """Lets a request in or refuses it."""

    def __init__(
        self,
        access: Access,
        settings: Settings,
        failures: Failures,
        api_processes: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._access = access
        self._settings = settings
        self._failures = failures
        self._windows = Windows(FAILURES_A_MINUTE, clock, api_processes)
        self._requests = Windows(settings.rate_limit, clock, api_processes) if settings.rate_limit else None

    async def admit(self, scope: Scope, headers: Headers, scopes: Sequence[str], limits: list[tuple[bytes, bytes]]) -> Caller:
        """The caller whose key the request carries, if the key has every one of the scopes. A valid key works even from an address with
        too many failures. `limits` takes the headers with the key's count, none if there is no limit. Raises Refusal.
        """
        scheme, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            scheme, key = _bearer(scope)
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            raise await self._failed(scope, headers, _NO_KEY)
        caller = await self._access.caller(key) if len(key) <= MAX_KEY and key.isascii() else None
        if caller is None:
            raise await self._failed(scope, headers, _BAD_KEY)
        if self._requests is not None:
            limits.extend(_counted(self._requests, caller))
        if not caller.scopes.issuperset(scopes):
            lacking = ", ".join(one for one in scopes if one not in caller.scopes)
            raise Refusal(fault("forbidden", f"Your API key lacks these scopes: {lacking}."), {})
        return caller

    async def _failed(self, scope: Scope, headers: Headers, detail: str) -> Refusal:
        address = client_address(scope, headers, self._settings)
        standing = self._windows.count(neighbourhood(address))
        if standing.used <= standing.share + 1:  # each once, and once that there are more
            log.warning("key.refused", address=address, path=scope["path"], why="no key" if detail is _NO_KEY else "no valid key")
        if detail is not _NO_KEY:
            with acting.acting(Actor("api", address=address)):
                await self._failures.count(Act.KEY_REFUSED, neighbourhood(address))
        if standing.is_over:
            return _too_many("Authentication failed too often from this address.", "failures", standing)
        return Refusal(fault("unauthorized", detail), {"www-authenticate": "Bearer"})


def _counted(requests: Windows, caller: Caller) -> list[tuple[bytes, bytes]]:
    """Counts this request and returns the headers with the key's count. Raises Refusal (429)."""
    standing = requests.count(caller.key_id)
    if standing.is_over:
        detail = f"This API key may make {standing.limit} request{'' if standing.limit == 1 else 's'} a minute."
        if standing.share < standing.limit:
            detail += f" Several processes share this limit, and each allows {standing.share} of them."
        raise _too_many(detail, "requests", standing)
    return [(name.encode(), value.encode()) for name, value in _headers("requests", standing).items()]


def _bearer(scope: Scope) -> tuple[str, str]:
    """Also accepts a key in an `Authorization` header that is not the last: a proxy with its own password may append another."""
    for name, value in scope["headers"]:
        scheme, _, key = value.decode("latin-1").partition(" ")
        if name == b"authorization" and scheme.lower() == "bearer":
            return scheme, key
    return "", ""


def _too_many(detail: str, name: str, standing: Standing) -> Refusal:
    return Refusal(fault("rate_limited", detail), {**_headers(name, standing), "retry-after": str(standing.reset_seconds)})
