"""The ASGI application of the API: finds the endpoint, checks the caller, reads the request, and always answers."""

import re
from collections.abc import Sequence
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tocsin import acting
from tocsin.acting import Actor
from tocsin.api.auth import Doorkeeper, quota_headers
from tocsin.api.bodies import content_of
from tocsin.api.endpoint import Call, Endpoint, read_query
from tocsin.api.errors import NO_STORE, Answer, ClientGone, Refusal, answer_to, fault, shown
from tocsin.api.kinds import MAX_ID
from tocsin.api.proxies import client_address, headers_of, prefix
from tocsin.api.table import TABLE
from tocsin.flow.people.access import SEND, Caller
from tocsin.flow.service import Service
from tocsin.model import Fault, Missing

Methods: TypeAlias = dict[str, Endpoint]

_NOBODY = Caller(0, 0, frozenset())
_NUMBER = re.compile(r"-?[0-9]+")
_ID_AT = 3  # /api/{things}/{id}: where the id is in a path split at its slashes


class Api:
    """Serves /api and the probes; every other path goes to `otherwise`."""

    def __init__(self, service: Service, otherwise: ASGIApp | None = None, endpoints: Sequence[Endpoint] = TABLE) -> None:
        self._service = service
        self._otherwise = otherwise or PlainTextResponse("There is nothing here.\n", 404)
        self._may_have_prefix = bool(
            service.settings.trusted_proxies or service.settings.unix_socket or urlsplit(service.settings.base_url or "").path
        )
        self._doorkeeper = Doorkeeper(service.access, service.settings, service.failures, service.api_processes)
        self._routes: dict[str, Methods] = {}
        for endpoint in endpoints:
            self._routes.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        self._others = frozenset(path for path in self._routes if not path.startswith("/api/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _not_http(scope, receive, send)
            return
        if self._may_have_prefix:
            scope = self._without_prefix(scope)
        path: str = scope["path"]
        if path.startswith("//"):  # from a client that joins a base ending in a slash and a path
            scope = {**scope, "path": (path := f"/{path.lstrip('/')}")}
        if not path.startswith("/api/") and path != "/api" and _bare(path) not in self._others:
            await self._otherwise(scope, receive, send)
            return
        limits: list[tuple[bytes, bytes]] = []
        try:
            answer = await self._answer(scope, receive, limits)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - whatever failed, the client gets its envelope
            answer = answer_to(error, scope["method"], path)
        length = (b"content-length", b"%d" % len(answer.content))
        await send({"type": "http.response.start", "status": answer.status, "headers": [*answer.headers, *limits, length]})
        await send({"type": "http.response.body", "body": answer.content})

    def _without_prefix(self, scope: Scope) -> Scope:
        """A proxy may leave the path of the base URL in requests, or remove it."""
        found = unquote(prefix(scope, headers_of(scope), self._service.settings))  # as the server reads paths
        if found and (scope["path"] == found or scope["path"].startswith(f"{found}/")):
            return {**scope, "path": scope["path"][len(found) :] or "/"}
        return scope

    async def _answer(self, scope: Scope, receive: Receive, limits: list[tuple[bytes, bytes]]) -> Answer:
        """Raises whatever is wrong. `limits` receives the rate-limit headers."""
        path = _bare(scope["path"])
        methods, id_text = self._find(path)
        method: str = scope["method"]
        if method == "OPTIONS":
            return Answer(200, b"", (NO_STORE, (b"allow", _allowed(methods).encode())))
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            raise Refusal(fault("method_not_allowed", f"This path takes {_allowed(methods)}."), {"allow": _allowed(methods)})
        headers = headers_of(scope)
        caller = _NOBODY
        if endpoint.scopes is not None:
            caller = await self._doorkeeper.admit(scope, headers, endpoint.scopes, limits)
            if endpoint.scopes != (SEND,):  # nobody audits what is sent, and that must be quick
                address = client_address(scope, headers, self._service.settings)
                acting.act_as(Actor("api", caller.user_id, caller.key_id, address))
        query: bytes = scope["query_string"]
        pairs, values, faults = read_query(query, endpoint.query) if query or endpoint.query else ([], {}, [])
        row_id = 0 if id_text is None else _row_id(id_text, faults)
        content = await content_of(receive, headers, endpoint.most_bytes) if method == "POST" else b""
        call = Call(self._service, endpoint, path, scope, headers, caller, row_id, content, pairs, values, faults)
        if method != "POST":
            call.check()
        if endpoint.scopes != (SEND,):
            return await endpoint.handle(call)
        try:
            return await endpoint.handle(call)
        finally:
            limits.extend(quota_headers(self._service.quotas, caller.user_id))

    def _find(self, path: str) -> tuple[Methods, str | None]:
        """The path's endpoints by method, and the text of its id, if it has one. Raises Missing."""
        methods = self._routes.get(path)
        if methods is not None and "{" not in path:
            return methods, None
        parts = path.split("/")
        if len(parts) > _ID_AT and parts[_ID_AT]:
            methods = self._routes.get("/".join([*parts[:_ID_AT], "{id}", *parts[_ID_AT + 1 :]]))
            if methods is not None:
                return methods, parts[_ID_AT]
        raise Missing


def _bare(path: str) -> str:
    """The path without a slash at its end: both spellings are the same."""
    return path.removesuffix("/")


def _allowed(methods: Methods) -> str:
    return ", ".join([*methods, *(["HEAD"] if "GET" in methods else []), "OPTIONS"])


def _row_id(text: str, faults: list[Fault]) -> int:
    """The id in the path. Raises Missing for a number that no row can have; text that is not a number is added to the faults."""
    if not _NUMBER.fullmatch(text):
        faults.append(fault("invalid_id", f"The id must be a number; it is {shown(text)}.", "id"))
        return 0
    if len(text) > 40 or not 1 <= int(text) <= MAX_ID:
        raise Missing
    return int(text)


async def _not_http(scope: Scope, receive: Receive, send: Send) -> None:
    """app manages the life of the process, and there are no web sockets."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
