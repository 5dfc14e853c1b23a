"""Who has agreed to be mailed. Addresses are not kept here, only their marks (`tocsin.vault.Vault.marks`)."""

from collections.abc import Callable, Mapping, Sequence
from enum import Enum, IntEnum, auto
from typing import Protocol

from msgspec import Struct

from tocsin.clock import DAY, Micros
from tocsin.ports.handlers import HandlerRow
from tocsin.ports.intake import Accept, Accepted

COUNTED_FOR: Micros = DAY
MAX_ASKED = 4  # links to one mailbox in that time, for one user: the first, and three when asked again
MAX_ASKED_BY_ALL = 12  # for all users


class Consent(IntEnum):
    """Whether a handler's address has agreed. GIVEN: by a link, or it was there before anybody was asked, or nothing is mailed. TRUSTED:
    nobody needs to be asked (the user's own address, a domain of TOCSIN_EMAIL_TRUSTED_DOMAINS). WITHDRAWN: somebody there has unsubscribed.
    """

    MISSING = 0
    GIVEN = 1
    TRUSTED = 2
    WITHDRAWN = 3


def is_unconfirmed(consent: int, owner_is_admin: bool) -> bool:
    """Whether nothing may be mailed. Administrators need not ask; but somebody who has unsubscribed must agree again."""
    return consent == Consent.WITHDRAWN or (consent == Consent.MISSING and not owner_is_admin)


class Owner(Struct, frozen=True):
    """A user as those they want to mail see them. `language`: of what is written to them; None: not known."""

    email: str
    is_admin: bool
    language: str | None = None


class Place(Struct, frozen=True):
    """An address by its marks, the one of the newest key first: `marks` of the address itself, `mailboxes` of the mailbox it leads to,
    which `me+tag@` shares with `me@`."""

    marks: tuple[bytes, ...]
    mailboxes: tuple[bytes, ...]


class Asking(Struct, frozen=True):
    """Somebody is to be asked. `handler_id`, `version`: for which handler, as it was read; 0: for one that is not registered. `is_first`:
    nothing is done where that was asked before. `link`: what mails it, to be kept in the same commit."""

    user_id: int
    place: Place
    at: Micros
    handler_id: int = 0
    version: int = 0
    is_first: bool = False
    link: Accept | None = None


class Asked(Enum):
    """What became of it. NEEDLESS: it was asked before, has agreed, or is another address now."""

    DONE = auto()
    NEEDLESS = auto()
    TOO_OFTEN = auto()


class Consents(Protocol):
    """Every method raises Busy while the store cannot answer."""

    async def owner(self, user_id: int) -> Owner | None:
        """None: there is no such user, or none any more."""
        ...

    async def is_given(self, user_id: int, place: Place) -> bool:
        """Whether that address has agreed to be mailed by this user."""
        ...

    async def ask(self, asking: Asking, committed: Callable[[list[Accepted]], None]) -> Asked:
        """Note that the address is being asked, unless that is needless or was done too often."""
        ...

    async def give(self, user_id: int, place: Place, asked_at: Micros, at: Micros, waiting: Mapping[int, int]) -> bool:
        """It agrees, and so those that were `waiting` (id and version) are confirmed. False: it has unsubscribed since it was asked."""
        ...

    async def withdraw(self, row: HandlerRow, place: Place, at: Micros, most: int) -> bool:
        """Somebody there has unsubscribed: the handler is paused, up to `most` of its waiting deliveries end, and its owner is to be told,
        all in one commit. False: it has changed since it was read."""
        ...

    async def mailed(self, types: Sequence[str], user_id: int | None, after: int, limit: int) -> list[HandlerRow]:
        """The next handlers of these types after that id, of a user or of all, deleted ones left out."""
        ...

    async def correct(self, found: Mapping[int, tuple[int, Consent]], places: Sequence[tuple[int, Place]], at: Micros) -> None:
        """What these handlers' consents are (by id, with the version), and which users' addresses count as having agreed."""
        ...
