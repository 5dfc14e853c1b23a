"""Numbers as they are typed after commands. cyclopts' own conversion takes 3.5 for 4, and 0x10 and 1_6 for 16."""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from cyclopts import CoercionError, Parameter, Token
from cyclopts.validators import Number

from tocsin.cli.show import one_line
from tocsin.readings import MAX_PORT

T = TypeVar("T", int, float)


def _typed(pattern: str, read: Callable[[str], T], what: str) -> Callable[[object, Sequence[Token]], T]:
    """A converter for cyclopts of text that has this pattern."""

    def convert(_: object, tokens: Sequence[Token]) -> T:
        text = tokens[0].value
        if not re.fullmatch(pattern, text):
            raise CoercionError(f"{one_line(repr(text))[:80]} is not {what}.", token=tokens[0])
        return read(text)

    return convert


_whole = _typed(r"-?[0-9]{1,18}", int, "a whole number")
_seconds = _typed(r"-?(?:[0-9]{1,9}(?:\.[0-9]*)?|\.[0-9]+)", float, "a number of seconds")

Count = Annotated[int, Parameter(converter=_whole, validator=Number(gte=1))]
Id = Count
CountOrAll = Annotated[int, Parameter(converter=_whole, validator=Number(gte=0))]
"""0 means all."""
Port = Annotated[int, Parameter(converter=_whole, validator=Number(gte=0, lte=MAX_PORT))]
Seconds = Annotated[float, Parameter(converter=_seconds, validator=Number(gt=0))]
