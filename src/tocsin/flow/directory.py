"""Handlers in memory, opened and typed, as deliveries need them; dropped when anything about them changes."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, tzinfo
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from tocsin import caches
from tocsin.channels.contract import AnyChannel, HandlerSettings, Pace, fields_of, home_of, settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.flow.links import Links
from tocsin.model import Handler, SigningSecret
from tocsin.partitions import own_root, partition_of
from tocsin.ports.consents import is_unconfirmed
from tocsin.ports.engine import UNKNOWN, Terms
from tocsin.ports.handlers import HandlerBrief, HandlerRow, HandlerRows
from tocsin.settings import Settings
from tocsin.vault import Vault, WrongKey
from tocsin.zones import zone_of

MAX_IN_MEMORY = 50_000  # handlers
SEALED = "The stored settings cannot be opened with the service's key."
FORGET_AGAIN_SECONDS = 120.0  # longer than an attempt takes
MAX_SEALED = 1000  # in one query
MAX_CHANGED = 500  # handlers of a user of which only the briefs are read again; of more, all are


class Loaded(Struct, frozen=True):
    """A handler ready for use. `problem`: why it cannot be used, in one sentence; then `settings` is None. `counts_posts`: its provider
    counts posts or refuses repeated ones, so each is noted beforehand. `realm`: what a wide throttle pauses; empty if there is none.
    `is_sealed`: none of the service's keys opens its settings. `zone`: its user's. `partition`: None if that is not known.
    `address`: to which it mails, if it does; `is_unconfirmed`: nothing may be mailed there yet; `unsubscribe`: the link that ends it, or
    empty; `counts_mails`: its user has a quota of mails."""

    handler: Handler
    channel: AnyChannel
    settings: HandlerSettings | None
    paces: tuple[Pace, ...] = ()
    credential: str = ""
    secrets: tuple[str, ...] = ()
    problem: str | None = None
    counts_posts: bool = False
    realm: str = ""
    is_sealed: bool = False
    zone: tzinfo = UTC
    partition: int | None = None
    address: str = ""
    is_unconfirmed: bool = False
    unsubscribe: str = ""
    counts_mails: bool = False

    def __repr__(self) -> str:
        return f"Loaded({self.handler!r})"


class Pacing(Terms, frozen=True, kw_only=True):
    """How a handler's deliveries may start. `credential`: what a throttle pauses; `realm`: what a wide one pauses; `paces`: its windows."""

    credential: str
    paces: tuple[Pace, ...]
    realm: str = ""


def load(handler: Handler, service: Settings, zone: tzinfo = UTC) -> Loaded:
    """Type a handler's settings. The credential's key is that of the first pace; without one, the handler is its own."""
    channel, own = CHANNELS[handler.type], own_root(handler.id)
    try:
        typed = settings_of(channel, handler.settings)
    except msgspec.ValidationError:
        return Loaded(
            handler, channel, None, credential=own, problem="The stored settings do not fit this type.", partition=partition_of(own)
        )
    paces, home = channel.paces(typed, service), home_of(channel, typed, service)
    return Loaded(
        handler,
        channel,
        typed,
        paces,
        paces[0].key if paces else own,
        secrets_of(channel, handler),
        counts_posts=channel.refuses_repeats or channel.daily_budget(service) is not None,
        realm=f"{handler.type}@{channel.realm(typed)}#{handler.user_id}" if channel.realm else "",
        zone=zone,
        partition=partition_of(own) if home is None else home,
        address=channel.mailbox(typed) if channel.mailbox is not None else "",
    )


def secrets_of(channel: AnyChannel, handler: Handler) -> tuple[str, ...]:
    """All that must be scrubbed from whatever a provider answers."""
    found: list[str] = []
    for name, field in fields_of(channel.settings).items():
        if field.hide is not None and name in handler.settings:
            found.extend(field.hide(handler.settings[name]).secrets)
    if handler.secret is not None:
        found.extend(secret for secret in (handler.secret.current, handler.secret.previous) if secret)
    return tuple(dict.fromkeys(found))


def open_handler(row: HandlerRow, vault: Vault) -> Handler:
    """The row with its secrets in the clear. Raises WrongKey."""
    settings: dict[str, Any] = vault.open(row.settings) if row.settings else {}
    return _handler(row, settings, msgspec.convert(vault.open(row.secret), SigningSecret) if row.secret else None)


def sealed_handler(row: HandlerRow) -> Handler:
    """The row without what no key opens."""
    return _handler(row, {}, None, is_sealed=True)


def _handler(row: HandlerRow, settings: Mapping[str, str], secret: SigningSecret | None, is_sealed: bool = False) -> Handler:
    return Handler(
        id=row.id,
        user_id=row.user_id,
        type=row.type,
        name=row.name,
        settings=settings,
        is_enabled=row.is_enabled,
        created_at=row.created_at,
        last_delivered_at=row.last_delivered_at,
        disabled_reason=row.disabled_reason,
        version=row.version,
        secret=secret,
        is_sealed=is_sealed,
    )


class Directory:
    """A cache that never outlives a change: what was read while something changed is used once and not kept."""

    def __init__(self, handlers: HandlerRows, vault: Vault, service: Settings) -> None:
        self._handlers = handlers
        self._vault = vault
        self.service = service
        self.links = Links(vault, service)
        self._loaded: dict[int, Loaded] = {}
        self._briefs: dict[int, dict[int, HandlerBrief]] = {}
        self._changed: dict[int, set[int]] = {}  # of users with briefs in memory: handlers whose briefs are old
        self._pacing: dict[int, Pacing] = {}
        # Asked for every delivery, so they are the dictionaries' own methods. None says nothing of whether there is such a handler.
        self.cached: Callable[[int], Loaded | None] = self._loaded.get
        self.known_pacing: Callable[[int], Pacing | None] = self._pacing.get
        self.sealed: dict[int, int] = {}
        """Handlers that no key of the service opens, as far as they were looked at, and their users."""
        self._changes = 0
        self._forgets_again = False

    def pacing(self, handler_id: int) -> Pacing:
        """As last known, even while a change is being read again."""
        return self._pacing.get(handler_id) or Pacing(UNKNOWN.wire, UNKNOWN.in_flight, credential=own_root(handler_id), paces=())

    def sealed_of(self, user_id: int | None = None) -> list[int]:
        """The first of those that no key opens, of one user or of all: as many as a query can name."""
        return sorted(one for one, user in [*self.sealed.items()] if user_id in {None, user})[:MAX_SEALED]

    async def loaded(self, handler_id: int) -> Loaded | None:
        """None: deleted, or never there."""
        found = self._loaded.get(handler_id)
        if found is not None:
            return found
        changes = self._changes
        row = await self._handlers.get(handler_id)
        if row is None or row.deleted_at is not None:
            self._pacing.pop(handler_id, None)
            return None
        found = self.opened(row)
        if changes == self._changes:
            self._keep(found)
        else:
            self._pacing.setdefault(handler_id, _pacing_of(found))
        return found

    def _keep(self, found: Loaded) -> None:
        if len(self._loaded) >= MAX_IN_MEMORY:
            oldest = next(iter(self._loaded))
            del self._loaded[oldest]
            self._pacing.pop(oldest, None)
        self._loaded[found.handler.id] = found
        self._pacing[found.handler.id] = _pacing_of(found)

    def opened(self, row: HandlerRow) -> Loaded:
        """Without keeping it."""
        try:
            found = load(open_handler(row, self._vault), self.service, zone_of(row.time_zone))
            self.sealed.pop(row.id, None)
            if row.partition not in {None, found.partition}:
                found = replace(found, partition=row.partition)
            return self._to_somebody(found, row) if found.address else found
        except WrongKey:
            self.sealed[row.id] = row.user_id
            root, home, channel = own_root(row.id), row.partition, CHANNELS[row.type]
            return Loaded(sealed_handler(row), channel, None, credential=root, problem=SEALED, is_sealed=True, partition=home)

    def _to_somebody(self, found: Loaded, row: HandlerRow) -> Loaded:
        """A handler that mails. The link is as good as a password that ends it, so its token appears nowhere else."""
        link = self.links.unsubscribe(row.id, found.address)
        secrets = (*found.secrets, link.rpartition("/")[2]) if link else found.secrets
        unconfirmed = is_unconfirmed(row.consent, row.owner_is_admin)
        counts = not row.owner_is_admin
        return replace(found, is_unconfirmed=unconfirmed, unsubscribe=link, secrets=secrets, counts_mails=counts)

    async def briefs(self, user_id: int) -> dict[int, HandlerBrief]:
        """Every handler of a user that is not deleted, by id. After a change only what changed is read: they may be many."""
        found, changed = self._briefs.get(user_id), self._changed.get(user_id)
        if found is not None and not changed:
            return found
        changes = self._changes
        if found is None or not changed:
            found = {brief.id: brief for brief in await self._handlers.briefs(user_id)}
        else:
            rows = await self._handlers.rows(list(changed))
            found = {**found, **{row.id: HandlerBrief(row.id, row.is_enabled, row.disabled_reason, row.partition or 0) for row in rows}}
            for row in rows:
                if row.deleted_at is not None:
                    del found[row.id]
        if changes == self._changes:
            self._briefs[user_id] = found
            self._changed.pop(user_id, None)
        return found

    async def look_for(self, user_id: int, handler_ids: Collection[int]) -> bool:
        """Whether the user has one of these, which their briefs do not name: these are old then. Of too many, only some are looked for."""
        rows = await self._handlers.rows(sorted(handler_ids)[-MAX_CHANGED:])
        found = [row.id for row in rows if row.user_id == user_id and row.deleted_at is None]
        for handler_id in found:
            self.forget(user_id, handler_id)
        return bool(found)

    async def prepare(self, handler_ids: Iterable[int]) -> None:
        """Read those that are not in memory, all at once. Whatever changes meanwhile, afterwards a pace is known of each that is there:
        without one its next attempt would start at once."""
        missing = {handler_id for handler_id in handler_ids if handler_id not in self._loaded}
        if not missing:
            return
        changes = self._changes
        for row in await self._handlers.rows(list(missing)):
            if row.deleted_at is not None:
                continue
            if changes == self._changes:
                missing.discard(row.id)
                self._keep(self.opened(row))
            elif row.id not in self._pacing:
                self._pacing[row.id] = _pacing_of(self.opened(row))
        if changes == self._changes:
            for handler_id in missing:  # deleted ones
                self._pacing.pop(handler_id, None)

    def forget(self, user_id: int, handler_id: int) -> None:
        """The handler was added, changed or deleted."""
        self._changes += 1
        self._forget_secrets()
        self._loaded.pop(handler_id, None)
        if user_id in self._briefs:
            changed = self._changed.setdefault(user_id, set())
            changed.add(handler_id)
            if len(changed) > MAX_CHANGED:
                del self._briefs[user_id], self._changed[user_id]

    def forget_user(self, user_id: int) -> None:
        """Something that their handlers are loaded with is another now."""
        self._changes += 1
        for handler_id in [one for one, found in self._loaded.items() if found.handler.user_id == user_id]:
            del self._loaded[handler_id]

    def forget_deleted(self, user_id: int, handler_id: int) -> None:
        """As `forget`, and nothing is paced for it any more."""
        self.forget(user_id, handler_id)
        self.sealed.pop(handler_id, None)
        self._pacing.pop(handler_id, None)

    def _forget_secrets(self) -> None:
        """Now, and once more when attempts that were in flight have ended: they may have derived something again."""
        caches.forget_secrets()
        if not self._forgets_again:
            self._forgets_again = True
            self._later(FORGET_AGAIN_SECONDS, self._forget_secrets_again)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(seconds, call)

    def _forget_secrets_again(self) -> None:
        self._forgets_again = False
        caches.forget_secrets()

    def forget_all(self) -> None:
        """Another process wrote to the store: anything may have changed."""
        self._changes += 1
        self._forget_secrets()
        self._loaded.clear()
        self._briefs.clear()
        self._changed.clear()


def _pacing_of(found: Loaded) -> Pacing:
    return Pacing(
        found.channel.wire,
        found.channel.in_flight,
        found.partition,
        bool(found.paces),
        credential=found.credential,
        paces=found.paces,
        realm=found.realm,
    )
