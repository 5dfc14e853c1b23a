"""Answers to incomplete requests: the API's envelope if the request line names a path of the API, else a plain sentence."""

import re

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from tocsin.api.errors import JSON_TYPE, NO_STORE, Refusal, answer_to, fault

TEXT_TYPE = (b"content-type", b"text/plain; charset=utf-8")
_API = re.compile(rb"(?:https?://[^/?#]*)?/api(?:[/?#]|$)", re.IGNORECASE)
_LINE = re.compile(rb"[\r\n]*[!-~]{1,40} +([!-~]{1,200})")
DETAILS = {
    "unreadable": "The request cannot be read as HTTP/1.1.",
    "two_hosts": "The request has more than one Host header.",
    "too_slow": "The request did not come in time.",
    "line_too_long": "The request line can be at most 64 KB long.",
    "head_too_large": "The head of a request can be at most 64 KB long.",
    "rate_limited": "There are too many connections from this address.",
    "busy": "The service has no room for this connection right now.",
}


def target_in(head: bytes) -> bytes:
    """The target of a request that could not be parsed, as far as its first line shows it."""
    match = _LINE.match(head)
    return match[1] if match else b""


def refusal(code: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    """The whole answer; the connection ends with it. `target` is the request's, as far as it is known; `headers`: those of every answer."""
    detail = DETAILS[code]
    wait = {"retry-after": "5"} if code in {"busy", "rate_limited"} else {}
    answer = answer_to(Refusal(fault("unreadable" if code == "two_hosts" else code, detail), wait), "", "")
    lines = [*headers, *answer.headers]
    content = answer.content
    if not _API.match(target):
        content = f"{detail}\n".encode()
        lines = [*headers, TEXT_TYPE, NO_STORE, *(one for one in answer.headers if one not in {JSON_TYPE, NO_STORE})]
    lines += [(b"content-length", b"%d" % len(content)), (b"connection", b"close")]
    head = b"".join(b"%b: %b\r\n" % line for line in lines)
    return b"".join([STATUS_LINE[answer.status], head, b"\r\n", content])
