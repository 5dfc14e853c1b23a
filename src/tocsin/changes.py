"""What other processes change in the store: keys that the commands renew or revoke, users, handlers."""

import asyncio
import contextlib
from collections.abc import Callable

from tocsin.datadir import Keys
from tocsin.model import Busy
from tocsin.ports.values import Values

READ_KEYS_SECONDS = 2.0  # while they cannot be read


class Changes:
    """`forget`: drops what is remembered of the store, each of them, as all of it may be wrong."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.forget: tuple[Callable[[], None], ...] = ()
        self._is_noticed = asyncio.Event()

    def noticed(self) -> None:
        """Another process has written, or a user something that others remember."""
        self._read_again()
        self._is_noticed.set()

    def _read_again(self) -> None:
        self.keys.refresh()
        for forget in self.forget:
            forget()

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
