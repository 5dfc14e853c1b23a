"""Providers that misbehave, through the whole corridor: each ends in the outcome of the tables, and the next attempt arrives."""

import gzip
import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any

import pytest

from e2e.conftest import SCHEDULE, Starter
from e2e.service import Client, OwnedClient, Service
from mailserver import DROP, MailServer
from receiver import Receiver

_numbers = itertools.count(1)
_BOMB = gzip.compress(bytes(20_000_000))
TAKEN, LATER, LOST = "delivered", "later", "unknown"

# What the first answer is, and what the first attempt comes to. All but those that are taken are followed by one that arrives.
HTTP: dict[str, tuple[dict[str, Any], str, str]] = {
    "byte by byte": ({"how": "dribble"}, TAKEN, "ok"),
    "chunked": ({"how": "chunked"}, TAKEN, "ok"),
    "ten megabytes": ({"body": b"x" * 10_000_000}, TAKEN, "ok"),
    "an endless body": ({"how": "endless"}, TAKEN, "ok"),
    "a gzip bomb": ({"headers": {"Content-Encoding": "gzip"}, "body": _BOMB}, TAKEN, "ok"),
    "a storm of 1xx": ({"before": b"HTTP/1.1 102 Processing\r\n\r\n" * 1000}, TAKEN, "ok"),
    "http 1.0": ({"how": "raw", "body": b"HTTP/1.0 200 OK\r\n\r\nuntil the end"}, TAKEN, "ok"),
    "1xx without an end": ({"how": "raw", "body": b"HTTP/1.1 102 Processing\r\n\r\n" * 50_000}, LOST, "answer_too_large"),
    "endless headers": ({"how": "endless_headers"}, LOST, "answer_too_large"),
    "one endless line": ({"how": "raw", "body": b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 400_000}, LOST, "answer_too_large"),
    "broken chunks": ({"how": "broken_chunks"}, TAKEN, "ok"),  # the status has come, and it says it all
    "two lengths": (
        {"how": "raw", "body": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"},
        LOST,
        "bad_answer",
    ),
    "no http": ({"how": "raw", "body": b"220 smtp.example.com ESMTP\r\n"}, LOST, "bad_answer"),
    "more promised than sent": ({"how": "raw", "body": b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort"}, TAKEN, "ok"),
    "closed before the answer": ({"how": "close"}, LOST, "cut"),
    "reset before the answer": ({"how": "reset"}, LOST, "cut"),
    "closed in the headers": ({"how": "cut_headers"}, LOST, "cut"),
    "closed in the body": ({"how": "cut_body", "body": b"a body of some length"}, TAKEN, "ok"),
    "a redirect": ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, LATER, "redirected"),
    "an odd status": ({"status": 599}, LATER, "server_error"),
    "an error page": ({"status": 502, "body": b"<html>" + b"x" * 500_000}, LATER, "server_error"),
    "a client error": ({"status": 404}, LATER, "not_found"),
}


@pytest.fixture
def hostile(service: Service) -> OwnedClient:
    return service.client()


@pytest.mark.parametrize(("answer", "outcome", "reason"), HTTP.values(), ids=HTTP.keys())
def test_a_receiver_that_misbehaves(hostile: OwnedClient, receiver: Receiver, answer: dict[str, Any], outcome: str, reason: str) -> None:
    receiver.answer("/hook", **answer)
    receiver.answer("/hook", 200)
    handler = hostile.add_handler("webhook", webhook=receiver.url("/hook"))
    [delivery] = hostile.settled(hostile.send("Hello", handlers=[handler]))
    attempts = [(one["outcome"], one["reason"]) for one in delivery["attempts"]]
    expected = [(outcome, reason)] if outcome == TAKEN else [(outcome, reason), (TAKEN, "ok")]
    assert (delivery["status"], attempts) == ("delivered", expected)
    assert len(receiver.requests) == len(expected)
    assert len({one.headers["webhook-id"] for one in receiver.requests}) == 1


WAITS: dict[str, tuple[int, str | None, float]] = {
    "seconds": (429, "1", 1.0),
    "a decimal": (429, "0.5", 0.5),
    "nothing": (429, None, 0.2),
    "a word": (429, "soon", 0.2),
    "a negative": (429, "-5", 0.2),
    "an empty one": (429, "", 0.2),
    "not a number": (429, "NaN", 0.2),
    "infinity": (429, "inf", 0.2),
    "a past date": (429, "Sun, 06 Nov 1994 08:49:37 GMT", 0.2),
    "a broken date": (429, "Sun, 99 Nov 2094 88:49:37 GMT", 0.2),
    "with 503": (503, "1", 1.0),
}


@pytest.mark.parametrize(("status", "value", "least"), WAITS.values(), ids=WAITS.keys())
def test_retry_after_in_every_form(hostile: OwnedClient, receiver: Receiver, status: int, value: str | None, least: float) -> None:
    receiver.answer("/hook", status, headers={} if value is None else {"Retry-After": value})
    receiver.answer("/hook", 200)
    handler = hostile.add_handler("webhook", webhook=receiver.url("/hook"))
    [delivery] = hostile.settled(hostile.send("Hello", handlers=[handler]))
    assert [(one["outcome"], one["reason"]) for one in delivery["attempts"]] == [("later", "throttled"), (TAKEN, "ok")]
    first, second = receiver.requests
    assert second.at - first.at >= least


def test_retry_after_as_a_date(hostile: OwnedClient, receiver: Receiver) -> None:
    until_then = time.time() + 2
    receiver.answer("/hook", 429, headers={"Retry-After": formatdate(until_then, usegmt=True)})
    receiver.answer("/hook", 200)
    handler = hostile.add_handler("webhook", webhook=receiver.url("/hook"))
    [delivery] = hostile.settled(hostile.send("Hello", handlers=[handler]))
    assert delivery["status"] == "delivered"
    assert time.time() >= int(until_then)


@pytest.mark.parametrize("value", ["86401", "999999999", "an epoch", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_of_more_than_a_day_is_a_failure_that_says_so(hostile: OwnedClient, receiver: Receiver, value: str) -> None:
    wait = f"{int(time.time()) + 90_000}" if value == "an epoch" else value
    receiver.answer("/hook", 429, headers={"Retry-After": wait})
    handler = hostile.add_handler("webhook", webhook=receiver.url("/hook"))
    [delivery] = hostile.settled(hostile.send("Hello", handlers=[handler]))
    assert (delivery["status"], delivery["last_error"].partition(":")[0]) == ("failed", "throttled_too_long")


def test_a_certificate_that_nobody_trusts(hostile: OwnedClient) -> None:
    with Receiver(tls=True) as secure:
        handler = hostile.add_handler("webhook", webhook=secure.url("/hook"))
        [delivery] = hostile.settled(hostile.send("Hello", handlers=[handler]))
        assert {(one["outcome"], one["reason"]) for one in delivery["attempts"]} == {(LATER, "tls")}
        assert (delivery["status"], len(secure.requests)) == ("failed", 0)


@pytest.mark.parametrize("greeting", ["close", "reset"])
def test_a_secure_connection_that_breaks(hostile: OwnedClient, greeting: str) -> None:
    """A reset may come before libcurl has begun with TLS."""
    with Receiver(greeting=greeting) as broken:
        handler = hostile.add_handler("webhook", webhook=broken.url("/hook").replace("http:", "https:"))
        [delivery] = hostile.settled(hostile.send("Hello", handlers=[handler]))
        assert {(one["outcome"], one["reason"]) for one in delivery["attempts"]} <= {(LATER, "tls"), (LATER, "connect")}


# ----------------------------------------------------------------------------------------------------------------- mail

STAGES = ("connect", "hello", "mail", "rcpt", "data", "final")


@pytest.fixture(scope="module")
def mails() -> Iterator[MailServer]:
    with MailServer() as server:
        yield server


@pytest.fixture
def mailing(start_service: Starter, mails: MailServer) -> Client:
    return start_service(TOCSIN_SMTP_URL=mails.url(), TOCSIN_EMAIL_FROM="t@example.com", TOCSIN_RETRY_SCHEDULE=SCHEDULE).first()


def mailbox(client: Client) -> tuple[int, str]:
    """A handler and its address, which no other has."""
    address = f"someone{next(_numbers)}@example.com"
    return client.add_handler("email", email=address), address


def tried(client: Client, mails: MailServer, stage: str, answer: str) -> tuple[Any, int]:
    """A delivery whose first attempt meets this answer, and how often its mail was taken."""
    mails.close_connections()  # so that there is a greeting
    mails.answer(stage, answer)
    handler, address = mailbox(client)
    [delivery] = client.settled(client.send(f"{stage}: {answer}", handlers=[handler]))
    # Alone with its handler: a notice to another one would meet the next answer.
    assert client.delete(f"/api/notification-handlers/{handler}").status in {200, 204}
    return delivery, sum(one.recipients == [address] for one in mails.mails)


def test_every_reply_at_every_stage_of_a_mail(mailing: Client, mails: MailServer) -> None:
    """4xx is tried again and arrives; 5xx is not, unless it is about our account or this connection."""
    for stage in STAGES:
        for reply in ("421 4.3.2 closing", "450 4.2.0 later", "451 oops", "452 4.3.1 full"):
            delivery, taken = tried(mailing, mails, stage, reply)
            assert (delivery["status"], taken) == ("delivered", 1), (stage, reply, delivery["attempts"])
        for reply, at_recipient in (
            ("500 what", "rejected"),
            ("550 5.1.1 no such user", "mailbox"),
            ("552 5.3.4 too big", "plain"),
            ("554 5.7.1 no", "policy"),
            ("599 odd", "rejected"),
        ):
            delivery, taken = tried(mailing, mails, stage, reply)
            if (stage, reply[:3]) == ("hello", "500"):
                reasons = ["ok"]  # a server that does not know EHLO is greeted with HELO
            elif at_recipient == "plain" and stage not in {"connect", "hello"}:
                reasons = ["plain"]
            elif stage in {"connect", "hello", "mail"}:
                reasons = ["mail_account", "ok"]  # ours to repair, and the mail waits for that
            else:
                reasons = [at_recipient]
            assert [one["reason"] for one in delivery["attempts"]] == reasons, (stage, reply, delivery["attempts"])
            arrives = reasons[-1] in {"ok", "plain"}
            assert (delivery["status"], taken) == ("delivered" if arrives else "failed", arrives), (stage, reply)


def test_a_connection_that_breaks_at_every_stage_of_a_mail(mailing: Client, mails: MailServer) -> None:
    """Up to the last dot it has not arrived and is sent again; behind it, it may have, and waits for five minutes."""
    for stage in ("connect", "hello", "mail", "rcpt", "data"):
        delivery, taken = tried(mailing, mails, stage, DROP)
        assert (delivery["status"], taken) == ("delivered", 1), (stage, delivery["attempts"])
    mails.answer("final", DROP)
    lost = mailing.attempted(mailing.send("drops behind the dot", handlers=[mailbox(mailing)[0]]))
    assert [(one["outcome"], one["reason"]) for one in lost["attempts"]] == [("unknown", "mail_server")]
    waits = datetime.fromisoformat(lost["next_attempt_datetime"]).replace(tzinfo=UTC).timestamp() - time.time()
    assert lost["status"] == "pending" and waits > 280
