"""The service's HTTP API, as the client commands use it."""

import http.client
import ipaddress
import re
import secrets
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from tocsin.cli.failure import Failure, KeyRefused, NoConnection
from tocsin.cli.show import one_line
from tocsin.model import MASK

TIMEOUT_SECONDS = 30.0
PAGE_SIZES = (10, 25, 50, 100, 250, 500, 1000)
_BUSY = {429, 503}
_LOST = 502  # a gateway's, whose service ended before it had answered
_LOST_PAUSE_SECONDS = 0.5
_AWAY = {502, 503, 504}  # what gateways answer while a service is down
_THINGS = re.compile(r"/api/(notification-handler|deliver|notification)(?:s|ies)/(\d+)")
_NAMES = {"notification-handler": "handler", "deliver": "delivery", "notification": "notification"}
_TRIES = 4
_LONGEST_PAUSE_SECONDS = 10.0

Query = Sequence[tuple[str, str]]
T = TypeVar("T")


class Meta(Struct):
    total: int = 0
    total_pages: int = 0


class Envelope(Struct):
    """What every successful answer looks like; `meta` only on lists."""

    data: Any = msgspec.UNSET
    meta: Meta | None = None


class Answer(Struct, Generic[T], frozen=True):
    """What came, or one row of it: `raw` is all of it, for `--json`, `data` what the command reads."""

    raw: Any
    data: T


class Made(Struct):
    """What was made or changed."""

    id: int


class _Source(Struct):
    parameter: str = ""


class _Error(Struct):
    detail: str = ""
    title: str = ""
    source: _Source | None = None


class _Errors(Struct):
    errors: list[_Error]


class Denied(KeyRefused):
    """The key lacks the scope."""


class Client:
    """Speaks to one service with one key. Every method raises Failure with one sentence."""

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url.rstrip("/")
        self._wire_url = _in_ascii(self._url)
        self._api_key = api_key
        self._opener = _opener(url)

    def get(self, path: str, kind: type[T]) -> Answer[T]:
        """`kind`: what the answer must be, as in the other methods. Anything else comes from a server that is not tocsin."""
        return self._checked(self._call("GET", path), kind)

    def post(self, path: str, kind: type[T], content: object = None, *, idempotency_key: str | None = None) -> Answer[T]:
        headers = {"Content-Type": "application/json"} | ({} if idempotency_key is None else {"Idempotency-Key": idempotency_key})
        return self._checked(self._call("POST", path, msgspec.json.encode(content if content is not None else {}), headers), kind)

    def delete(self, path: str, kind: type[T]) -> Answer[T]:
        return self._checked(self._call("DELETE", path), kind)

    def post_form(self, path: str, kind: type[T], fields: Mapping[str, str]) -> Answer[T]:
        """multipart/form-data, as the reference document has it."""
        boundary = secrets.token_hex(16)
        parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()]
        body = "".join([*parts, f"--{boundary}--\r\n"]).encode()
        return self._checked(self._call("POST", path, body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}), kind)

    def rows(self, path: str, kind: type[T], query: Query = (), limit: int | None = None) -> Iterator[Answer[T]]:
        """The rows of all pages, or the first `limit` of them."""
        size = next((size for size in PAGE_SIZES if limit is not None and size >= limit), PAGE_SIZES[-1])
        page, given = 1, 0
        while True:
            asked = urlencode([*query, ("results_per_page", str(size)), ("page", str(page))])
            envelope = self._call("GET", f"{path}?{asked}")
            rows = self._checked(envelope, list[Any]).data
            if envelope.meta is None:
                raise self._stranger()
            for row in rows:
                if given == limit:
                    return
                given += 1
                yield self._checked(Envelope(row), kind)
            if not rows or given == limit or page >= envelope.meta.total_pages:
                return
            page += 1

    def _checked(self, envelope: Envelope, kind: type[T]) -> Answer[T]:
        try:
            return Answer(envelope.data, msgspec.convert(envelope.data, kind))
        except msgspec.ValidationError:
            raise self._stranger() from None

    def _stranger(self) -> Failure:
        return Failure(f"{shown_url(self._url)} does not answer like tocsin: check TOCSIN_URL.")

    def _call(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Envelope:
        """Repeats a request that the service was too busy for: it says so before it has done anything. What has an idempotency key is also
        repeated where the answer was lost: another process may serve it."""
        headers = headers or {}
        for last in [False] * (_TRIES - 1) + [True]:
            status, answered, content = self._exchange(method, path, body, headers)
            pause_seconds = _pause(answered.get("retry-after")) if status in _BUSY else None
            if status == _LOST and "Idempotency-Key" in headers:
                pause_seconds = _LOST_PAUSE_SECONDS
            if last or pause_seconds is None:
                return self._read(path, status, answered, content)
            time.sleep(pause_seconds)
        raise AssertionError("unreachable")

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        asked = {"Authorization": f"Bearer {self._api_key}", "Accept": "application/json", "User-Agent": "tocsin", **headers}
        request = urllib.request.Request(self._wire_url + path, data=body, headers=asked, method=method)  # noqa: S310 - settings allow http and https only
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as reply:
                return reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.read()
        except (OSError, http.client.HTTPException, ValueError) as error:  # the last: what cannot be a host name
            raise NoConnection(
                f"No answer from {shown_url(self._url)} ({_why(error)}). Is the service running there? TOCSIN_URL says where."
            ) from None

    def _read(self, path: str, status: int, headers: Mapping[str, str], content: bytes) -> Envelope:
        if 300 <= status < 400:
            where = shown_url(headers.get("location") or "elsewhere")
            raise Failure(f"{shown_url(self._url)} redirects to {where}: put the service's own address into TOCSIN_URL.")
        if status == 401:
            raise KeyRefused(f"{shown_url(self._url)} does not know this API key: put a valid one into TOCSIN_API_KEY.")
        if status == 403:
            raise Denied(_sentences(status, content))
        if status == 404:
            raise Failure(self._missing(path))
        if status in _AWAY:
            raise NoConnection(_sentences(status, content))
        if status >= 400:
            raise Failure(_sentences(status, content))
        envelope = _decoded(content, Envelope) if content else Envelope(None)
        if envelope is None:
            raise self._stranger()
        return envelope

    def _missing(self, path: str) -> str:
        if thing := _THINGS.match(path):
            if path.endswith("/secret"):  # other types have no secret, and get the same answer
                return f"There is no webhook handler {thing[2]}: only webhooks have a signing secret."
            return f"There is no {_NAMES[thing[1]]} {thing[2]}."
        asked = shown_url(self._url + path)
        return f"There is nothing at {asked}: set TOCSIN_URL to the address of the service, without a path of its API."


def connect() -> Client:
    """The client that TOCSIN_URL and TOCSIN_API_KEY describe."""
    from tocsin.cli.options import load_settings

    settings = load_settings()
    api_key = (settings.api_key or "").strip()  # files and units add a line end to it
    if not api_key:
        raise KeyRefused("TOCSIN_API_KEY is not set: put an API key of the service into the environment or into .env.")
    if not re.fullmatch(r"[\x21-\x7e]+", api_key):
        raise KeyRefused("TOCSIN_API_KEY contains characters that no API key has.")
    if "@" in urlsplit(settings.url).netloc:
        raise Failure("TOCSIN_URL contains a user name: remove it, the service needs only the API key.")
    return Client(settings.url, api_key)


def _opener(url: str) -> urllib.request.OpenerDirector:
    """Returns every answer as it is. A redirect is reported, not followed: the key must not be sent to an unknown target."""
    opener = urllib.request.OpenerDirector()
    proxies = urllib.request.ProxyHandler({} if _is_loopback(url) else None)
    for handler in (proxies, urllib.request.HTTPHandler(), urllib.request.HTTPSHandler()):
        opener.add_handler(handler)
    return opener


def _in_ascii(url: str) -> str:
    """As it goes on the wire, where letters beyond ASCII have another form."""
    if url.isascii():
        return url
    from tocsin.net.urls import ascii_host, wire_url

    try:
        if ascii_host(urlsplit(url).hostname or "") is not None:
            return wire_url(url)
    except UnicodeEncodeError:
        pass  # bytes in its path that are not UTF-8
    raise Failure(f"TOCSIN_URL cannot be used: {shown_url(url)} is not a valid address.")


def shown_url(url: str) -> str:
    """A URL without its userinfo and query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    userinfo, at, place = parts.netloc.rpartition("@")
    return one_line(parts._replace(netloc=f"{MASK}@{place}" if userinfo or at else place, query="", fragment="").geturl())


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _pause(retry_after: str | None) -> float | None:
    if retry_after is None or not re.fullmatch(r"\d{1,6}", retry_after):
        return None
    pause_seconds = float(retry_after)
    return pause_seconds if pause_seconds <= _LONGEST_PAUSE_SECONDS else None


def _why(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"nothing came within {TIMEOUT_SECONDS:.0f} s"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    return one_line(str(reason)) or type(reason).__name__


def _sentences(status: int, content: bytes) -> str:
    found = _decoded(content, _Errors)
    if found is None or not found.errors:
        return f"The service answered {status} without saying why."
    return "\n".join(_sentence(error) for error in found.errors)


def _decoded(content: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _sentence(error: _Error) -> str:
    parameter = error.source.parameter if error.source else ""
    detail = one_line(error.detail or error.title)
    return f"{one_line(parameter)}: {detail}" if parameter and parameter not in detail else detail
