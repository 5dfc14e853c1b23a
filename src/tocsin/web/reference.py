"""The reference page: the user's own document, generated from the table that parses the requests."""

import functools
import json
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct, inspect
from starlette.responses import Response

from tocsin.api.endpoint import Endpoint, Parameter, Result
from tocsin.api.errors import CODES
from tocsin.api.openapi import codes_of, form_value
from tocsin.api.table import TABLE
from tocsin.flow.words import hint, sentence
from tocsin.model import Reason
from tocsin.web.visit import Visit

# As the document writes them.
_SAMPLES: dict[str, Any] = {
    "name": "Work email",
    "type": "email",
    "settings": {"email": "hey@example.com"},
    "is_enabled": True,
    "datetime": "2025-06-07 02:07:50",
    "status": "delivered",
    "title": "Disk",
    "message": "Disk of **db-1** is 91 % full",
    "severity": "warning",
    "outcome": "delivered",
    "reason": "ok",
    "status_code": 200,
    "response": "ok",
    "text": "Accepted.",
    "duration_ms": 132,
    "attempt_count": 1,
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "limit": 65536,
}
# For fields whose name means something else elsewhere.
_SAMPLES_OF: dict[str, dict[str, Any]] = {
    "Health": {"status": "ok", "complaints": []},
    "HealthAnswer": {
        "state": "failing",
        "reason": "not_found",
        "detail": "404 no such hook",
        "hint": hint(Reason.NOT_FOUND),
        "waiting": 11,
    },
    "HandlerStateAnswer": {"state": "failing", "reason": "not_found", "detail": "404 no such hook", "waiting": 11},
    "HandlerEventAnswer": {"event": "switched_off", "reason": "gone", "text": "Switched off by the service. The target is gone."},
    "ReasonAnswer": {"reason": "not_found", "text": sentence(Reason.NOT_FOUND)},
    "TrialAnswer": {"request": "POST https://example.com/••••", "hint": hint(Reason.OK)},
    "PreviewPartAnswer": {"request": "POST https://example.com/••••"},
    "PreviewAnswer": {"changes": ["The code language is dropped."]},
    "SizeAnswer": {"what": "text", "unit": "characters"},
    "HandlerAnswer": {"last_datetime": None},
}


_CHANGED = ("name", "is_enabled", "status")  # what an example changes if the body requires nothing


class Entry(Struct, frozen=True):
    """One request: its path, its parameters and its answer."""

    endpoint: Endpoint
    curl: str
    python: str
    answer: str
    codes: tuple[str, ...]


async def page(visit: Visit) -> Response:
    return _page(visit)


async def korean_page(visit: Visit) -> Response:
    visit.language = "ko"
    return _page(visit)


def _page(visit: Visit) -> Response:
    return visit.page("docs.html", groups=_groups(visit.base), errors=CODES, base=visit.base)


@functools.lru_cache(maxsize=16)
def _groups(base: str) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for endpoint in TABLE:
        groups.setdefault(endpoint.group, []).append(_entry(endpoint, base))
    return groups


def _entry(endpoint: Endpoint, base: str) -> Entry:
    url = base + endpoint.path.replace("{id}", "1")
    example = _example(endpoint.body)
    curl, python = _curl(endpoint, url, example), _python(endpoint, url, example)
    return Entry(endpoint, curl, python, _answer(endpoint.result, base), codes_of(endpoint))


def _example(body: Sequence[Parameter]) -> dict[str, Any]:
    """The required fields with their examples; if none is required, the first two that have one."""
    needed = {one.name: _sample(one) for one in body if one.required}
    if "type" in needed:
        needed["email"] = next(one.example for one in body if one.name == "email")
    return needed or {one.name: one.example for one in body if one.example is not None and one.name in _CHANGED}


def _sample(parameter: Parameter) -> Any:
    if parameter.items:
        return [{one.name: one.example for one in parameter.items if one.required}]
    return parameter.example


def _curl(endpoint: Endpoint, url: str, example: dict[str, Any]) -> str:
    """As the document writes it: as a form if possible."""
    lines = [f"curl --request {endpoint.method}", f"--url '{url}'"]
    if endpoint.scopes is not None:
        lines.append('--header "Authorization: Bearer $TOCSIN_API_KEY"')
    if example and all(isinstance(value, str | int) for value in example.values()):
        lines.append("--header 'Content-Type: multipart/form-data'")
        lines += [f"--form '{name}={form_value(value)}'" for name, value in example.items()]
    elif example:
        lines += ["--header 'Content-Type: application/json'", f"--data '{json.dumps(example, ensure_ascii=False)}'"]
    return " \\\n".join(lines)


def _python(endpoint: Endpoint, url: str, example: dict[str, Any]) -> str:
    lines = [
        "import json, os, urllib.request",
        "",
        "request = urllib.request.Request(",
        f'    "{url}",',
        f'    method="{endpoint.method}",',
    ]
    if endpoint.scopes is not None:
        lines.append('    headers={"Authorization": f"Bearer {os.environ[\'TOCSIN_API_KEY\']}", "Content-Type": "application/json"},')
    if example:
        lines.append(f"    data=json.dumps({example!r}).encode(),")
    lines += [")", "with urllib.request.urlopen(request) as answer:", "    print(answer.status, answer.read().decode())"]
    return "\n".join(lines)


def _answer(result: Result, base: str) -> str:
    """A sample answer with made-up values."""
    if result.item is None:
        return ""
    one = _made_up(inspect.type_info(result.item), "")
    whole: Any = one if result.part == "bare" else {"data": one}
    if result.part in {"list", "page"}:
        whole = {"data": [one]}
    if result.part == "page":
        link = f"{base}/api/…?page=1"
        whole["meta"] = {"page": 1, "results_per_page": 25, "total": 1, "total_pages": 1}
        whole["links"] = {"first": link, "last": link, "next": None, "prev": None, "self": link}
    return msgspec.json.format(msgspec.json.encode(whole)).decode()


def _made_up(kind: inspect.Type, name: str, of: str = "") -> Any:
    """`of`: the struct whose field it is."""
    if name in _SAMPLES_OF.get(of, ()):
        return _SAMPLES_OF[of][name]
    if name in _SAMPLES:
        return _SAMPLES[name]
    match kind:
        case inspect.StructType():
            return {field.encode_name: _made_up(field.type, field.name, kind.cls.__name__) for field in kind.fields}
        case inspect.ListType() | inspect.CollectionType():
            return [_made_up(kind.item_type, name)]
        case inspect.UnionType():
            return None if any(isinstance(one, inspect.NoneType) for one in kind.types) else _made_up(kind.types[0], name)
        case inspect.DictType():
            return {}
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 1
        case inspect.FloatType():
            return 1.0
        case _:
            return "…"
