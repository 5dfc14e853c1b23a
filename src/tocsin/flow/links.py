"""Links in mails, for readers who may not be users. No link is stored: it says itself what it is good for.

They hold as long as one of the keys that they were made with is in use, and lead to pages that change nothing before a button is pressed.
"""

from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from tocsin.clock import DAY, Micros
from tocsin.model import Message, Missing
from tocsin.net.addresses import compared
from tocsin.settings import Settings
from tocsin.vault import Vault, WrongKey, fingerprint

CONFIRM_LASTS: Micros = 30 * DAY
_CONFIRM, _UNSUBSCRIBE = "confirm", "unsubscribe"
_ID_BYTES = 8


class Question(Struct, frozen=True):
    """What a link to confirm asks: whether this user may mail this address. `handler_id`: for which handler; 0: for one that is not
    registered yet. `at`: when it was asked."""

    user_id: int
    handler_id: int
    address: str
    at: Micros

    def __repr__(self) -> str:
        return f"Question(user_id={self.user_id}, handler_id={self.handler_id})"


class Subscription(Struct, frozen=True):
    """What a link to unsubscribe ends: mail to the address with that stamp from this handler."""

    handler_id: int
    stamp: str

    def is_to(self, address: str) -> bool:
        return stamp_of(address) == self.stamp


class Links:
    def __init__(self, vault: Vault, service: Settings) -> None:
        self._vault = vault
        self._base = service.base_url
        # Mail programs click by themselves only where that is safe (RFC 8058, 3.1).
        self._has_one_click = service.base_url is not None and urlsplit(service.base_url).scheme == "https"

    @property
    def can_be_made(self) -> bool:
        """Whether it is known where this service is: there is no request that would tell."""
        return self._base is not None

    def confirm(self, question: Question) -> str:
        """Raises Missing where no link can be made."""
        if self._base is None:
            raise Missing
        asked = {"for": _CONFIRM, "user": question.user_id, "handler": question.handler_id, "address": question.address, "at": question.at}
        return f"{self._base}/confirm/{self._vault.seal(asked).decode().rstrip('=')}"

    def question(self, token: str, now: Micros) -> Question | None:
        """None: the token is not ours, or too old."""
        try:
            asked = self._vault.open((token + "=" * (-len(token) % 4)).encode())
        except (WrongKey, UnicodeEncodeError):
            return None
        match asked:
            case {"for": "confirm", "user": int(user), "handler": int(handler), "address": str(address), "at": int(at)}:
                return Question(user, handler, address, at) if now - at < CONFIRM_LASTS else None
            case _:
                return None

    def unsubscribe(self, handler_id: int, address: str) -> str:
        """Empty where mail programs could not click on it."""
        if not self._has_one_click:
            return ""
        content = handler_id.to_bytes(_ID_BYTES) + bytes.fromhex(stamp_of(address))
        return f"{self._base}/unsubscribe/{self._vault.sign(_UNSUBSCRIBE, content)}"

    def subscription(self, token: str) -> Subscription | None:
        """None: the token is not ours."""
        content = self._vault.verify(_UNSUBSCRIBE, token)
        return None if content is None else Subscription(int.from_bytes(content[:_ID_BYTES]), content[_ID_BYTES:].hex())


def with_link(message: Message, link: str) -> Message:
    """Only as it goes out: what is kept and shown of a message has no link."""
    return replace(message, url=link)


def stamp_of(address: str) -> str:
    return fingerprint(f"address {compared(address)}")
