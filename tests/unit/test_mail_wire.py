import asyncio
import base64
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
import uvloop

from mailserver import DROP, HANG, MailServer
from tocsin import settings
from tocsin.flow.directory import Directory
from tocsin.flow.handlers.consenting import Consenting
from tocsin.flow.handlers.register import HandlerDraft
from tocsin.flow.handlers.trial import Trials
from tocsin.flow.pace import Pacer
from tocsin.flow.quotas import Quotas
from tocsin.model import Mail, MailReply, NoReply, Reason, Reply
from tocsin.net import mail as mail_module
from tocsin.net.http import HttpWire
from tocsin.net.mail import Learned, MailWire, NothingSent, complaints, server_of
from tocsin.net.smtp import Timeouts
from tocsin.net.wires import Wires

PASSWORD = "pa ss/wörd:@%secret"
MAIL = Mail("alarm@example.com", "root@nas", b"Subject: hi\r\n\r\nfirst line\r\n.hidden dot\r\n.\r\nlast line\r\n")
QUICK = Timeouts(connect_seconds=2, command_seconds=0.3, final_seconds=0.3)


def options(url: str | None, **more: str) -> settings.Settings:
    given = {"TOCSIN_EMAIL_FROM": "alarm@example.com"} | ({"TOCSIN_SMTP_URL": url} if url else {}) | more
    return settings.load(given, Path("/nonexistent"))


def using(server: MailServer, work: Callable[[MailWire], Coroutine[Any, Any, Any]], query: str = "", **wire: Any) -> Any:
    """Run `work` with a wire to the server, on the service's own kind of event loop."""

    async def run() -> Any:
        mail_wire = MailWire(options(server.url(query)), **wire)
        try:
            return await work(mail_wire)
        finally:
            await mail_wire.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def once(server: MailServer, mail: Mail = MAIL, query: str = "", **wire: Any) -> MailReply | NoReply:
    return using(server, lambda mail_wire: mail_wire.send(mail), query, **wire)


@pytest.fixture
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[MailServer], None]:
    """Makes the process trust a server's authority, as an operator does."""

    def trust(server: MailServer) -> None:
        assert server.authority
        server.authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    return trust


# ------------------------------------------------------------------------------------------------------------ delivering


def test_a_mail_arrives_byte_for_byte() -> None:
    with MailServer() as server:
        reply = once(server)
        assert reply == MailReply(250, "2.0.0 Ok: queued as 4F2A1", "final", "2.0.0")
        [received] = server.mails
    assert (received.sender, received.recipients, received.content) == (MAIL.sender, [MAIL.recipient], MAIL.content)
    assert not received.has_tls
    assert f"SIZE={len(MAIL.content)}" in received.mail_options


def test_bare_line_ends_cannot_end_the_mail_early() -> None:
    with MailServer() as server:
        once(server, Mail("a@b.example", "c@d.example", b"Subject: x\n\none\n.\r\nMAIL FROM:<evil@x>\r.\rtwo"))
        assert server.mails[0].content == b"Subject: x\r\n\r\none\r\n.\r\nMAIL FROM:<evil@x>\r\n.\r\ntwo\r\n"
        assert server.verbs().count("MAIL") == 1


@pytest.mark.parametrize("methods", [("PLAIN", "LOGIN"), ("LOGIN",), ("CRAM-MD5",), ("LOGIN", "CRAM-MD5", "XOAUTH2")])
@pytest.mark.parametrize("kind", ["tls", "starttls"])
def test_login_over_tls(trust: Callable[[MailServer], None], kind: str, methods: tuple[str, ...]) -> None:
    with MailServer(**{kind: True}, user="mé@example.com", password=PASSWORD, methods=methods) as server:
        trust(server)
        reply = once(server)
        assert isinstance(reply, MailReply)
        assert reply.code == 250
        assert (server.mails[0].has_tls, server.mails[0].user) == (True, "mé@example.com")
        assert f"AUTH {methods[0]}" in server.verbs()


def test_asyncio_s_own_event_loop_does_too(trust: Callable[[MailServer], None]) -> None:
    async def run(url: str) -> MailReply | NoReply:
        wire = MailWire(options(url))
        reply = await wire.send(Mail(MAIL.sender, MAIL.recipient, b"Subject: big\r\n\r\n" + b"0123456789\r\n" * 300_000))
        await wire.close()
        return reply

    with MailServer(starttls=True) as server:
        trust(server)
        reply = asyncio.run(run(server.url("?tls=optional")))
        assert isinstance(reply, MailReply)
        assert reply.code == 250
        assert len(server.mails[0].content) == 16 + 12 * 300_000
        assert server.mails[0].has_tls


@pytest.mark.parametrize("answer", ["454 4.7.0 TLS not available", "502 5.5.1 not implemented"])
def test_where_tls_is_optional_a_refused_starttls_is_no_obstacle(answer: str) -> None:
    with MailServer(starttls=True) as server:
        server.answer("starttls", answer)
        reply = once(server, query="?tls=optional")
        assert isinstance(reply, MailReply) and reply.code == 250
        assert not server.mails[0].has_tls
        server.answer("starttls", "421 4.3.2 closing")
        assert once(server, query="?tls=optional") == MailReply(421, "4.3.2 closing", "starttls", "4.3.2")
        sent = len(server.mails)
        server.answer("starttls", "no SMTP at all")
        once(server, query="?tls=optional")
        assert len(server.mails) == sent


def test_helo_where_ehlo_is_not_known() -> None:
    with MailServer() as server:
        server.answer("hello", "502 5.5.1 not implemented")
        reply = once(server)
        assert isinstance(reply, MailReply)
        assert reply.code == 250
        assert server.verbs()[:2] == ["EHLO", "HELO"]


def test_the_name_in_ehlo_is_a_full_name_or_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with MailServer() as server:
        monkeypatch.setattr("socket.gethostname", lambda: "laptop")
        once(server)
        monkeypatch.setattr("socket.gethostname", lambda: "db-1.Example.com")
        once(server)
        assert server.greetings == ["[127.0.0.1]", "db-1.example.com"]


# ------------------------------------------------------------------------------------------------------------------- tls


def test_tls_is_required_with_a_password() -> None:
    with MailServer(user="me", password=PASSWORD) as server:
        reply = once(server)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.TLS, False)
        assert "STARTTLS" in reply.detail
        assert not any(verb.startswith("AUTH") for verb in server.verbs())
        reply = once(server, query="?tls=optional")
        assert isinstance(reply, MailReply)
        assert reply.code == 250


@pytest.mark.parametrize(
    ("url", "tls", "port"),
    [
        ("smtp://mail.example.com", "required", 25),
        ("smtp://me:x@mail.example.com", "required", 587),
        ("smtp://me:x@localhost", "required", 587),
        ("smtp://me:x@mail.example.com:2525?tls=optional", "offered", 2525),
        ("smtp://localhost", "off", 25),
        ("smtp://127.0.0.9:1025", "off", 1025),
        ("smtp://[::1]", "off", 25),
        ("smtp://10.0.0.1", "required", 25),
        ("smtps://mail.example.com", "at_once", 465),
        ("smtps://mail.example.com?tls=optional", "at_once", 465),
    ],
)
def test_when_tls_is_asked_for(url: str, tls: str, port: int) -> None:
    server = server_of(url)
    assert (server.tls, server.port) == (tls, port)


def test_user_and_password_are_percent_decoded() -> None:
    server = server_of(f"smtp://{quote('me@example.com', safe='')}:{quote(PASSWORD, safe='')}@mail.example.com")
    assert (server.user, server.password) == ("me@example.com", PASSWORD)


@pytest.mark.parametrize("kind", ["tls", "starttls"])
def test_an_unknown_authority_is_refused(kind: str) -> None:
    with MailServer(**{kind: True}, user="me", password=PASSWORD) as server:
        reply = once(server)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.TLS, False)
        assert "TOCSIN_CA_FILE" in reply.detail
        assert not server.mails


@pytest.mark.parametrize("kind", ["tls", "starttls"])
def test_a_certificate_for_another_host_is_refused(trust: Callable[[MailServer], None], kind: str) -> None:
    with MailServer(**{kind: True}, user="me", password=PASSWORD, names=("mail.example.com",)) as server:
        trust(server)
        reply = once(server)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.TLS, False)


def test_smtps_to_a_plain_server_is_a_tls_failure() -> None:
    async def run(url: str) -> MailReply | NoReply:
        return await MailWire(options(url), timeouts=QUICK).send(MAIL)

    with MailServer() as server:
        reply = asyncio.run(run(server.url().replace("smtp://", "smtps://")))
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.TLS, False)


# -------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "final"])
@pytest.mark.parametrize(
    "answer", ["421 4.3.2 closing", "450 4.2.0 later", "451 oops", "550 5.1.1 no such user", "552 5.3.4 too big", "599 odd"]
)
def test_the_decisive_answer_of_a_mail(stage: str, answer: str) -> None:
    with MailServer() as server:
        server.answer(stage, answer)
        code, _, text = answer.partition(" ")
        enhanced = text.split(" ")[0] if text[1] == "." else ""
        assert once(server) == MailReply(int(code), text, stage, enhanced)


@pytest.mark.parametrize(
    ("stage", "answer"),
    [
        ("connect", "554 5.7.1 go away"),
        ("connect", "421 too many connections"),
        ("hello", "550 5.7.1 who are you"),
        ("starttls", "454 4.7.0 no certificate"),
        ("auth", "535 5.7.8 wrong password"),
        ("auth", "454 4.7.0 try later"),
    ],
)
def test_the_decisive_answer_before_a_mail(trust: Callable[[MailServer], None], stage: str, answer: str) -> None:
    with MailServer(starttls=True, user="me", password=PASSWORD) as server:
        trust(server)
        server.answer(stage, answer, answer)
        code, _, text = answer.partition(" ")
        reply = once(server)
        assert isinstance(reply, MailReply)
        assert (reply.code, reply.text, reply.stage) == (int(code), text, stage)
        assert server.verbs().count("AUTH PLAIN") + server.verbs().count("AUTH LOGIN") == (stage == "auth")


def test_a_wrong_password_is_the_account_s_fault(trust: Callable[[MailServer], None]) -> None:
    with MailServer(tls=True, user="me", password=PASSWORD) as server:
        trust(server)
        server.password = "another"
        url = server.url()
        server.password = "changed meanwhile"

        async def run() -> MailReply | NoReply:
            return await MailWire(options(url)).send(MAIL)

        assert asyncio.run(run()) == MailReply(535, "5.7.8 Authentication credentials invalid", "auth", "5.7.8")


def test_a_connection_whose_login_failed_is_not_kept(trust: Callable[[MailServer], None]) -> None:
    async def work(wire: MailWire) -> MailReply | NoReply:
        first = await wire.send(MAIL)
        assert isinstance(first, MailReply)
        assert first.stage == "auth"
        await server.wait_closed()
        return await wire.send(MAIL)

    with MailServer(tls=True, user="me", password=PASSWORD) as server:
        trust(server)
        server.answer("auth", "454 4.7.0 try later")
        reply = using(server, work)
        assert isinstance(reply, MailReply)
        assert reply.code == 250
        assert (server.mails[0].connection, server.mails[0].user) == (2, "me")


def test_a_method_that_is_offered_but_unknown_is_passed_over(trust: Callable[[MailServer], None]) -> None:
    with MailServer(tls=True, user="me", password=PASSWORD) as server:
        trust(server)
        server.answer("auth", "504 5.5.4 unknown")
        reply = once(server)
        assert isinstance(reply, MailReply)
        assert reply.code == 250
        assert [verb for verb in server.verbs() if verb.startswith("AUTH")] == ["AUTH PLAIN", "AUTH LOGIN"]


def test_a_server_without_login_is_said() -> None:
    with MailServer(user="me", password=PASSWORD, methods=()) as server:
        reply = once(server, query="?tls=optional")
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.MAIL_ACCOUNT, False)


def test_answers_of_several_lines_and_old_codes() -> None:
    with MailServer() as server:
        server.answer("rcpt", "553-sorry, no mailbox\n553 here by that name. (#5.1.1)", "550 12.3.4 no code")
        reply = once(server)
        assert reply == MailReply(553, "sorry, no mailbox here by that name. (#5.1.1)", "rcpt", "5.1.1")
        reply = once(server)
        assert isinstance(reply, MailReply)
        assert reply.enhanced == ""


def test_nonsense_is_a_bad_answer() -> None:
    with MailServer() as server:
        server.answer("rcpt", "what?")
        server.answer("final", "HTTP/1.1 200 OK")
        reply = once(server)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.BAD_ANSWER, False)
        reply = once(server)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.BAD_ANSWER, True)


def test_a_mail_over_the_server_s_size_is_not_sent() -> None:
    with MailServer(size=1000) as server:
        reply = once(server, Mail(MAIL.sender, MAIL.recipient, b"x" * 1001))
        assert isinstance(reply, MailReply)
        assert (reply.code, reply.enhanced, reply.stage) == (552, "5.3.4", "mail")
        assert "MAIL" not in server.verbs()


def test_addresses_outside_ascii_need_smtputf8() -> None:
    mail = Mail(MAIL.sender, "받는이@xn--9t4b11yi5a.xn--3e0b707e", "To: 받는이\r\n\r\nhi\r\n".encode())
    with MailServer() as server:
        reply = once(server, mail)
        assert isinstance(reply, MailReply)
        assert (reply.code, reply.stage, reply.enhanced) == (553, "rcpt", "5.6.7")
        assert "MAIL" not in server.verbs()
    with MailServer(smtputf8=True) as server:
        reply = once(server, mail)
        assert isinstance(reply, MailReply)
        assert reply.code == 250
        assert server.mails[0].recipients == [mail.recipient]
        assert {"SMTPUTF8", "BODY=8BITMIME"} <= set(server.mails[0].mail_options)


@pytest.mark.parametrize("address", ["a@b> SIZE=1", "a@b\r\nDATA", "a b@c", "nobody", "a@\udcff"])
def test_an_address_cannot_smuggle_commands_in(address: str) -> None:
    with MailServer(smtputf8=True) as server:
        for mail, stage in ((Mail("me@here.example", address, b"x"), "rcpt"), (Mail(address, "me@here.example", b"x"), "mail")):
            reply = once(server, mail)
            assert isinstance(reply, MailReply)
            assert (reply.code, reply.stage) == (553, stage)
        assert not {"MAIL", "RCPT", "DATA"} & set(server.verbs())


# ------------------------------------------------------------------------------------------------------------- no answer


@pytest.mark.parametrize("stage", ["connect", "hello", "mail", "rcpt", "data", "final"])
@pytest.mark.parametrize(("how", "reason"), [(DROP, Reason.CUT), (HANG, Reason.TIMEOUT)])
def test_only_what_follows_the_final_dot_may_have_arrived(stage: str, how: str, reason: Reason) -> None:
    with MailServer() as server:
        server.answer(stage, how)
        reply = once(server, timeouts=QUICK)
        assert isinstance(reply, NoReply)
        assert reply.sent == (stage == "final")
        assert reply.reason == (Reason.CONNECT if (stage, how) == ("connect", DROP) else reason)
        assert len(server.mails) == (stage == "final")


@pytest.mark.parametrize("kind", ["", "tls"])
def test_a_server_that_stops_reading_did_not_get_the_dot(trust: Callable[[MailServer], None], kind: str) -> None:
    with MailServer(tls=bool(kind)) as server:
        if kind:
            trust(server)
        server.answer("body", HANG)
        reply = once(server, Mail(MAIL.sender, MAIL.recipient, b"0123456789\r\n" * 2_000_000), timeouts=QUICK)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.TIMEOUT, False)


def test_a_connection_that_breaks_within_the_content_did_not_get_the_dot() -> None:
    async def work(wire: MailWire) -> MailReply | NoReply:
        sending = asyncio.create_task(wire.send(Mail(MAIL.sender, MAIL.recipient, b"0123456789\r\n" * 2_000_000)))
        await server.wait_verb("DATA")
        await asyncio.to_thread(server.close_connections)
        return await sending

    with MailServer() as server:
        server.answer("body", HANG)
        reply = using(server, work)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.CUT, False)


def test_a_server_that_leaves_right_after_its_hello() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hi\r\n")
        await reader.readline()
        writer.write(b"250 hello\r\n")
        writer.close()

    async def run() -> list[MailReply | NoReply]:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            wire = MailWire(options(f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
            return [await wire.send(MAIL) for _ in range(20)]

    for reply in asyncio.run(run()):
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (Reason.CUT, False)


def test_nobody_listens() -> None:
    with MailServer() as server:
        settings_then = options(server.url())

    async def run(given: settings.Settings) -> MailReply | NoReply:
        return await MailWire(given).send(MAIL)

    reply = asyncio.run(run(settings_then))
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (Reason.CONNECT, False)
    reply = asyncio.run(run(options("smtp://no-such-host.invalid:25")))
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (Reason.DNS, False)


def test_without_a_server_nothing_is_tried() -> None:
    async def run(given: settings.Settings) -> MailReply | NoReply:
        wire = MailWire(given)
        reply = await wire.send(MAIL)
        await wire.close()
        return reply

    reply = asyncio.run(run(options(None)))
    assert isinstance(reply, NoReply)
    assert (reply.reason, reply.sent) == (Reason.MAIL_NOT_CONFIGURED, False)
    with MailServer() as server:
        reply = asyncio.run(run(options(server.url(), TOCSIN_EMAIL_FROM="nobody")))
        assert isinstance(reply, NoReply)
        assert reply.reason == Reason.MAIL_NOT_CONFIGURED
        assert "TOCSIN_EMAIL_FROM" in reply.detail
        assert server.connections == 0


# ----------------------------------------------------------------------------------------------------- kept connections


def test_one_connection_serves_many_mails_until_its_hundredth() -> None:
    async def work(wire: MailWire) -> None:
        for _ in range(5):
            await wire.send(MAIL)

    with MailServer() as server:
        using(server, work, mails_per_connection=3)
        assert [mail.connection for mail in server.mails] == [1, 1, 1, 2, 2]
        assert server.verbs(1) == ["EHLO", *["MAIL", "RCPT", "DATA"] * 3, "QUIT"]
        assert server.verbs(2)[-1] == "QUIT"


def test_at_most_eight_connections() -> None:
    async def work(wire: MailWire) -> None:
        await asyncio.gather(*(wire.send(MAIL) for _ in range(40)))

    with MailServer() as server:
        using(server, work)
        assert len(server.mails) == 40
        assert server.connections == 8


ONE_TOO_MANY = {
    "connect": "421 4.7.0 too many connections",
    "hello": "421 4.3.2 too many sessions for this client",
    "mail": "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded",
}


@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.parametrize("stage", ONE_TOO_MANY)
def test_a_server_that_takes_few_connections_gets_no_more_and_every_mail_on_its_first_try(stage: str, most: int) -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        first = await asyncio.gather(*(wire.send(MAIL) for _ in range(10)))
        before = server.connections
        more = await asyncio.gather(*(wire.send(MAIL) for _ in range(10)))
        assert server.connections == before  # what was learned holds
        return [*first, *more]

    with MailServer(most_connections=(most, stage, ONE_TOO_MANY[stage])) as server:
        replies = using(server, work)
        assert {reply.code for reply in replies if isinstance(reply, MailReply)} == {250}
        assert len(server.mails) == len(replies) == 20
        assert server.connections <= 8


def test_a_connection_that_was_one_too_many_is_not_used_again() -> None:
    """Though it is the last one that was used and is still open: the mail goes over the one that the server takes."""

    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        return await asyncio.gather(*(wire.send(MAIL) for _ in range(2)))

    with MailServer(most_connections=(1, "mail", ONE_TOO_MANY["mail"]), refuses_slowly=True) as server:
        assert [reply.code for reply in using(server, work) if isinstance(reply, MailReply)] == [250, 250]
        assert (len(server.mails), server.connections) == (2, 2)


def test_a_test_send_waits_for_the_only_connection_in_its_user_s_turn() -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        deliveries = [asyncio.create_task(wire.send(MAIL)) for _ in range(5)]
        await server.wait_verb("MAIL")
        return await asyncio.gather(wire.test(MAIL, 7), *deliveries)

    with MailServer(most_connections=(1, "connect", ONE_TOO_MANY["connect"])) as server:
        assert {reply.code for reply in using(server, work) if isinstance(reply, MailReply)} == {250}
        assert len(server.mails) == 6


def test_a_server_that_refuses_the_only_connection_is_not_asked_again_at_once() -> None:
    with MailServer(most_connections=(0, "connect", ONE_TOO_MANY["connect"])) as server:
        reply = once(server)
        assert isinstance(reply, MailReply)
        assert (reply.code, server.connections) == (421, 1)


def test_a_mail_waits_for_a_connection_until_one_is_free() -> None:
    async def work(wire: MailWire) -> MailReply | NoReply:
        slow = asyncio.ensure_future(wire.send(MAIL))
        await server.wait_verb("DATA")
        next_one = asyncio.ensure_future(wire.send(MAIL))
        await asyncio.sleep(0)
        assert server.connections == 1
        slow.cancel()
        return await next_one

    with MailServer() as server:
        server.answer("data", HANG)
        assert using(server, work, connections=1).code == 250
    assert server.connections == 2


def test_a_test_waits_for_no_delivery_and_no_other_user_s_test() -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        server.answer("rcpt", *[HANG] * (wire.connections + 1))
        slow = [asyncio.ensure_future(wire.send(MAIL)) for _ in range(2 * wire.connections)]
        while server.verbs().count("RCPT") < wire.connections:
            await asyncio.sleep(0.01)
        slow_test = asyncio.ensure_future(wire.test(MAIL, 1))
        while server.verbs().count("RCPT") <= wire.connections:
            await asyncio.sleep(0.01)
        behind_it = asyncio.ensure_future(wire.test(MAIL, 1))
        others = [await wire.test(MAIL, user) for user in (2, 3, 2)]
        assert not behind_it.done()
        slow_test.cancel()
        others.append(await behind_it)
        for one in slow:
            one.cancel()
        return others

    with MailServer() as server:
        assert [reply.code for reply in using(server, work)] == [250] * 4


class _Exempt:
    """Everybody is an administrator."""

    async def is_exempt(self, _: int) -> bool:
        return True


class _Agreed:
    """Everybody has agreed to be mailed."""

    async def is_missing(self, *_: object) -> bool:
        return False


def test_a_test_send_goes_over_the_connections_for_tests() -> None:
    async def work(wire: MailWire) -> str:
        given = options(server.url())
        directory, agreed = cast(Directory, None), cast(Consenting, _Agreed())  # a draft is in no directory
        trials = Trials(directory, Pacer(), Wires(HttpWire(given), wire), given, agreed, cast(Quotas, _Exempt()))
        server.answer("rcpt", HANG)
        slow = asyncio.ensure_future(wire.send(MAIL))
        await server.wait_verb("RCPT")
        trial = await trials.draft(1, HandlerDraft(type="email", name="Me", settings={"email": "me@example.com"}))
        slow.cancel()
        return trial.status

    with MailServer() as server:
        assert using(server, work, connections=1) == "delivered"


def test_a_cancelled_mail_says_whether_it_was_out() -> None:
    async def cancelled(wire: MailWire) -> type[BaseException]:
        with pytest.raises(asyncio.CancelledError) as caught:  # within the task: a task's own is always a plain one
            await wire.send(MAIL)
        return caught.type

    async def work(wire: MailWire) -> list[type[BaseException]]:
        out, waiting = (asyncio.ensure_future(cancelled(wire)) for _ in range(2))
        while not server.mails:
            await asyncio.sleep(0.01)
        out.cancel()
        waiting.cancel()
        return await asyncio.gather(out, waiting)

    with MailServer() as server:
        server.answer("final", HANG)
        assert using(server, work, connections=1) == [asyncio.CancelledError, NothingSent]


class Sending:
    """Who sends a mail over the wires, and what it is told."""

    def __init__(self) -> None:
        self.went_out = 0
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def goes_out(self) -> None:
        self.went_out += 1

    def replied(self, reply: Reply) -> None:
        self.reply.set_result(reply)


def test_a_stop_tells_of_each_mail_whether_it_was_out() -> None:
    async def work(wire: MailWire) -> list[tuple[int, Reply]]:
        wires = Wires(HttpWire(options(server.url())), wire)
        out, waiting, unbegun = Sending(), Sending(), Sending()
        for one in (out, waiting):
            wires.start(MAIL, one)
        while not server.mails:
            await asyncio.sleep(0.01)
        wires.start(MAIL, unbegun)
        wires.cut()
        return [(one.went_out, await one.reply) for one in (out, waiting, unbegun)]

    with MailServer() as server:
        server.answer("final", HANG)
        told = using(server, work, connections=1)
    assert [(went_out, reply.sent, reply.stopped, reply.reason) for went_out, reply in told if isinstance(reply, NoReply)] == [
        (1, True, True, Reason.CUT),
        (0, False, True, Reason.CUT),
        (0, False, True, Reason.CUT),
    ]


def test_rset_after_a_refusal() -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        return [await wire.send(MAIL) for _ in range(3)]

    with MailServer() as server:
        server.answer("rcpt", "550 5.1.1 no such user")
        first, second, _ = using(server, work)
        assert (first.code, second.code) == (550, 250)
        assert server.verbs(1) == ["EHLO", "MAIL", "RCPT", "RSET", "MAIL", "RCPT", "DATA", "MAIL", "RCPT", "DATA", "QUIT"]


def test_an_idle_connection_is_closed() -> None:
    async def work(wire: MailWire) -> None:
        await wire.send(MAIL)
        await server.wait_closed()

    with MailServer() as server:
        using(server, work, idle_seconds=0.05)
        assert server.verbs()[-1] == "QUIT"


@pytest.mark.parametrize("how", ["closed", DROP, "421 4.4.2 idle too long", "rset"])
def test_a_dead_idle_connection_is_replaced(how: str) -> None:
    async def work(wire: MailWire) -> MailReply | NoReply:
        await wire.send(MAIL)
        if how == "closed":
            await asyncio.to_thread(server.close_connections)
        elif how != "rset":
            server.answer("mail", how)
        return await wire.send(MAIL)

    with MailServer() as server:
        if how == "rset":
            server.answer("final", "450 4.2.0 later")
            server.answer("rset", "500 5.5.1 what?")
        reply = using(server, work)
        assert isinstance(reply, MailReply)
        assert reply.code == 250
        assert [mail.connection for mail in server.mails] == ([2] if how == "rset" else [1, 2])


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_a_kept_connection_that_is_cut_before_the_dot_is_tried_again_once(stage: str) -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        await wire.send(MAIL)
        server.answer(stage, DROP)
        again = await wire.send(MAIL)
        server.answer(stage, DROP, DROP)
        return [again, await wire.send(MAIL)]

    with MailServer() as server:
        fine, cut = using(server, work)
        assert isinstance(fine, MailReply)
        assert fine.code == 250
        assert isinstance(cut, NoReply)
        assert (cut.reason, cut.sent) == (Reason.CUT, False)
        assert server.connections == 3


@pytest.mark.parametrize(("stage", "how", "reason"), [("final", DROP, Reason.CUT), ("rcpt", HANG, Reason.TIMEOUT)])
def test_a_mail_that_may_be_out_or_was_long_waited_for_is_not_tried_again(stage: str, how: str, reason: Reason) -> None:
    async def work(wire: MailWire) -> MailReply | NoReply:
        await wire.send(MAIL)
        server.answer(stage, how)
        return await wire.send(MAIL)

    with MailServer() as server:
        reply = using(server, work, timeouts=QUICK)
        assert isinstance(reply, NoReply)
        assert (reply.reason, reply.sent) == (reason, stage == "final")
        assert server.connections == 1


@pytest.mark.parametrize("answer", ["452 4.5.3 too many messages in this session", "421 4.7.0 too much", "451 busy"])
@pytest.mark.parametrize("stage", ["mail", "rcpt", "data", "final"])
def test_a_session_that_takes_no_more_is_followed_by_a_fresh_one(stage: str, answer: str) -> None:
    """One mail finds out, and from then on a connection is left in time."""

    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        return [await wire.send(MAIL) for _ in range(12)]

    with MailServer(session=(3, stage, answer)) as server:
        replies = using(server, work)
        assert [reply.code for reply in replies] == [250] * 12
        assert server.refused == 1
        assert [mail.connection for mail in server.mails] == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]


def test_many_at_once_find_out_at_most_once_for_each_connection() -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        return await asyncio.gather(*(wire.send(MAIL) for _ in range(60)))

    with MailServer(session=(2, "mail", "452 4.5.3 too many messages in this session")) as server:
        replies = using(server, work)
        assert {reply.code for reply in replies} == {250}
        assert 1 <= server.refused <= 8


def test_what_a_fresh_connection_meets_as_well_says_nothing_of_the_session() -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        first = await wire.send(MAIL)
        server.answer("rcpt", "451 4.7.1 greylisted", "451 4.7.1 greylisted")
        return [first, await wire.send(MAIL), *[await wire.send(MAIL) for _ in range(3)]]

    with MailServer() as server:
        replies = using(server, work)
        assert [reply.code for reply in replies] == [250, 451, 250, 250, 250]
        assert [mail.connection for mail in server.mails] == [1, 2, 2, 2]


@pytest.mark.parametrize("answer", ["452 4.2.2 mailbox full", "450 4.1.1 not yet known", "550 5.1.1 no such user"])
def test_what_is_said_of_a_mailbox_is_asked_once(answer: str) -> None:
    async def work(wire: MailWire) -> list[MailReply | NoReply]:
        first = await wire.send(MAIL)
        server.answer("rcpt", answer)
        return [first, await wire.send(MAIL), await wire.send(MAIL)]

    with MailServer() as server:
        replies = using(server, work)
        assert [reply.code for reply in replies] == [250, int(answer[:3]), 250]
        assert server.connections == 1


def test_what_was_learned_of_a_server_is_slowly_forgotten() -> None:
    reuse = Learned(100)
    assert reuse.count(5.0) == 100
    reuse.learn(3, 1000.0)
    assert [reuse.count(1000.0 + minutes * 60) for minutes in (0, 9.9, 10, 20, 50, 60, 100_000)] == [3, 3, 6, 12, 96, 100, 100]
    reuse.learn(5, 1601.0)
    assert reuse.count(1601.0) == 5
    reuse.learn(9, 1602.0)  # an older connection, that had carried more by then
    assert reuse.count(1602.0) == 5
    reuse.learn(0, 1603.0)
    assert reuse.count(1603.0) == 1


def test_a_fresh_connection_that_dies_is_not_tried_again() -> None:
    with MailServer() as server:
        server.answer("mail", DROP, DROP)
        assert isinstance(once(server), NoReply)
        assert server.connections == 1


def test_cancelling_ends_the_connection_and_frees_its_place() -> None:
    async def work(wire: MailWire) -> MailReply | NoReply:
        sending = asyncio.create_task(wire.send(MAIL))
        await server.wait_verb("DATA")
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await server.wait_closed()
        return await wire.send(MAIL)

    with MailServer() as server:
        server.answer("data", HANG)
        reply = using(server, work, connections=1)
        assert isinstance(reply, MailReply)
        assert reply.code == 250


def test_closing_during_a_mail_lets_it_end() -> None:
    async def work(wire: MailWire) -> MailReply | NoReply:
        sending = asyncio.create_task(wire.send(MAIL))
        await server.wait_verb("EHLO")
        await wire.close()
        reply = await sending
        await server.wait_closed()
        return reply

    with MailServer() as server:
        reply = using(server, work)
        assert isinstance(reply, MailReply)
        assert reply.code == 250


# --------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.parametrize("stage", ["connect", "auth", "mail", "rcpt", "final"])
def test_the_password_is_in_no_log_and_no_answer(trust: Callable[[MailServer], None], caplog: pytest.LogCaptureFixture, stage: str) -> None:
    caplog.set_level(logging.DEBUG)
    user = "me"
    forms = [PASSWORD, quote(PASSWORD, safe=""), base64.b64encode(PASSWORD.encode()).decode()]
    forms.append(base64.b64encode(f"\0{user}\0{PASSWORD}".encode()).decode())
    with MailServer(tls=True, user=user, password=PASSWORD, smtputf8=True) as server:
        trust(server)
        server.answer(stage, "535 5.7.8 refused: " + " ".join(forms))
        wire = MailWire(options(server.url()))
        replies = [once(server), once(server, timeouts=QUICK)]
        assert len(server.mails) >= 1
    seen = [repr(replies), repr(wire), repr(wire._server), repr(options(server.url())), str(replies)]
    seen += [record.getMessage() for record in caplog.records if not record.name.startswith("mail.log")]
    for form in forms:
        assert not any(form in text for text in seen)
    assert "535" in repr(replies)


def test_complaints() -> None:
    [no_server] = complaints(options(None))
    assert "TOCSIN_SMTP_URL" in no_server
    assert complaints(options("smtp://me:secret@mail.example.com")) == []
    [no_sender] = complaints(settings.load({"TOCSIN_SMTP_URL": "smtp://localhost"}, Path("/nonexistent")))
    assert "TOCSIN_EMAIL_FROM" in no_sender
    [bad_sender] = complaints(options("smtp://me:secret@mail.example.com", TOCSIN_EMAIL_FROM="not an address"))
    assert "TOCSIN_EMAIL_FROM" in bad_sender
    [no_password] = complaints(options("smtp://me@mail.example.com"))
    assert "password" in no_password
    assert not any("secret" in text for text in (no_server, no_sender, bad_sender, no_password))


@pytest.mark.parametrize(
    ("given", "mailbox", "name"),
    [
        ("alarm@example.com", "alarm@example.com", ""),
        ("tocsin <alarm@example.com>", "alarm@example.com", "tocsin"),
        ('"Ops, night" <ops@nas>', "ops@nas", "Ops, night"),
        ("root@localhost", "root@localhost", ""),
        ("알림 서비스 <alarm@example.com>", "alarm@example.com", "알림 서비스"),
        (r' "say \"hi\"" <ops@nas> ', "ops@nas", 'say "hi"'),
        ("<ops@nas>", "ops@nas", ""),
    ],
)
def test_senders(given: str, mailbox: str, name: str) -> None:
    sender = mail_module.sender(options(None, TOCSIN_EMAIL_FROM=given))
    assert (sender.mailbox, sender.name) == (mailbox, name)
