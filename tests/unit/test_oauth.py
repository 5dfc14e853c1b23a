"""The mail account by OAuth: a real token server and a real mail server that takes nothing but XOAUTH2, on loopback."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

import pytest

from conftest import run
from mailserver import MailServer
from receiver import Receiver
from support.store import OpenStore
from tocsin.flow.mail_account import REFRESH_TOKEN, KeptToken
from tocsin.model import MASK, Mail, MailReply, NoReply, Reason
from tocsin.net import oauth
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire, complaints
from tocsin.net.oauth import NoToken, Tokens, oauth_of
from tocsin.settings import Settings, SettingsError, load
from tocsin.vault import Vault

MAIL = Mail("tocsin@sender.example", "root@nas", b"Subject: x\r\n\r\nx\r\n")
USER, SECRET, REFRESH = "alarms@example.com", "client/s3cret+value", "refresh-t0ken-0"
T = TypeVar("T")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Memory:
    """A keeper."""

    def __init__(self) -> None:
        self.token: str | None = None

    async def read(self) -> str | None:
        return self.token

    async def keep(self, token: str) -> None:
        self.token = token


def granted(server: Receiver, token: str, **more: object) -> None:
    answer = {"token_type": "Bearer", "expires_in": 3600, "access_token": token} | more
    server.answer("/token", 200, body=json.dumps(answer).encode(), headers={"Content-Type": "application/json"})


def refused(server: Receiver, status: int, **answer: object) -> None:
    server.answer("/token", status, body=json.dumps(answer).encode())


def options(url: str, token_server: Receiver | None, **more: str) -> Settings:
    given = {"TOCSIN_SMTP_URL": url, "TOCSIN_EMAIL_FROM": "a@example.com", "TOCSIN_SMTP_OAUTH_CLIENT_ID": "the-client"}
    if token_server is not None:
        given["TOCSIN_SMTP_OAUTH_TOKEN_URL"] = token_server.url("/token")
    given |= {"TOCSIN_SMTP_OAUTH_CLIENT_SECRET": SECRET, **more}
    return load({name: value for name, value in given.items() if value}, Path("/nonexistent"))


@asynccontextmanager
async def logged_in(settings: Settings, keeper: Any = None, clock: Callable[[], float] | None = None):
    http = HttpWire(settings)
    login = oauth_of(settings)
    assert login is not None
    tokens = Tokens(login, http.send, keeper or Memory(), clock or Clock())
    wire = MailWire(settings, tokens=tokens, mails_per_connection=1)
    try:
        yield wire, tokens
    finally:
        await wire.close()
        await http.close()


def using(settings: Settings, work: Callable[[MailWire, Tokens], Awaitable[T]], **more: Any) -> T:
    async def main() -> T:
        async with logged_in(settings, **more) as (wire, tokens):
            return await work(wire, tokens)

    return asyncio.run(main())


def mail_server(*tokens: str) -> MailServer:
    return MailServer(user=USER, methods=("XOAUTH2",), tokens=set(tokens))


def url_of(server: MailServer) -> str:
    return f"smtp://{USER.replace('@', '%40')}@127.0.0.1:{server.port}?tls=optional"


def forms(server: Receiver) -> list[dict[str, str]]:
    return [{name: value[0] for name, value in parse_qs(one.body.decode()).items()} for one in server.requests]


# -------------------------------------------------------------------------------------------------------------- getting one


def test_client_credentials_log_in_and_one_token_serves_many_mails() -> None:
    async def work(wire: MailWire, _: Tokens) -> list[MailReply | NoReply]:
        return [*await asyncio.gather(*(wire.send(MAIL) for _ in range(12))), await wire.send(MAIL)]

    with Receiver() as server, mail_server("access-1") as mails:
        granted(server, "access-1")
        settings = options(url_of(mails), server, TOCSIN_SMTP_OAUTH_SCOPE="https://outlook.office365.com/.default")
        replies = using(settings, work)
        assert [isinstance(reply, MailReply) and reply.code for reply in replies] == [250] * 13
        assert {mail.user for mail in mails.mails} == {USER} and len(mails.mails) == 13
        wanted = {"grant_type": "client_credentials", "client_id": "the-client", "client_secret": SECRET}
        assert forms(server) == [wanted | {"scope": "https://outlook.office365.com/.default"}]
        assert server.requests[0].headers["content-type"] == "application/x-www-form-urlencoded"


def test_a_token_is_renewed_shortly_before_it_ends() -> None:
    clock = Clock()

    async def work(_: MailWire, tokens: Tokens) -> list[str]:
        found = []
        for at in (0.0, 3299.0, 3300.0, 3301.0):
            clock.now = 1000.0 + at
            found.append(await tokens.token())
        return found

    with Receiver() as server, mail_server() as mails:
        granted(server, "first")
        granted(server, "second", expires_in="3600")
        assert using(options(url_of(mails), server), work, clock=clock) == ["first", "first", "second", "second"]
        assert len(server.requests) == 2


@pytest.mark.parametrize(("expires_in", "good_for"), [(40, 30), (None, 450), ("soon", 450), (-1, 450), (True, 450)])
def test_how_long_a_token_is_used(expires_in: object, good_for: float) -> None:
    clock = Clock()

    async def work(_: MailWire, tokens: Tokens) -> list[str]:
        found = [await tokens.token()]
        for at in (good_for - 1, good_for):
            clock.now = 1000.0 + at
            found.append(await tokens.token())
        return found

    with Receiver() as server, mail_server() as mails:
        granted(server, "first", expires_in=expires_in)
        granted(server, "second")
        assert using(options(url_of(mails), server), work, clock=clock) == ["first", "first", "second"]


def test_where_the_early_renewal_fails_the_old_token_is_used_until_it_ends() -> None:
    clock = Clock()

    async def work(_: MailWire, tokens: Tokens) -> None:
        assert await tokens.token() == "first"
        clock.now += 3600 - oauth.MAX_EARLY_SECONDS + 1
        assert [await tokens.token() for _ in range(3)] == ["first"] * 3
        assert len(token_server.requests) == 2  # for a while it is not asked again
        clock.now += oauth.PAUSE_SECONDS
        assert (await tokens.token(), len(token_server.requests)) == ("first", 3)
        clock.now += oauth.MAX_EARLY_SECONDS
        with pytest.raises(NoToken):
            await tokens.token()
        clock.now += oauth.PAUSE_SECONDS
        assert await tokens.token() == "second"

    with Receiver() as token_server, mail_server("first") as server:
        granted(token_server, "first")
        for _ in range(3):
            refused(token_server, 503)
        granted(token_server, "second")
        using(options(url_of(server), token_server), work, clock=clock)


def test_a_token_that_the_mail_server_does_not_take_is_not_kept_for_a_failed_renewal() -> None:
    async def work(_: MailWire, tokens: Tokens) -> None:
        tokens.forget(await tokens.token())
        with pytest.raises(NoToken):
            await tokens.token()

    with Receiver() as token_server, mail_server("first") as server:
        granted(token_server, "first")
        refused(token_server, 503)
        using(options(url_of(server), token_server), work)


def test_a_token_that_the_mail_server_does_not_take_is_renewed_once() -> None:
    async def work(wire: MailWire, tokens: Tokens) -> list[MailReply | NoReply]:
        assert await tokens.token() == "revoked"
        return [await wire.send(MAIL), await wire.send(MAIL)]

    with Receiver() as server, mail_server("fresh") as mails:
        granted(server, "revoked")
        granted(server, "fresh")
        replies = using(options(url_of(mails), server), work)
        assert [isinstance(reply, MailReply) and reply.code for reply in replies] == [250, 250]
        assert len(server.requests) == 2 and len(mails.mails) == 2


def test_a_mail_that_is_cancelled_takes_the_token_from_no_other() -> None:
    async def work(wire: MailWire, _: Tokens) -> MailReply | NoReply:
        first, second = (asyncio.create_task(wire.send(MAIL)) for _ in range(2))
        await asyncio.to_thread(lambda: server.wait(1))
        first.cancel()
        server.release()
        await asyncio.gather(first, return_exceptions=True)
        return await second

    with Receiver() as server, mail_server("access-1") as mails:
        server.answer("/token", 200, body=b'{"access_token":"access-1"}', hold=True)
        reply = using(options(url_of(mails), server), work)
        assert isinstance(reply, MailReply) and reply.code == 250
        assert len(server.requests) == 1


# ----------------------------------------------------------------------------------------------------------- refresh tokens


def test_a_refresh_token_that_is_renewed_is_used_from_then_on() -> None:
    clock, keeper = Clock(), Memory()

    async def work(_: MailWire, tokens: Tokens) -> None:
        for _ in range(3):
            await tokens.token()
            clock.now += 3600

    with Receiver() as server, mail_server() as mails:
        granted(server, "first", refresh_token="refresh-t0ken-1")
        granted(server, "second", refresh_token="refresh-t0ken-1")
        granted(server, "third", refresh_token="refresh-t0ken-2")
        using(options(url_of(mails), server, TOCSIN_SMTP_OAUTH_REFRESH_TOKEN=REFRESH), work, keeper=keeper, clock=clock)
        sent = [(one["grant_type"], one["refresh_token"], one["client_secret"]) for one in forms(server)]
        assert sent == [("refresh_token", token, SECRET) for token in (REFRESH, "refresh-t0ken-1", "refresh-t0ken-1")]
        assert keeper.token == "refresh-t0ken-2"


def test_where_the_kept_one_is_refused_the_one_of_the_settings_is_tried() -> None:
    keeper = Memory()
    keeper.token = "of-an-old-copy"

    async def work(_: MailWire, tokens: Tokens) -> str:
        return await tokens.token()

    with Receiver() as server, mail_server() as mails:
        refused(server, 400, error="invalid_grant")
        granted(server, "access-1")
        given = options(url_of(mails), server, TOCSIN_SMTP_OAUTH_REFRESH_TOKEN=REFRESH, TOCSIN_SMTP_OAUTH_CLIENT_SECRET="")
        assert using(given, work, keeper=keeper) == "access-1"
        assert [one["refresh_token"] for one in forms(server)] == ["of-an-old-copy", REFRESH]
        assert "client_secret" not in forms(server)[0]


def test_it_is_kept_encrypted_until_the_setting_is_changed(open_store: OpenStore) -> None:
    vault = Vault(["k" * 32])

    async def main() -> None:
        async with open_store() as store:
            settings = options("smtp://a@localhost", None, TOCSIN_SMTP_OAUTH_REFRESH_TOKEN=REFRESH)
            kept = KeptToken(store.values, vault, settings)
            assert await kept.read() is None
            await kept.keep("refresh-t0ken-1")
            assert await KeptToken(store.values, vault, settings).read() == "refresh-t0ken-1"
            sealed = await store.values.read(REFRESH_TOKEN)
            assert sealed is not None and b"refresh" not in sealed
            changed = options("smtp://a@localhost", None, TOCSIN_SMTP_OAUTH_REFRESH_TOKEN="another")
            assert await KeptToken(store.values, vault, changed).read() is None
            assert await KeptToken(store.values, Vault(["another key of 32 characters ..."]), settings).read() is None

    run(main())


def test_what_the_store_does_not_take_is_used_all_the_same(open_store: OpenStore) -> None:
    async def main() -> None:
        async with open_store() as store:
            kept = KeptToken(store.values, Vault(["k" * 32]), options("smtp://a@localhost", None, TOCSIN_SMTP_OAUTH_REFRESH_TOKEN=REFRESH))
            await store.database.write(lambda connection: connection.exec_driver_sql("DROP TABLE meta"))
            await kept.keep("refresh-t0ken-1")
            assert await kept.read() == "refresh-t0ken-1"

    run(main())


# ------------------------------------------------------------------------------------------------------------------ refusals


def once(settings: Settings) -> NoReply | MailReply:
    async def work(wire: MailWire, _: Tokens) -> MailReply | NoReply:
        return await wire.send(MAIL)

    return using(settings, work)


@pytest.mark.parametrize(
    ("status", "answer", "reason", "said"),
    [
        (400, {"error": "invalid_client", "error_description": f"bad {SECRET}"}, Reason.MAIL_ACCOUNT, "invalid_client: bad"),
        (401, {"error": "unauthorized_client"}, Reason.MAIL_ACCOUNT, "it answered 401: unauthorized_client"),
        (403, {}, Reason.MAIL_ACCOUNT, "it answered 403"),
        (429, {}, Reason.MAIL_SERVER, "it answered 429"),
        (503, {}, Reason.MAIL_SERVER, "it answered 503"),
        (200, {}, Reason.MAIL_SERVER, "no access token"),
        (200, {"access_token": 5}, Reason.MAIL_SERVER, "no access token"),
        (200, {"access_token": "a b"}, Reason.MAIL_SERVER, "no access token"),
        (200, {"access_token": "a\r\nQUIT"}, Reason.MAIL_SERVER, "no access token"),
    ],
)
def test_a_refusal_is_ours_and_says_why_without_the_secret(status: int, answer: dict[str, object], reason: Reason, said: str) -> None:
    with Receiver() as server, mail_server("x") as mails:
        refused(server, status, **answer)
        reply = once(options(url_of(mails), server))
        assert isinstance(reply, NoReply) and (reply.reason, reply.sent) == (reason, False)
        assert said in reply.detail and "127.0.0.1" in reply.detail
        assert SECRET not in reply.detail and not mails.mails


def test_a_token_server_that_is_not_there_is_no_fault_of_the_account() -> None:
    with Receiver() as server, mail_server("x") as mails:
        settings = options(url_of(mails), server)
    with mail_server("x") as mails:
        settings = load(
            {
                "TOCSIN_SMTP_URL": url_of(mails),
                "TOCSIN_SMTP_OAUTH_TOKEN_URL": settings.smtp_oauth_token_url or "",
                "TOCSIN_SMTP_OAUTH_CLIENT_ID": "c",
            }
        )
        reply = once(settings)
        assert isinstance(reply, NoReply) and (reply.reason, reply.sent) == (Reason.CONNECT, False)


def test_after_a_refusal_the_token_server_is_left_alone_for_a_while() -> None:
    clock = Clock()

    async def work(_: MailWire, tokens: Tokens) -> list[int]:
        asked = []
        for seconds in (0.0, oauth.PAUSE_SECONDS - 1, 1.0):
            clock.now += seconds
            for _ in range(5):
                with pytest.raises(NoToken, match="invalid_client"):
                    await tokens.token()
            asked.append(len(server.requests))
        return asked

    with Receiver() as server, mail_server() as mails:
        refused(server, 400, error="invalid_client")
        assert using(options(url_of(mails), server), work, clock=clock) == [1, 1, 2]


def test_a_server_without_xoauth2_and_a_user_it_does_not_know() -> None:
    with Receiver() as server, MailServer(user=USER, password="x", methods=("PLAIN",)) as mails:
        granted(server, "access-token-1")
        reply = once(options(url_of(mails), server))
        assert isinstance(reply, NoReply) and (reply.reason, reply.detail) == (
            Reason.MAIL_ACCOUNT,
            "The mail server offers no login by XOAUTH2.",
        )
    with Receiver() as server, mail_server("another") as mails:
        granted(server, "access-token-1")
        granted(server, "access-token-2")
        reply = once(options(url_of(mails), server))
        assert isinstance(reply, MailReply) and (reply.code, reply.stage) == (535, "auth")
        encoded = base64.b64encode(f"user={USER}\1auth=Bearer access-token-2\1\1".encode()).decode()
        assert MASK in reply.text and "access-token" not in reply.text and encoded not in reply.text


def test_no_repr_holds_a_secret() -> None:
    login = oauth_of(options("smtp://a@localhost", None, TOCSIN_SMTP_OAUTH_TOKEN_URL="https://login.example.com/token"))
    assert repr(login) == "OAuth(login.example.com)"


# ------------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize("url", ["http://login.example.com/token", "login.example.com", "https://me:pw@login.example.com/x", "ftp://x/y"])
def test_a_token_url_must_be_safe(url: str) -> None:
    with pytest.raises(SettingsError, match="TOCSIN_SMTP_OAUTH_TOKEN_URL must be an https URL"):
        load({"TOCSIN_SMTP_OAUTH_TOKEN_URL": url}, Path("/nonexistent"))


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"TOCSIN_SMTP_OAUTH_CLIENT_ID": ""}, "needs TOCSIN_SMTP_OAUTH_CLIENT_ID"),
        ({"TOCSIN_SMTP_OAUTH_CLIENT_SECRET": ""}, "needs TOCSIN_SMTP_OAUTH_CLIENT_SECRET or"),
        ({"TOCSIN_SMTP_URL": "smtp://smtp.example.com"}, "TOCSIN_SMTP_URL names no user"),
        ({"TOCSIN_SMTP_OAUTH_TOKEN_URL": ""}, "have no effect without TOCSIN_SMTP_OAUTH_TOKEN_URL"),
    ],
)
def test_what_is_missing_is_said(more: dict[str, str], said: str) -> None:
    given = {"TOCSIN_SMTP_OAUTH_TOKEN_URL": "https://login.example.com/token"}
    settings = options("smtp://alarms%40example.com@smtp.example.com:587", None, **(given | more))
    assert [sentence for sentence in complaints(settings) if said in sentence], complaints(settings)
    whole = options("smtp://alarms%40example.com@smtp.example.com:587", None, **given)
    assert complaints(whole) == []
