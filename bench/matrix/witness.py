"""Receivers that remember what reached them and what they said: webhooks and mail as in the soak, and providers with a pace."""

import asyncio
import json
import random
import re
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, cast

from bench.matrix.evidence import Arrival, Verdict
from bench.misbehaving import TAKES, Deed, Receivers, Writer, answer, drain, endless_head, hangs, hangs_up, resets, takes
from tocsin.cli.demo.providers import CHATS, Answer, Provider, Taken, x

MARK = re.compile(r"zq\d+m\d+z")
_LOST = {hangs, hangs_up, resets}
X_KEYS = {"x_consumer_key": "k", "x_consumer_secret": "consumer", "x_access_token_secret": "secret"}
BOT = "123456789"
_GOES_WRONG = 0.25  # of what is sent to a provider


def mark(token: str, paragraph: int) -> str:
    return f"{token}m{paragraph}z"


class Witness(Receivers):
    """`settings(key)` says how a handler of that key is registered; the key's letters say of what kind it is."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.arrivals: list[Arrival] = []
        self._providers: dict[str, Provider] = {one.type: one for one in reversed(CHATS)} | {"x": x("consumer", "secret")}

    def settings(self, key: str) -> dict[str, str]:
        kind, number = re.fullmatch(r"([a-z]+)(\d+)", key).groups()  # type: ignore[union-attr]
        match kind:
            case "slack":
                return {"type": "slack", "slack": f"{self.url}/slack/{key}"}
            case "discord":
                return {"type": "discord", "discord": f"{self.url}/api/webhooks/1{number}/{key}"}
            case "group" | "person":
                chat = f"-100{number}" if kind == "group" else f"7{number}"
                return {"type": "telegram", "telegram": f"{BOT}:{'t' * 35}", "telegram_chat_id": chat}
            case "x":
                return {"type": "x", **X_KEYS, "x_access_token": f"1{number}-{key}"}
            case "mail" | "slowmail":
                return {"type": "email", "email": f"{key}@example.com"}
            case _:
                return {"type": "webhook", "webhook": f"{self.url}/{key}"}

    async def act(self, path: str, headers: list[str], body: bytes, writer: Writer) -> None:
        named = {name.lower(): value for name, _, value in (line.partition(": ") for line in headers)}
        provider = self._provider_of(path)
        if provider is None:
            deed = self.deed(path)
            verdict: Verdict = "taken" if deed in TAKES else "maybe" if deed is endless_head else "lost" if deed in _LOST else "refused"
            data = json.loads(body)["data"]
            self._note(path[1:], verdict, data["message"], named["webhook-id"], int(data["delivery_id"]), int(data["id"]))
            await deed(writer)
            return
        key = _key_of(path, named, body)
        deed, said = self._provided(provider, path, named, body)
        self._note(key, _verdict(deed, said), json.dumps(json.loads(body), ensure_ascii=False))
        await (deed or _says(said))(writer)

    def mailed(self, content: bytes, verdict: str) -> None:
        mail = cast("EmailMessage", message_from_bytes(content, policy=policy.default))
        text = mail.get_body(("plain",))
        assert text is not None
        self._note(str(mail["To"]).partition("@")[0], cast("Verdict", verdict), text.get_content(), str(mail["Message-ID"]))

    def _note(self, key: str, verdict: Verdict, text: str, identity: str = "", delivery: int = 0, notification: int = 0) -> None:
        marks = tuple(sorted(set(MARK.findall(text))))
        self.arrivals.append(Arrival(time.monotonic(), key, marks, verdict, identity, delivery, notification))

    def _provider_of(self, path: str) -> Provider | None:
        for start, type_ in (("/slack", "slack"), ("/api/webhooks", "discord"), ("/bot", "telegram"), ("/2/tweets", "x")):
            if path.startswith(start):
                return self._providers[type_]
        return None

    def _provided(self, provider: Provider, path: str, headers: dict[str, str], body: bytes) -> tuple[Deed | None, Answer]:
        """What is done instead of answering, if anything, and what the provider said or would have said."""
        dice = self.dice(path)
        goes_wrong = not self.calm and dice.random() < _GOES_WRONG
        if goes_wrong and dice.random() < 0.6:  # before it looked at it
            return None, dice.choice((Answer(500, b"no"), Answer(502, b"<html>bad gateway</html>"), provider.throttled(dice.randint(1, 2))))
        said = provider.accept(Taken(self.url + path, headers, body))
        return (dice.choice((hangs_up, resets, _late)), said) if goes_wrong else (None, said)


async def _late(writer: Writer) -> None:
    """Taken, and nobody is told."""
    await asyncio.sleep(random.uniform(0.2, 1.0))
    await hangs_up(writer)


def _verdict(deed: Deed | None, said: Answer) -> Verdict:
    if said.status == 403:
        return "duplicate"
    if said.status >= 300:
        return "refused"
    return "taken" if deed is None else "lost"


def _says(said: Answer) -> Deed:
    async def say(writer: Writer) -> None:
        lines = [f"{name}: {value}" for name, value in said.headers]
        await drain(writer, answer(said.status, *lines, body=said.body))

    return say if said.status != 200 or said.body else takes


def _key_of(path: str, headers: dict[str, str], body: bytes) -> str:
    if path.startswith("/2/tweets"):
        return next(iter(re.findall(r'oauth_token="1\d+-(\w+)"', headers["authorization"])))
    if path.startswith("/bot"):
        chat: Any = json.loads(body)["chat_id"]
        return f"group{str(chat)[4:]}" if int(chat) < 0 else f"person{str(chat)[1:]}"
    return path.partition("?")[0].rpartition("/")[2]
