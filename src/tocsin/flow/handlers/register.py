"""Registering, changing and removing handlers: the rules for their fields, and what follows from a change."""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from tocsin import clock
from tocsin.channels.contract import AnyChannel, Field, fields_of, home_of, settings_of
from tocsin.channels.registry import CHANNELS
from tocsin.clock import HOUR, SECOND, Micros
from tocsin.flow import pools
from tocsin.flow.delivery.health import ROWS_AT_ONCE, end_waiting
from tocsin.flow.directory import Directory, open_handler, sealed_handler
from tocsin.flow.handlers.consenting import Consenting, is_same
from tocsin.flow.handlers.states import HandlerState, state_of
from tocsin.flow.handlers.waits import FREE, Hold, Waits, next_start
from tocsin.flow.quotas import Quotas, too_many_handlers
from tocsin.model import MASK, Busy, Fault, Handler, Missing, Reason, SigningSecret, Status
from tocsin.net.guard import closed_port
from tocsin.net.routes import place_of
from tocsin.partitions import own_root, partition_of
from tocsin.ports.audit import Act, AuditLog
from tocsin.ports.consents import Consent
from tocsin.ports.engine import Engine
from tocsin.ports.handlers import HandlerChange, HandlerEvent, HandlerFilter, HandlerRow, HandlerRows
from tocsin.ports.queue import Queue
from tocsin.ports.standings import HandlerFacts, HandlerHour, Overview, Standing, Standings
from tocsin.readings import Ports
from tocsin.vault import Vault, WrongKey, new_signing_secret

MAX_NAME_CHARACTERS = 256
ROTATION: Micros = 86_400 * SECOND  # both secrets sign for so long
_NAME_TOO_LONG = "The name takes at most {most} characters."
_REQUIRED = "{title} is required for the type {type}."
_MASKED = "{title} contains a mask (••): send the whole value, or leave the field out to keep what is stored."
_REDIRECTED = (
    "{title} would go to another address: send new values with it, or an empty one. Only a key with every scope keeps what is stored."
)
_CLOSED_PORT = "Port {port} is closed to URLs. The operator can open it with TOCSIN_ALLOW_PORTS."
_MASK_SIGN = MASK[:2]
_MANY = 50  # rows: opening more of them takes longer than the event loop should be held


class HandlerDraft(Struct, frozen=True):
    """Checked values to be written. None leaves as it was; `settings` holds only what was given."""

    name: str | None = None
    type: str | None = None
    settings: dict[str, str] | None = None
    is_enabled: bool | None = None

    def __repr__(self) -> str:
        return f"HandlerDraft(type={self.type!r})"


# -------------------------------------------------------------------------------------------------- the rules for fields


def check(fields: Mapping[str, str], is_enabled: bool | None, current: Handler | None, ports: Ports) -> tuple[HandlerDraft, list[Fault]]:
    """Check name, type and settings as given; `current` None is a create. `ports`: those that URLs may name. Every fault at once."""
    faults: list[Fault] = []
    name = _name(fields, current, faults)
    channel = _channel(fields, current, faults)
    settings: dict[str, str] | None = None
    new_type = None
    if channel is not None:
        is_lost = current is not None and current.is_sealed and any(fields.get(name) for name in fields_of(channel.settings))
        fresh = current is None or current.type != channel.type or is_lost  # what cannot be opened is to be given as a whole
        new_type = channel.type if fresh else None
        settings = _settings(fields, channel, None if fresh else current, ports, faults)
    return HandlerDraft(name, new_type, settings or None, is_enabled), faults


def _name(fields: Mapping[str, str], current: Handler | None, faults: list[Fault]) -> str | None:
    if "name" not in fields and current is not None:
        return None
    name = fields.get("name", "").strip()
    if not name:
        faults.append(Fault("required", "Required field", "A name is required.", "name"))
    elif len(name) > MAX_NAME_CHARACTERS:
        faults.append(Fault("too_long", "Too long", _NAME_TOO_LONG, "name", values={"most": str(MAX_NAME_CHARACTERS)}))
    return name


def _channel(fields: Mapping[str, str], current: Handler | None, faults: list[Fault]) -> AnyChannel | None:
    if "type" not in fields and current is not None:
        return CHANNELS[current.type]
    given = fields.get("type", "")
    channel = CHANNELS.get(given)
    if not given:
        faults.append(Fault("required", "Required field", f"A type is required: one of {', '.join(CHANNELS)}.", "type"))
    elif channel is None:
        faults.append(Fault("invalid_choice", "Not an allowed value", f"The type must be one of {', '.join(CHANNELS)}.", "type"))
    return channel


def _settings(fields: Mapping[str, str], channel: AnyChannel, current: Handler | None, ports: Ports, faults: list[Fault]) -> dict[str, str]:
    """The usable settings among the fields. `current`: the handler whose settings stay where none is given."""
    own = fields_of(channel.settings)
    for name, value in fields.items():
        if name not in own and name not in {"name", "type"} and value:
            detail = f"The field {name} does not belong to the type {channel.type}."
            faults.append(Fault("wrong_type", "Field of another type", detail, name))
    settings: dict[str, str] = {}
    for name, field in own.items():
        if name not in fields and current is not None:
            continue
        stored = "" if current is None else current.settings.get(name, "")
        given = _tidy(field, fields.get(name, ""))
        value = _unmasked(field, given, stored)
        wrong = _wrong(name, field, value, channel)
        if wrong is None and field.is_address and value != stored:
            wrong = _closed(name, value, ports)
        if wrong is not None:
            faults.append(wrong)
        elif value == given != "" or value != stored:  # what only repeats its mask stays; an empty one clears what is stored
            settings[name] = value
    return settings


def _wrong(name: str, field: Field, value: str, channel: AnyChannel) -> Fault | None:
    if not value:
        values = {"title": field.title, "type": channel.type}
        return None if field.is_optional else Fault("required", "Required field", _REQUIRED, name, values=values)
    if _MASK_SIGN in value:
        return Fault("masked", "Masked value", _MASKED, name, values={"title": field.title})
    complaint = field.check(value)
    return None if complaint is None else Fault("invalid", "Not a usable value", complaint, name)


def _closed(name: str, url: str, ports: Ports) -> Fault | None:
    place = place_of(url)
    if place is None or closed_port(place.port, ports) is None:
        return None
    return Fault("invalid", "Not a usable value", _CLOSED_PORT, name, values={"port": str(place.port)})


def _tidy(field: Field, value: str) -> str:
    """Pasted values come with white space around them, and forms write line breaks as CRLF."""
    value = value.strip()
    return "\n".join(line.rstrip() for line in value.splitlines()) if field.is_multiline else value


def _unmasked(field: Field, value: str, stored: str) -> str:
    """The value with what is stored in the place of a mask; a mask without a stored value stays."""
    if _MASK_SIGN not in value or not stored or field.hide is None:
        return value
    if field.restore is not None:
        return field.restore(value, stored)
    return stored if field.hide(stored).shown == value else value


def redirected(fields: Mapping[str, str], draft: HandlerDraft, current: Handler) -> list[Fault]:
    """What a draft, made of `fields`, would send to another address of secrets that are only stored or masked.

    A key that may not read them could have them sent to a receiver of their own.
    """
    before, after = current.settings, {**current.settings, **(draft.settings or {})}
    own = fields_of(CHANNELS[current.type].settings)
    if draft.type not in (None, current.type) or all(after.get(name) == before.get(name) for name in own if own[name].is_address):
        return []
    return [
        Fault("masked", "Masked value", _REDIRECTED, name, values={"title": field.title})
        for name, field in own.items()
        if field.restore is not None and before.get(name) and _MASK_SIGN in fields.get(name, MASK)
    ]


def shown_settings(handler: Handler, clear: bool) -> dict[str, str]:
    """The settings in the channel's order, secret values masked unless `clear`."""
    shown: dict[str, str] = {}
    for name, field in fields_of(CHANNELS[handler.type].settings).items():
        if handler.is_sealed:
            shown |= {} if field.is_optional else {name: ""}
            continue
        value = handler.settings.get(name, "")
        if field.is_optional and not value:
            continue
        shown[name] = value if clear or field.hide is None else field.hide(value).shown
    return shown


def _address(channel: AnyChannel, settings: Mapping[str, str]) -> str:
    """To which is mailed with these settings; empty if nothing is."""
    return "" if channel.mailbox is None else channel.mailbox(settings_of(channel, settings))


# ---------------------------------------------------------------------------------------------------------- what is done


def _event(row: HandlerRow, draft: HandlerDraft) -> HandlerEvent | None:
    """What the handler's history says of a change by its owner."""
    now = clock.now()
    if draft.is_enabled is not None and draft.is_enabled != row.is_enabled:
        return HandlerEvent(now, "enabled" if draft.is_enabled else "paused")
    if draft.settings is not None or draft.type not in (None, row.type):
        return HandlerEvent(now, "changed")
    return None


def _changed_fields(row: HandlerRow, draft: HandlerDraft, before: Mapping[str, str]) -> tuple[str, ...]:
    """The names of what a draft changes."""
    own = (("name", draft.name, row.name), ("type", draft.type, row.type), ("is_enabled", draft.is_enabled, row.is_enabled))
    settings = (name for name, value in (draft.settings or {}).items() if value != before.get(name, ""))
    return (*(name for name, given, stored in own if given not in (None, stored)), *settings)


class Handlers:
    """A user's handlers: look, register, change, delete. One that is not this user's raises Missing; a store that cannot answer, Busy."""

    def __init__(
        self,
        rows: HandlerRows,
        standings: Standings,
        queue: Queue,
        directory: Directory,
        engine: Engine,
        vault: Vault,
        waits: Waits,
        consenting: Consenting,
        quotas: Quotas,
        audit: AuditLog,
    ) -> None:
        self._consenting = consenting
        self._quotas = quotas
        self._rows = rows
        self._standings = standings
        self._queue = queue
        self._directory = directory
        self._engine = engine
        self._vault = vault
        self._waits = waits
        self._audit = audit

    async def page(self, user_id: int, which: HandlerFilter, page: int, size: int) -> tuple[list[Handler], int]:
        """One page and how many there are in all. Raises Busy."""
        found = await self._rows.page(user_id, which, page, size, self._directory.sealed_of(user_id))
        if len(found.rows) > _MANY:
            return await pools.here().pages.run(user_id, self._opened, found.rows), found.total
        return self._opened(found.rows), found.total

    def _opened(self, rows: list[HandlerRow]) -> list[Handler]:
        return [self._seen(row) for row in rows]

    def _seen(self, row: HandlerRow) -> Handler:
        """One that no key opens is there as well: all else about it can be read, and its settings can be given again."""
        try:
            return open_handler(row, self._vault)
        except WrongKey:
            return sealed_handler(row)

    def _open(self, row: HandlerRow) -> Handler:
        """Raises Busy where no key of the service opens it: the right one may come back."""
        handler = self._seen(row)
        if handler.is_sealed:
            raise _sealed()
        return handler

    async def states(self, rows: Sequence[Handler]) -> list[HandlerState]:
        """The current state of each of these, in their order. Raises Busy."""
        found = await self._standings.of([row.id for row in rows]) if rows else {}
        now = clock.now()
        holds = await self._holds(found, now)
        return [_state(row, found.get(row.id, Standing()), holds, now) for row in rows]

    async def overview(self, user_id: int, since: Micros) -> Overview:
        """All handlers of a user at a glance. Raises Busy."""
        return await self._standings.overview(user_id, since // HOUR, self._directory.sealed_of(user_id))

    async def troubled(self, limit: int) -> list[tuple[str, Handler, HandlerState]]:
        """Whose handlers fail or were switched off, for administrators: the user's address, the handler without its settings, its state."""
        now = clock.now()
        found = await self._standings.troubled(limit, self._directory.sealed_of())
        holds = await self._holds({one.handler.id: one.standing for one in found}, now)
        return [(one.email, one.handler, _state(one.handler, one.standing, holds, now)) for one in found]

    async def _holds(self, standings: Mapping[int, Standing], now: Micros) -> Mapping[int, Hold]:
        due = [one for one, standing in standings.items() if standing.next_at is not None and standing.next_at <= now]
        return await self._waits.of(due)

    async def get(self, user_id: int, handler_id: int) -> Handler:
        """Raises Missing."""
        return self._seen(await self._row(user_id, handler_id))

    async def create(self, user_id: int, draft: HandlerDraft) -> int:
        """The new id. The draft must have come from `check` without faults. Raises Invalid where they may not have another one."""
        channel = CHANNELS[draft.type or ""]
        change = HandlerChange(
            type=channel.type,
            name=draft.name,
            settings=self._vault.seal(draft.settings or {}),
            secret=self._new_secret(channel),
            is_enabled=True if draft.is_enabled is None else draft.is_enabled,
            partition=self._home(channel, draft.settings or {}),
            consent=await self._consenting.consent(user_id, _address(channel, draft.settings or {})),
            fields=tuple(draft.settings or {}),
        )
        most = await self._quotas.most_handlers(user_id)
        handler_id = await self._rows.add(user_id, change, clock.now(), most)
        if handler_id is None:
            raise too_many_handlers(most)
        self._directory.forget(user_id, handler_id)
        await self._consenting.ask_for(handler_id)
        return handler_id

    async def change(self, user_id: int, handler_id: int, draft: HandlerDraft) -> int:
        """Write what the draft holds. Raises Missing."""
        while True:
            row = await self._row(user_id, handler_id)
            change = await self._change(row, draft)
            if await self._rows.change(handler_id, change, row.version, _event(row, draft), ROWS_AT_ONCE):
                break
        self._directory.forget(user_id, handler_id)
        if draft.settings is not None:  # under a key in use
            self._directory.sealed.pop(handler_id, None)
        if draft.is_enabled is False:  # the first of them ended in the same commit; a start ends what a crash leaves of the others
            await end_waiting(self._queue, self._engine, handler_id, Status.SKIPPED, Reason.HANDLER_PAUSED)
        await self._consenting.ask_for(handler_id)
        return handler_id

    async def _change(self, row: HandlerRow, draft: HandlerDraft) -> HandlerChange:
        settings, current = draft.settings, self._seen(row)
        is_fresh = draft.type is not None and (draft.type != row.type or current.is_sealed)  # as if it were another handler
        if settings is not None and current.is_sealed and not is_fresh:
            raise _sealed()
        before: Mapping[str, str] = {} if is_fresh else current.settings
        if settings is not None:
            settings = {name: value for name, value in {**before, **settings}.items() if value}
        return HandlerChange(
            type=draft.type,
            name=draft.name,
            settings=None if settings is None else self._vault.seal(settings),
            secret=self._fresh_secret(row, CHANNELS[draft.type or row.type]) if is_fresh else None,
            is_enabled=draft.is_enabled,
            partition=None if settings is None else self._partition(row, draft, settings),
            consent=None if settings is None else await self._consent(current, draft, settings),
            fields=_changed_fields(row, draft, before),
        )

    def _fresh_secret(self, row: HandlerRow, channel: AnyChannel) -> bytes | None:
        """For another type the old secrets go, all of them; for the same one only if no key opens them."""
        is_kept = channel.type == row.type and row.secret and self._vault.opens(row.secret)
        return None if is_kept else self._new_secret(channel) or b""

    async def _consent(self, current: Handler, draft: HandlerDraft, settings: Mapping[str, str]) -> Consent | None:
        """None: it stays as it was, since nothing is mailed, or to the same address as before."""
        before = _address(CHANNELS[current.type], current.settings) if current.settings else ""
        after = _address(CHANNELS[draft.type or current.type], settings)
        return None if is_same(before, after) else await self._consenting.consent(current.user_id, after)

    def _home(self, channel: AnyChannel, settings: Mapping[str, str]) -> int | None:
        return home_of(channel, settings_of(channel, settings), self._directory.service)

    def _partition(self, row: HandlerRow, draft: HandlerDraft, settings: Mapping[str, str]) -> int:
        """Where the handler belongs with these settings."""
        home = self._home(CHANNELS[draft.type or row.type], settings)
        return partition_of(own_root(row.id)) if home is None else home

    async def delete(self, user_id: int, handler_id: int) -> None:
        """Cancel what waits, erase the secrets, keep the history. Raises Missing."""
        await self._row(user_id, handler_id)
        if not await self._rows.delete(handler_id, clock.now(), ROWS_AT_ONCE):
            raise Missing
        self._directory.forget_deleted(user_id, handler_id)
        await end_waiting(self._queue, self._engine, handler_id, Status.CANCELLED, Reason.HANDLER_DELETED)

    async def stats(self, user_id: int, handler_id: int) -> tuple[Handler, HandlerFacts]:
        """The handler, and how it has fared for as long as rows are kept. Raises Missing."""
        handler = await self.get(user_id, handler_id)
        return handler, await self._standings.facts(handler_id, 0)

    async def hours(self, handler_ids: Sequence[int], since: Micros) -> list[HandlerHour]:
        """What became of these handlers' deliveries since then, oldest hour first for each."""
        return await self._standings.hours(handler_ids, since // HOUR)

    async def secret(self, user_id: int, handler_id: int) -> SigningSecret:
        """The signing secrets; first it is written down that they are read. Raises Missing, also for a type that does not sign."""
        row = await self._row(user_id, handler_id)
        secret = self._secret_of(row)
        await self._audit.add(Act.SECRET_READ, user_id, handler_id, row.name, {"type": row.type})
        return secret

    async def rotate_secret(self, user_id: int, handler_id: int) -> SigningSecret:
        """A new signing secret; the present one signs too for a day. Raises Missing."""
        while True:
            row = await self._row(user_id, handler_id)
            until = clock.now() + ROTATION
            rotated = SigningSecret(new_signing_secret(), self._secret_of(row).current, until)
            change = HandlerChange(secret=self._vault.seal(msgspec.to_builtins(rotated)))
            if await self._rows.change(handler_id, change, row.version):
                self._directory.forget(user_id, handler_id)
                return rotated

    async def _row(self, user_id: int, handler_id: int) -> HandlerRow:
        row = await self._rows.get(handler_id)
        if row is None or row.deleted_at is not None or row.user_id != user_id:
            raise Missing
        return row

    def _secret_of(self, row: HandlerRow) -> SigningSecret:
        secret = self._open(row).secret
        if secret is None:
            raise Missing
        if secret.previous_until is not None and secret.previous_until <= clock.now():
            return SigningSecret(secret.current)
        return secret

    def _new_secret(self, channel: AnyChannel) -> bytes | None:
        return self._vault.seal(msgspec.to_builtins(SigningSecret(new_signing_secret()))) if channel.signs else None


def _sealed() -> Busy:
    return Busy("no key of the service opens the handler's settings", 60)


def _state(row: Handler, found: Standing, holds: Mapping[int, Hold], now: Micros) -> HandlerState:
    next_at = found.next_at
    return state_of(row, found, None if next_at is None else next_start(holds.get(row.id, FREE), next_at, now))
