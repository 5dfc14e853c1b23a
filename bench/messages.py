"""What is sent: messages of about 500 bytes that differ from one another, each to one handler, round robin."""

import json
from collections.abc import Iterator

TITLE = "Disk almost full on db-17.example.com"
_TEXT = (
    "The file system /var/lib/postgresql on db-17.example.com is 93 % full: 41 GiB of 586 GiB are free, 6 GiB less than an hour ago. "
    "At this rate it is full in about seven hours. The largest growth is in pg_wal, 22 GiB since midnight; the replica db-18 has not "
    "confirmed anything since 03:12 UTC and holds back its removal. Look at the replica first, then at the replication slot, and only "
    "then at the file system itself."
)


def text(number: int) -> str:
    return f"#{number} {_TEXT}"


def item(number: int, handler_id: int, **more: object) -> dict[str, object]:
    return {"title": TITLE, "message": text(number), "severity": "warning", "handlers": [handler_id], **more}


def requests_of_one(handler_ids: list[int], start: int, count: int, api_key: str) -> Iterator[bytes]:
    for number in range(start, start + count):
        yield post("/api/notifications", json.dumps(item(number, handler_ids[number % len(handler_ids)])).encode(), api_key)


def requests_of_many(handler_ids: list[int], start: int, count: int, size: int, api_key: str, **more: object) -> Iterator[bytes]:
    """`more`: what each message has besides."""
    for first in range(start, start + count, size):
        numbers = range(first, min(first + size, start + count))
        items = [item(number, handler_ids[number % len(handler_ids)], **more) for number in numbers]
        yield post("/api/notifications/batch", json.dumps({"notifications": items}).encode(), api_key)


def post(path: str, content: bytes, api_key: str) -> bytes:
    """A request whose body is JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {api_key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
