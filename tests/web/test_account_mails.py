"""What somebody does on the pages about how they sign in is mailed to them."""

import email
import email.policy
from email.message import EmailMessage

from e2e.conftest import start_service, store  # noqa: F401  # fixtures
from e2e.service import until
from mailserver import MailServer
from web.conftest import EMAIL, SIGN_IN, Surfer


def test_a_key_that_was_added_on_the_pages_is_mailed_to_its_owner(start_service) -> None:  # noqa: F811
    with MailServer() as mails:
        service = start_service(TOCSIN_SMTP_URL=mails.url(), TOCSIN_EMAIL_FROM="alarm@example.com", **SIGN_IN)
        surfer = Surfer(f"http://127.0.0.1:{service.port}")
        assert surfer.sign_in().path == "/"
        surfer.post("/keys", csrf=surfer.token(), name="laptop", scopes=["handlers:read"])
        [one] = until(lambda: mails.mails)
        mail = email.message_from_bytes(one.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage) and one.recipients == [EMAIL] and "List-Unsubscribe" not in mail
        text = mail.get_body(("plain",)).get_content()  # pyright: ignore[reportOptionalMemberAccess]
        assert "An API key was added: laptop" in text and "first key" not in text, "what was set up at the first start is no news"
        assert "From the address: 127.0.0.1" in text and "Through: the pages" in text
