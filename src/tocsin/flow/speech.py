"""What the service itself writes to people, in their language."""

from collections.abc import Callable

from msgspec import Struct

Retell = Callable[[str], str]


def _as_it_is(text: str) -> str:
    return text


class Speech(Struct, frozen=True):
    """A language. `say`: a sentence of ours; `retell`: a text that is made of sentences of ours and of what others said."""

    say: Retell = _as_it_is
    retell: Retell = _as_it_is


ENGLISH = Speech()


class Languages:
    """`known`: all but English, by code."""

    def __init__(self, known: Callable[[str], Speech] | None = None) -> None:
        self._known = known

    def named(self, language: str | None) -> Speech:
        """English where the language is not known."""
        return ENGLISH if language is None or self._known is None else self._known(language)
