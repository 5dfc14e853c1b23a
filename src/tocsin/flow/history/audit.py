"""The audit log, as people look at it; and who has read secrets."""

import contextlib
import json
from datetime import UTC

from msgspec.structs import asdict, replace

from tocsin import acting, clock, zones
from tocsin.caches import Tidied
from tocsin.clock import HOUR
from tocsin.model import Busy
from tocsin.ports.audit import Act, AuditFilter, AuditLog, Entry

MAX_READERS = 10_000


class AuditTrail:
    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._readers: Tidied[tuple[int | None, str], int] = Tidied(MAX_READERS)

    async def page(self, which: AuditFilter, limit: int) -> list[Entry]:
        """The newest first; for administrators. Raises Busy."""
        return await self._log.page(which, limit)

    async def own_page(self, user: int, which: AuditFilter, limit: int) -> list[Entry]:
        """What a user did, or what concerns them: where others are is not their business. Raises Busy."""
        found = await self._log.page(replace(which, concerns=user), limit)
        return [_without_address(one) if one.user_id not in (None, user) else one for one in found]

    async def settings_read(self, user: int) -> None:
        """Somebody read the secrets of handlers in the clear. A program may do it all day long: it is written down once an hour for each
        key and address. A store that takes no writes keeps nobody from reading, and the next time is written down then.
        """
        actor = acting.now()
        reader, hour = (actor.key_id, actor.address), clock.now() // HOUR
        if self._readers.get(reader) == hour:
            return
        with contextlib.suppress(Busy):
            await self._log.add(Act.SETTINGS_READ, user)
            self._readers.add(reader, hour, lambda _, kept: kept < hour)


def _without_address(entry: Entry) -> Entry:
    return replace(entry, address="")


def line_of(entry: Entry) -> str:
    """As a line of JSON, for programs."""
    values = asdict(entry)
    at = zones.local(values.pop("at"), UTC)
    return json.dumps({"id": values.pop("id"), "datetime": f"{at:%Y-%m-%d %H:%M:%S}", **values}, ensure_ascii=False) + "\n"
