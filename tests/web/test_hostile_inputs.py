"""Hostile texts everywhere somebody can type or send something: no page has an element, attribute or address that is not ours.

What is ours is what the same pages have of harmless texts: each pair of an element and an attribute, and where addresses lead.
"""

import random
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

from api.support import Client, serving
from receiver import Receiver
from tocsin.clock import now
from tocsin.store import people
from tocsin.store.sql import write_now
from tocsin.vault import hash_password
from web.conftest import Answer, Surfer
from web.hostile_texts import texts

SEED = 20_261_130
HARMLESS = ("two words", "1", "https://example.com/a?b=c", "2026-11-30T10:00", "webhook")
ADDRESSES = ("href", "src", "action", "formaction", "data", "poster", "xlink:href", "data-live", "hx-get", "hx-post", "hx-put", "hx-delete")
OURS = re.compile(r"/(?![/\\])[^\x00-\x20]*|[?#][^\x00-\x20]*")
EMAIL, PASSWORD = "operator@example.com", "correct horse battery"
READ = {
    "/": ("search", "state", "type", "order_by", "page"),
    "/log": ("search", "status", "reason", "severity", "handler", "from", "to", "before"),
    "/log/replay": ("search", "status", "handler", "from"),
    "/audit": ("act", "via", "user", "address", "from", "to", "before"),
    "/account/audit": ("act", "address", "from"),
    "/send": ("title", "message", "handlers"),
    "/sign-in": ("to", "done", "lang"),
    "/users": ("done", "lang"),
    "/keys": ("done",),
    "/account": ("done", "lang"),
    "/docs": ("lang", "q"),
    "/confirm": ("to",),
}
PATHS = (
    "/handlers/add/{}",
    "/docs/channels/{}",
    "/sign-in/{}",
    "/log/export.{}",
    "/handlers/{}",
    "/nowhere/{}",
    "/confirm/{}",
    "/unsubscribe/{}",
)
TYPED = {
    "/sign-in": ("email", "password"),
    "/handlers/add/webhook": ("name", "webhook", "webhook_headers"),
    "/handlers/add/email": ("name", "email"),
    "/handlers/add/telegram": ("name", "telegram", "telegram_chat_id"),
    "/send": ("title", "message", "url", "fields", "send_at", "expires_at", "severity"),
    "/send/preview": ("title", "message", "url"),
    "/keys": ("name", "scopes", "expires"),
    "/users": ("email",),
    "/account/time-zone": ("time_zone",),
    "/account/password": ("old", "new"),
    "/account/second-factor": ("code", "sealed"),
}


class Markup(HTMLParser):
    """Each element of a page with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    @property
    def pairs(self) -> set[tuple[str, str]]:
        return {(tag, name) for tag, attributes in self.elements for name in (*attributes, "")}

    def leads(self) -> Iterator[tuple[str, str, str]]:
        for tag, attributes in self.elements:
            yield from ((tag, name, attributes[name]) for name in ADDRESSES if name in attributes)


class Attack:
    """A service, and ways to send one text to all its places. `pages`: the answers of one text."""

    def __init__(self, server: Any, receiver: Receiver) -> None:
        self.receiver = receiver
        write_now(server.engine, self._add_operator)
        self.surfer = Surfer(server.base)
        assert self.surfer.sign_in(EMAIL, PASSWORD).path == "/"
        self.csrf = self.surfer.token()
        self.stranger = Surfer(server.base)
        user = write_now(server.engine, lambda c: people.user_id(c, EMAIL))
        self.client: Client = server.client(user=user)
        url = receiver.url("/hook")
        self.handler: int = self.client.post("/api/notification-handlers", {"name": "hook", "type": "webhook", "webhook": url}).data["id"]
        self.allowed: set[tuple[str, str]] = set()

    @staticmethod
    def _add_operator(connection: Any) -> None:
        user = people.add_user(connection, EMAIL, True, now())
        assert user is not None
        people.set_password(connection, user, hash_password(PASSWORD))

    def pages(self, text: str, chance: random.Random) -> Iterator[tuple[str, Answer]]:
        """Some of its places, as chance has it."""
        yield self._read(text, chance.choice([*READ]), chance)
        yield self._typed(text, chance.choice([*TYPED]), chance)
        yield from self._stored(text, lambda paths: chance.sample(paths, 2))
        kind = chance.randrange(4)
        yield self._headers(text) if kind == 0 else self._answered(text) if kind == 1 else self._path(text, chance.choice(PATHS))

    def every_page(self, text: str, chance: random.Random) -> Iterator[tuple[str, Answer]]:
        for path in READ:
            yield self._read(text, path, chance)
        for path in PATHS:
            yield self._path(text, path)
        for path in TYPED:
            yield self._typed(text, path, chance)
        yield from self._stored(text, lambda paths: paths)
        yield self._headers(text)
        yield self._answered(text)

    def _read(self, text: str, path: str, chance: random.Random) -> tuple[str, Answer]:
        query = urllib.parse.urlencode(dict.fromkeys(READ[path], text))
        surfer = chance.choice((self.surfer, self.stranger)) if path in {"/sign-in", "/docs"} else self.surfer
        headers = {"HX-Request": "true"} if path in {"/", "/log"} and chance.random() < 0.3 else {}
        return f"GET {path}", surfer.get(f"{path}?{query}", **headers)

    def _path(self, text: str, path: str) -> tuple[str, Answer]:
        return f"GET {path}", self.surfer.get(path.format(urllib.parse.quote(text, safe="")))

    def _headers(self, text: str) -> tuple[str, Answer]:
        """What browsers and proxies say of themselves is shown on the account page."""
        value = re.sub(r"[\x00-\x1f\x7f]|[^\x00-\xff]", " ", text)
        other = Surfer(self.surfer.base)
        told = {"User-Agent": value, "Accept-Language": value, "Referer": value, "X-Forwarded-For": value, "X-Forwarded-Host": value}
        csrf = other.token("/sign-in")
        other.post("/sign-in", csrf=csrf, headers=told, email=EMAIL, password=PASSWORD)
        page = self.surfer.get("/account", accept_language=value, cookie_note=value)
        return "GET /account", page

    def _typed(self, text: str, path: str, chance: random.Random) -> tuple[str, Answer]:
        if path == "/sign-in":
            surfer = Surfer(self.surfer.base)
            return "POST /sign-in", surfer.post(path, email=text, password="x")
        form = {name: text if chance.random() < 0.8 else "1" for name in TYPED[path]}
        return f"POST {path}", self.surfer.post(path, csrf=self.csrf, **form)

    def _stored(self, text: str, chosen: Callable[[list[str]], list[str]]) -> Iterator[tuple[str, Answer]]:
        """As names, messages and fields of everything that is shown."""
        shown = text.replace("\x00", "") or "x"
        made = self.client.post(
            "/api/notification-handlers", {"name": shown.strip()[:200] or "x", "type": "email", "email": "a@b.example", "is_enabled": False}
        )
        handler = made.data["id"] if made.status == 201 else self.handler
        message = {"message": shown, "title": shown[:200], "fields": {shown[:100]: shown}, "handlers": [handler]}
        sent = self.client.post("/api/notifications", message)
        paths = [
            f"/handlers/{handler}",
            f"/handlers/{handler}/edit",
            f"/handlers/{handler}/delete",
            "/",
            "/log",
            "/audit",
            "/account/audit",
        ]
        if sent.status == 202:
            notification = sent.data["id"]
            [delivery] = self.client.get(f"/api/deliveries?notification_id={notification}").data
            paths += [f"/notifications/{notification}", f"/deliveries/{delivery['id']}"]
        for path in chosen(paths):
            yield f"GET {path}", self.surfer.get(path)
        if handler != self.handler:
            self.client.delete(f"/api/notification-handlers/{handler}")

    def _answered(self, text: str) -> tuple[str, Answer]:
        """What a receiver says of a test."""
        self.receiver.answer("/hook", 400, headers={"Content-Type": "text/html"}, body=text.encode("utf-8", "replace"))
        return "POST test", self.surfer.post(f"/handlers/{self.handler}/test", csrf=self.csrf)

    def learn(self) -> None:
        """What is ours."""
        chance = random.Random(1)
        for text in HARMLESS:
            for _, answer in self.every_page(text, chance):
                self.allowed |= Markup(answer.text).pairs

    def objections(self, text: str, chance: random.Random) -> list[str]:
        found: list[str] = []
        for place, answer in self.pages(text, chance):
            if answer.status >= 500 and answer.status != 503:
                found.append(f"{place}: {answer.status}")
            if not answer.headers.get("content-type", "").startswith("text/html"):
                continue
            page = Markup(answer.text)
            found += [f"{place}: foreign {pair}" for pair in page.pairs - self.allowed]
            found += [f"{place}: {tag} {name}={value!r}" for tag, name, value in page.leads() if not _is_ours(tag, value)]
            found += [
                f"{place}: script {attributes}" for tag, attributes in page.elements if tag == "script" and not _is_script(attributes)
            ]
            found += [f"{place}: header {name}" for name in ("location", "set-cookie") if "evil" in str(answer.headers.get_all(name))]
        return found


def _is_ours(tag: str, value: str) -> bool:
    """A link may lead to an address that a user gave on purpose, if it is one of the web; nothing else leads away from here."""
    if OURS.fullmatch(value):
        return True
    return tag == "a" and re.fullmatch(r"https?://[^\x00-\x20\"'<>]+", value) is not None


def _is_script(attributes: Mapping[str, str]) -> bool:
    return re.fullmatch(r"/static/[\w.]+\?\w+", attributes.get("src", "")) is not None


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    with Receiver() as receiver, serving(tmp_path_factory.mktemp("attacked"), pages=True) as server:
        found = Attack(server, receiver)
        found.learn()
        yield found


@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=(pytest.mark.long, pytest.mark.timeout(600)))])
def test_no_page_has_an_element_an_attribute_or_an_address_that_is_not_ours(attack: Attack, count: int) -> None:
    assert len(attack.allowed) > 100
    chance = random.Random(SEED)
    assert [(text, found) for text in texts(SEED, count) if (found := attack.objections(text, chance))] == []


@pytest.mark.parametrize(
    "page",
    [
        "<p><x-foreign>",
        "<p onclick=x>",
        "<img src=x>",
        "<a href=javascript:x>",
        "<a href='//evil.example'>",
        "<form action=https://evil.example>",
        "<script>x</script>",
    ],
)
def test_what_is_foreign_is_found(attack: Attack, page: str) -> None:
    """The oracle itself."""
    found = Markup(page)
    assert (
        found.pairs - attack.allowed
        or [one for one in found.leads() if not _is_ours(one[0], one[2])]
        or [attributes for tag, attributes in found.elements if tag == "script" and not _is_script(attributes)]
    )
