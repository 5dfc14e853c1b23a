"""The quick way in gives what the table gives, or nothing."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from tocsin.api import bodies, messages, quick
from tocsin.api.bodies import Pairs
from tocsin.api.endpoint import read_body
from tocsin.api.parameters import BATCH
from tocsin.clock import SECOND
from tocsin.model import Draft, Invalid

NOW = 1_790_000_000 * SECOND
TYPES = bodies.MEDIA_TYPES


def by_table(content: bytes) -> Draft | None:
    try:
        draft, faults = messages.read_draft(bodies.object_of(content, "application/json", TYPES, ()), NOW)
    except Invalid:
        return None
    return None if faults else draft


def batch_by_table(content: bytes) -> list[Draft] | None:
    try:
        values, faults = read_body(bodies.object_of(content, "application/json", TYPES, ()), BATCH)
    except Invalid:
        return None
    read = [messages.read_draft(item, NOW) for item in values.get("notifications", ()) if isinstance(item, Pairs)]
    if faults or len(read) != len(values["notifications"]) or any(found for _, found in read):
        return None
    return [draft for draft, _ in read]


TEXT = st.text(max_size=20) | st.sampled_from(
    ["", " ", "\0", "a\r\nb", '"message"', '\\"', "\\", "C:\\", "\u200b", "\x1b[0m", "a" * 257, "가" * 30_000, "\ud800"]
)
TEXT |= st.text("a _\b\x1b[]m\x9b\x07", max_size=8)  # of which a terminal, or a printer, leaves nothing to be seen now and then
TIME = st.sampled_from(["", "2026-11-23 10:00:00", "2026-09-21T17:46:40+01:00", "2027-12-01 00:00:00", "2020-01-01 00:00:00", "soon"])
SCALAR = TEXT | st.booleans() | st.integers() | st.floats() | st.none()
ITEM = st.fixed_dictionaries(
    {"message": TEXT},
    optional={
        "title": TEXT | SCALAR,
        "format": st.sampled_from(["markdown", "text", "", "html"]) | SCALAR,
        "severity": st.sampled_from(["info", "critical", "", "loud"]) | SCALAR,
        "url": st.sampled_from(["https://example.com/", "", "x", "http://a\0b"]) | SCALAR,
        "fields": st.dictionaries(TEXT, SCALAR, max_size=4) | SCALAR,
        "handlers": st.lists(st.integers(-1, 2**64) | SCALAR, max_size=3) | SCALAR,
        "send_at": TIME | SCALAR,
        "expires_at": TIME | SCALAR,
        "extra": SCALAR,
    },
)


@given(ITEM, st.booleans())
@example({"message": "m", "fields": {"a": 10**400}}, True)
@example({"message": "a\b "}, False)
def test_one(item: dict[str, Any], ascii_only: bool) -> None:
    content = json.dumps(item, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    draft = quick.one(content, NOW)
    assert draft is None or draft == by_table(content)


@given(st.lists(ITEM, max_size=3), st.booleans())
def test_batch(items: list[dict[str, Any]], ascii_only: bool) -> None:
    content = json.dumps({"notifications": items}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    drafts = quick.batch(content, NOW)
    assert drafts is None or drafts == batch_by_table(content)


PLAIN = {
    "message": 'Disk of **db-1** "full" C:\\temp\\ 가득\n',
    "title": "Disk",
    "severity": "warning",
    "url": "https://example.com/?a",
    "fields": {"host": "db-1", "up": True, "n": 5, "말": "값"},
    "handlers": [3, 1, 3],
    "send_at": "2026-11-23 10:00:00",
    "expires_at": "2026-11-23T11:00:00+01:00",
}


def test_plain_traffic_is_quick() -> None:
    late = {**PLAIN, "expires_at": "2026-11-23T12:00:00+01:00"}
    for item in ({"message": "m"}, {"message": "m", "handlers": []}, late):
        for content in (json.dumps(item).encode(), json.dumps(item, ensure_ascii=False, indent=2).encode()):
            draft = quick.one(content, NOW)
            assert draft is not None and draft == by_table(content)
    content = json.dumps({"notifications": [late] * 1000}).encode()
    assert quick.batch(content, NOW) == [by_table(json.dumps(late).encode())] * 1000
    assert quick.one(json.dumps(PLAIN).encode(), NOW) is None  # expires_at is not after send_at


def test_repeated_keys_are_not_quick() -> None:
    """msgspec keeps the last of them without a word."""
    for content in (
        b'{"message": "a", "message": "b"}',
        b'{"message": "a", "m\\u0065ssage": "b"}',
        b'{"message": "a\\\\", "message": "b\\""}',
        b'{"message": "a", "fields": {"x": 1, "x": 2}}',
        b'{"message": "a", "handlers": [1], "handlers": [2]}',
    ):
        assert quick.one(content, NOW) is None
        assert quick.batch(b'{"notifications": [%s]}' % content, NOW) is None
    assert quick.batch(b'{"notifications": [], "notifications": [{"message": "a"}]}', NOW) is None


def test_limits_of_a_batch() -> None:
    for count, fits in ((0, False), (1, True), (1000, True), (1001, False)):
        content = json.dumps({"notifications": [{"message": "m"}] * count}).encode()
        assert (quick.batch(content, NOW) is not None) is fits


def test_fingerprints() -> None:
    def of(**more: Any) -> bytes:
        draft = by_table(json.dumps({"message": "m", **more}).encode())
        assert draft is not None
        return messages.fingerprint([draft])

    assert of(fields={"a": 1, "b": 2}) == of(fields={"b": "2", "a": "1"})
    assert of() == of(severity="info") == of(title="") == of(handlers=None)
    different = [of(), of(title="t"), of(severity="critical"), of(url="http://a.b"), of(fields={"a": 1}), of(handlers=[1]), of(handlers=[])]
    different += [of(send_at="2026-11-23 10:00:00"), of(expires_at="2026-11-23 10:00:00"), of(fields={"a": 2}), of(message="n")]
    assert len(set(different)) == len(different)
