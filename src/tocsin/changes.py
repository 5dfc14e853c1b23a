"""What other processes change in the store: keys that the commands renew or revoke, users, handlers."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import structlog

from tocsin import observe
from tocsin.datadir import Keys
from tocsin.flow.directory import Directory
from tocsin.flow.people.access import Access
from tocsin.model import Busy
from tocsin.ports.changes import KEPT_SECONDS, Change
from tocsin.ports.changes import Changes as ChangeRows
from tocsin.ports.values import Values

READ_KEYS_SECONDS = 2.0  # while they cannot be read
READ_AGAIN_SECONDS = 0.3
AT_ONCE = 1000  # changes in one read
log = structlog.get_logger(__name__)


class Changes:
    """`forget`: drops what is remembered of the store, each of them, as all of it may be wrong. `new_keys`: called when the service has
    other keys."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.forget: tuple[Callable[[], None], ...] = ()
        self.new_keys: tuple[Callable[[], None], ...] = ()
        self._is_noticed = asyncio.Event()

    def noticed(self) -> None:
        """Another process has written, or a user something that others remember."""
        self._read_again()
        self._is_noticed.set()

    def _read_again(self) -> None:
        has_others = self.keys.refresh()
        for call in (*self.forget, *(self.new_keys if has_others else ())):
            call()

    async def answer(self, values: Values) -> None:
        """Until cancelled: after another process wrote, say which key is in use; while the keys cannot be read, keep trying."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(READ_KEYS_SECONDS):
                    await self._is_noticed.wait()
            if self.keys.trouble:
                self._read_again()
            if self._is_noticed.is_set():
                self._is_noticed.clear()
                with contextlib.suppress(Busy):
                    await self.keys.answer(values)


class Feed:
    """What processes that share the store have changed, one after the other: only what it names is read again.

    `everything`: drops all that is remembered. `read_pauses`: learns for how long others were asked to wait.
    """

    def __init__(
        self,
        rows: ChangeRows,
        user_changed: Callable[[int], None],
        directory: Directory,
        access: Access,
        everything: Callable[[], None],
        read_pauses: Callable[[], Awaitable[None]],
    ) -> None:
        self._user_changed = user_changed
        self._rows = rows
        self._directory = directory
        self._access = access
        self._everything = everything
        self._read_pauses = read_pauses
        self._are_pauses_read = False
        self._read_until = -1  # the newest change that is dealt with; -1: none is
        self._looked_at = 0.0
        self._is_asked = asyncio.Event()

    def heard(self, newest: int | None = None) -> None:
        """There may be something new; or there is, if `newest` was not read yet."""
        if newest is None or newest > self._read_until:
            self._is_asked.set()

    async def follow(self) -> None:
        """Until cancelled."""
        while True:
            await self._is_asked.wait()
            self._is_asked.clear()
            try:
                await self.read()
            except Busy as busy:  # beats go on telling that there is something
                observe.seldom(log.warning, "changes.not_read", why=str(busy))
                await asyncio.sleep(READ_AGAIN_SECONDS)
                self._is_asked.set()

    async def read(self) -> None:
        """Forget what has changed since the last look, and learn of pauses. Raises Busy."""
        await self._read_changes()
        if not self._are_pauses_read:
            await self._read_pauses()
            self._are_pauses_read = True

    async def _read_changes(self) -> None:
        began = time.monotonic()
        if self._read_until < 0 or began - self._looked_at > KEPT_SECONDS:
            newest = await self._rows.newest()
            self._everything()
            self._are_pauses_read = False
            self._read_until, self._looked_at = newest, began
            return
        while found := await self._rows.after(self._read_until, AT_ONCE):
            for change in found:
                self._forget(change)
            self._read_until = found[-1].id
            if len(found) < AT_ONCE:
                break
        self._looked_at = began

    def _forget(self, change: Change) -> None:
        match change.what:
            case "handler" if change.ref is not None and change.user_id is not None:
                self._directory.forget(change.user_id, change.ref)
            case "user" if change.ref is not None:
                self._user_changed(change.ref)
                self._access.forget_all()
            case "key":
                self._access.forget_all()
            case "pause":
                self._are_pauses_read = False
            case _:
                self._everything()
