"""Users are mailed at their own address when something about how they sign in changes, by a service and a mail server as they are."""

import email
import email.policy
from email.message import EmailMessage

from e2e.conftest import Starter
from e2e.service import Service, until
from e2e.stores import both_stores_long
from mailserver import MailServer

pytestmark = both_stores_long
PASSWORD = "correct horse battery"


def mails_to(server: MailServer, address: str) -> list[tuple[str, str]]:
    """Subject and text."""
    found = [email.message_from_bytes(one.content, policy=email.policy.default) for one in server.mails if address in one.recipients]
    return [(one["Subject"], text_of(one)) for one in found if isinstance(one, EmailMessage)]


def text_of(mail: EmailMessage) -> str:
    part = mail.get_body(("plain",))
    assert part is not None
    return part.get_content()


def add(service: Service, address: str, language: str = "en", zone: str = "UTC") -> None:
    """A user who has been there for two hours."""
    with service.admin() as admin:
        admin.add_user(address, is_admin=False)
    assert service.change("UPDATE users SET created_at = created_at - 7200000000 WHERE email = ?", address) == 1
    assert service.change("UPDATE users SET language = ?, time_zone = ? WHERE email = ?", language, zone, address) == 1


def first_look(service: Service) -> None:
    until(lambda: service.rows("SELECT value FROM meta WHERE name = 'telling'"), what="it has not begun to look")


def test_changes_made_by_the_command_line_are_mailed_in_the_users_language(start_service: Starter) -> None:
    with MailServer() as mails:
        service = start_service(TOCSIN_SMTP_URL=mails.url(), TOCSIN_EMAIL_FROM="alarm@example.com", TOCSIN_EMAIL_TRUSTED_DOMAINS="")
        first_look(service)
        add(service, "jun@example.com", "ko", "Asia/Seoul")
        add(service, "ann@example.com")
        until(lambda: len(mails.mails) == 2, what="the links that were made are not told")
        with service.admin() as admin:
            admin.add_user("new@example.com", is_admin=False)
            secret = admin.add_key("new@example.com", "first", ())
            admin.set_password("jun@example.com", PASSWORD)
            secret_of_ann = admin.add_key("ann@example.com", "backup script", ())
        until(lambda: len(mails_to(mails, "jun@example.com")) == 2 and len(mails_to(mails, "ann@example.com")) == 2)
        subject, korean = mails_to(mails, "jun@example.com")[1]
        assert subject == "로그인 관련 설정이 변경되었습니다"
        assert "새 비밀번호가 설정되었습니다." in korean and "UTC+09:00" in korean and "경로: 명령줄" in korean
        subject, english = mails_to(mails, "ann@example.com")[1]
        assert subject == "How you sign in has changed"
        assert "An API key was added: backup script" in english and "Through: the command line" in english
        whole = b"".join(one.content for one in mails.mails)
        for word in (secret, secret_of_ann, PASSWORD, "/sign-in/", "tk_"):
            assert word.encode() not in whole
        assert mails_to(mails, "new@example.com") == [], "their first key is no news to somebody who has never been there"


def test_a_service_that_was_killed_and_a_mail_server_that_was_away_lose_nothing(start_service: Starter) -> None:
    with MailServer() as mails:
        service = start_service(TOCSIN_SMTP_URL=mails.url(), TOCSIN_EMAIL_FROM="alarm@example.com")
        first_look(service)
        mails.answer("connect", "421 4.3.2 not now")
        add(service, "ann@example.com")
        until(lambda: '"telling.waits"' in service.log(), what="it does not say that it waits")
        service.kill()
        with service.admin() as admin:
            admin.set_password("ann@example.com", PASSWORD)
        service.start()
        [(_, text)] = until(lambda: mails_to(mails, "ann@example.com"))
        assert "A link was made" in text and "A new password was set." in text


def test_nothing_is_mailed_or_noted_where_there_is_no_mail_server(start_service: Starter) -> None:
    service = start_service()
    add(service, "ann@example.com")
    with service.admin() as admin:
        admin.set_password("ann@example.com", PASSWORD)
    assert service.terminate() == 0
    assert service.rows("SELECT name FROM meta WHERE name = 'telling'") == []
    with MailServer() as mails:
        service.environ |= {"TOCSIN_SMTP_URL": mails.url(), "TOCSIN_EMAIL_FROM": "alarm@example.com"}
        service.start()
        first_look(service)
        with service.admin() as admin:
            admin.add_key("ann@example.com", "later", ())
        [(_, text)] = until(lambda: mails_to(mails, "ann@example.com"))
        assert "later" in text and "password was set" not in text, "what was before there was a mail server is no news"
