"""Links in mails: what they are good for, for how long, and under which keys."""

import base64
from collections.abc import Callable

import pytest

from tocsin.clock import DAY, SECOND
from tocsin.flow.links import CONFIRM_LASTS, Links, Question, Subscription, stamp_of
from tocsin.model import Missing
from tocsin.net.addresses import compared, mailbox_of
from tocsin.settings import Settings
from tocsin.vault import Vault

NOW = 1_800_000_000 * SECOND
OLD, NEW = "the old key, quite long", "the new key, quite long"
QUESTION = Question(7, 12, "me@example.com", NOW)


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(TOCSIN_BASE_URL="https://alerts.example.com/tocsin")


def token_of(link: str, kind: str) -> str:
    begin = f"https://alerts.example.com/tocsin/{kind}/"
    assert link.startswith(begin)
    token = link.removeprefix(begin)
    assert all(one.isalnum() or one in "-_" for one in token)  # nothing that a mail program would escape or cut off
    return token


def test_they_hold_while_their_key_is_listed(settings: Settings) -> None:
    old, both, new = (Links(Vault(keys), settings) for keys in ([OLD], [NEW, OLD], [NEW]))
    confirm, leave = token_of(old.confirm(QUESTION), "confirm"), token_of(old.unsubscribe(12, "me@example.com"), "unsubscribe")
    for links in (old, both):
        assert links.question(confirm, NOW) == QUESTION
        assert links.subscription(leave) == Subscription(12, stamp_of("me@example.com"))
    assert (new.question(confirm, NOW), new.subscription(leave)) == (None, None)
    assert old.question(token_of(both.confirm(QUESTION), "confirm"), NOW) is None  # the first key signs
    assert old.unsubscribe(12, "me@example.com") == old.unsubscribe(12, "ME@Example.com")  # always the same


def test_one_is_not_good_for_the_other_and_a_link_to_confirm_grows_old(settings: Settings) -> None:
    vault = Vault([OLD])
    links = Links(vault, settings)
    confirm, leave = token_of(links.confirm(QUESTION), "confirm"), token_of(links.unsubscribe(12, "me@example.com"), "unsubscribe")
    assert (links.subscription(confirm), links.question(leave, NOW)) == (None, None)
    assert links.question(confirm, NOW + CONFIRM_LASTS - 1) == QUESTION
    assert links.question(confirm, NOW + CONFIRM_LASTS) is None
    settings_of_a_handler = vault.seal({"email": "me@example.com"}).decode().rstrip("=")
    assert links.question(settings_of_a_handler, NOW) is None
    assert vault.verify("confirm", leave) is None


def test_nothing_of_a_signature_may_differ() -> None:
    vault = Vault([OLD])
    signed = vault.sign("a purpose", b"content")
    assert vault.verify("a purpose", signed) == b"content"
    whole = base64.urlsafe_b64decode(signed + "==")
    for place in range(len(whole)):
        other = bytearray(whole)
        other[place] ^= 1
        assert vault.verify("a purpose", base64.urlsafe_b64encode(other).decode().rstrip("=")) is None
    for text in ("", "A", signed[:-1], signed + "=", signed + "A", f" {signed}", "ä" + signed, "x" * 5000):
        assert vault.verify("a purpose", text) is None


def test_without_a_base_url_there_are_none_and_without_https_no_click(make_settings: Callable[..., Settings]) -> None:
    nowhere, plain = (Links(Vault([OLD]), make_settings(**given)) for given in ({}, {"TOCSIN_BASE_URL": "http://nas:8700"}))
    assert (nowhere.can_be_made, nowhere.unsubscribe(1, "a@b")) == (False, "")
    with pytest.raises(Missing):
        nowhere.confirm(QUESTION)
    assert plain.confirm(QUESTION).startswith("http://nas:8700/confirm/")
    assert plain.unsubscribe(1, "a@b") == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("Me@Example.COM", "me@example.com"), ("me@bücher.example", "me@xn--bcher-kva.example"), ("ROOT@NAS", "root@nas")],
)
def test_addresses_that_mean_the_same(one: str, other: str) -> None:
    assert compared(one) == compared(other)
    assert stamp_of(one) == stamp_of(other)


def test_a_tag_makes_another_address_of_the_same_mailbox() -> None:
    assert compared("me+x@example.com") != compared("me@example.com")
    assert mailbox_of("Me+x+y@example.com") == "me@example.com" == mailbox_of("me@EXAMPLE.com")
    assert mailbox_of("+x@example.com") == "+x@example.com"


def test_a_question_is_as_old_as_it_says(settings: Settings) -> None:
    links = Links(Vault([OLD]), settings)
    token = token_of(links.confirm(QUESTION), "confirm")
    assert links.question(token, NOW - DAY) == QUESTION  # a clock that was put back
    assert "me@example.com" not in repr(QUESTION)
