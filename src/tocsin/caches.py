"""Caches with bounds, which keep nothing longer than it may be kept."""

import functools
from collections.abc import Callable, Hashable
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_clear: list[Callable[[], None]] = []


def of_secrets(size: int) -> Callable[[Callable[P, V]], Callable[P, V]]:
    """An `lru_cache` for values derived from handlers' secrets and addresses; `forget_secrets` empties it."""

    def decorate(function: Callable[P, V]) -> Callable[P, V]:
        cached = functools.lru_cache(size)(function)
        _clear.append(cached.cache_clear)
        return cached  # pyright: ignore[reportReturnType]  # typed as the function is

    return decorate


def forget_secrets() -> None:
    """Called after a handler was changed or deleted. Values of other handlers are derived again, in microseconds each."""
    for clear in _clear:
        clear()


class Tidied(dict[K, V], Generic[K, V]):
    """A dictionary that drops idle entries whenever it has grown to twice the size that was left last time, and above `least`.

    So it holds at most twice what is in use, and an addition costs the same however many entries there are.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self._least = self._above = least

    def add(self, key: K, value: V, is_idle: Callable[[K, V], bool]) -> V:
        if len(self) >= self._above:
            for one in [one for one, its in self.items() if is_idle(one, its)]:
                del self[one]
            self._above = max(self._least, 2 * len(self))
        self[key] = value
        return value
