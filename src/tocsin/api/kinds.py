"""What a parameter can be: how its value is read, and what it looks like in JSON Schema.

A kind reads JSON values as well as the texts of forms and queries, so that all three body types are equivalent.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

from msgspec import Struct

from tocsin.api import times
from tocsin.api.bodies import Decimal, Pairs, load_json
from tocsin.api.errors import fault
from tocsin.markup.unseen import is_blank
from tocsin.model import Invalid
from tocsin.net.urls import MAX_URL, check_url

MAX_ID = 2**63 - 1
MAX_HANDLERS = 10_000
MAX_FIELDS, MAX_FIELD_NAME, MAX_FIELD_VALUE = 25, 256, 1024
WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}

Schema: TypeAlias = Mapping[str, Any]
Read: TypeAlias = Callable[[object, str], Any]

_TOO_LONG = "{name} takes at most {most} characters, got {length}."
_TOO_MANY_BYTES = "{name} takes at most {most} bytes of UTF-8, got {length}."
_NAME_LENGTH = "A field's name takes 1 to {most} characters."
_VALUE_TOO_LONG = "A field's value takes at most {most} characters, got {length}."
_DIGITS = re.compile(r"[0-9]{1,20}")
_LINE_BREAK = re.compile("\r\n|[\n\v\f\r\x85\u2028\u2029]")


class Kind(Struct, frozen=True):
    """A kind of value. `read` takes the value and its parameter's name and returns the typed value, or raises Invalid with every fault."""

    word: str
    read: Read
    schema: Schema
    """For JSON; the next two are for forms and queries that look different."""
    form_schema: Schema | None = None
    query_schema: Schema | None = None


def text_of(value: object, name: str) -> str:
    """The value as a text that can be stored. Raises Invalid."""
    if not isinstance(value, str) or isinstance(value, Decimal):
        raise Invalid(fault("invalid", f"{name} must be a text.", name))
    if "\0" in value:
        raise Invalid(fault("unusable_text", "{name} must not contain the character NUL.", name, name=name))
    try:
        _ = value.encode()
    except UnicodeEncodeError:
        raise Invalid(fault("unusable_text", f"{name} contains a lone surrogate, which is half a character.", name)) from None
    return value


# ---------------------------------------------------------------------------------------------------------------- texts


def text(most: int, *, one_line: bool = False) -> Kind:
    """Up to `most` characters; `one_line`: line breaks become spaces."""

    def read(value: object, name: str) -> str:
        given = text_of(value, name)
        if one_line:
            given = one_line_of(given)
        if len(given) > most:
            raise Invalid(fault("too_long", _TOO_LONG, name, name=name, most=f"{most:,}", length=f"{len(given):,}"))
        return given

    # If line breaks become spaces, a pair of line-break characters counts once, so the schema cannot state the limit.
    return Kind("text", read, {"type": "string"} if one_line else {"type": "string", "maxLength": most})


def one_line_of(given: str) -> str:
    return given if given.isprintable() else _LINE_BREAK.sub(" ", given)


def long_text(most_bytes: int) -> Kind:
    """A text that is not blank, up to `most_bytes` in UTF-8."""

    def read(value: object, name: str) -> str:
        given = text_of(value, name)
        if is_blank(given):
            raise Invalid(fault("required", "{name} must not be blank.", name, name=name))
        size = len(given.encode())
        if size > most_bytes:
            raise Invalid(fault("too_long", _TOO_MANY_BYTES, name, name=name, most=f"{most_bytes:,}", length=f"{size:,}"))
        return given

    return Kind("text", read, {"type": "string", "minLength": 1, "maxLength": most_bytes, "pattern": r"[^\s]"})


def _read_raw(value: object, name: str) -> str:
    """A text whose rules are checked elsewhere; JSON integers, such as a Telegram chat id, are accepted."""
    return text_of(str(value) if isinstance(value, int) and not isinstance(value, bool) else value, name)


RAW = Kind("text", _read_raw, {"type": ["string", "integer"]}, {"type": "string"})
NAME = Kind("text", text_of, {"type": "string", "minLength": 1})


def _read_url(value: object, name: str) -> str:
    given = text_of(value, name)
    complaint = check_url(given)
    if complaint:
        raise Invalid(fault("invalid", complaint, name))
    return given


URL = Kind("URL", _read_url, {"type": "string", "maxLength": MAX_URL, "pattern": "^https?://"})


def choice(words: Sequence[str]) -> Kind:
    """One of some words."""

    def read(value: object, name: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise Invalid(fault("invalid_choice", f"{name} must be one of {', '.join(words)}.", name))
        return value

    return Kind("text", read, {"type": "string", "enum": list(words)})


# ------------------------------------------------------------------------------------------------------------- numbers


def integer(least: int, most: int) -> Kind:
    def read(value: object, name: str) -> int:
        number = _whole(value)
        if number is None or not least <= number <= most:
            limits = f"from {least} to {most}" if most < MAX_ID else f"of at least {least}"
            raise Invalid(fault("invalid", f"{name} must be a whole number {limits}.", name))
        return number

    return Kind("integer", read, {"type": "integer", "minimum": least, "maximum": most})


def one_of(numbers: Sequence[int]) -> Kind:
    def read(value: object, name: str) -> int:
        number = _whole(value)
        if number is None or number not in numbers:
            raise Invalid(fault("invalid_choice", f"{name} must be one of {', '.join(map(str, numbers))}.", name))
        return number

    return Kind("integer", read, {"type": "integer", "enum": list(numbers)})


ID = integer(1, MAX_ID)


def _whole(value: object) -> int | None:
    if isinstance(value, str) and not isinstance(value, Decimal):
        return int(value) if _DIGITS.fullmatch(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read_boolean(value: object, name: str) -> bool:
    if isinstance(value, bool):
        return value
    known = WORDS.get(str(value).lower()) if isinstance(value, (str, int)) else None
    if known is None:
        raise Invalid(fault("invalid", f"{name} must be 1, 0, true, false, yes, no, on or off.", name))
    return known


_WORD_SCHEMA = {"type": "string", "enum": [*WORDS], "description": "in any case"}
BOOLEAN = Kind("boolean", _read_boolean, {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, _WORD_SCHEMA]}, _WORD_SCHEMA, _WORD_SCHEMA)


def _read_time(value: object, name: str) -> int:
    try:
        return times.read(text_of(value, name))
    except (ValueError, OverflowError):
        raise Invalid(fault("invalid", times.WANTED, name, name=name)) from None


_PLAIN_TIME = "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01]) ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$"
TIME = Kind("time", _read_time, {"type": "string", "anyOf": [{"pattern": _PLAIN_TIME}, {"format": "date-time"}]})


# -------------------------------------------------------------------------------------------------- what has parts in it


def _read_handlers(value: object, name: str) -> tuple[int, ...]:
    """Ids as a list, or comma-separated in a text (or in the list's texts). Each counts once, in the order given."""
    items = cast(list[object], value) if isinstance(value, list) else [value]
    numbers: dict[int, None] = {}
    for item in items:
        parts = [part.strip() for part in item.split(",") if part.strip()] if isinstance(item, str) else [item]
        for part in parts:
            number = _whole(part)
            if number is None or not 1 <= number <= MAX_ID:
                raise Invalid(fault("invalid", f"{name} must be ids of notification handlers (whole numbers).", name))
            numbers[number] = None
    if len(numbers) > MAX_HANDLERS:
        raise Invalid(fault("too_many_deliveries", f"{name} takes at most {MAX_HANDLERS:,} handlers.", name))
    return tuple(numbers)


_ID_LIST = "^[1-9][0-9]{0,17}( *, *[1-9][0-9]{0,17})*$"
HANDLERS = Kind(
    "handler ids",
    _read_handlers,
    {
        "anyOf": [
            {"type": "array", "maxItems": MAX_HANDLERS, "items": {"type": "integer", "minimum": 1, "maximum": MAX_ID}},
            {"type": "integer", "minimum": 1, "maximum": MAX_ID},
            {"type": "string", "pattern": _ID_LIST},
        ]
    },
    {"type": "array", "items": {"type": "string", "pattern": _ID_LIST}},
)


def _read_fields(value: object, name: str) -> tuple[tuple[str, str], ...]:
    """An object, or the same as JSON text."""
    given = _loaded(value, name)
    if given.repeated:
        raise Invalid(*(fault("repeated", "A field was given more than once.", f"{name}[{key}]") for key in given.repeated))
    if len(given) > MAX_FIELDS:
        raise Invalid(fault("too_long", f"{name} takes at most {MAX_FIELDS} entries, got {len(given)}.", name))
    pairs: list[tuple[str, str]] = []
    faults: list[Invalid] = []
    for key, item in given.items():
        try:
            pairs.append(_read_field(key, item, f"{name}[{key}]"))
        except Invalid as error:
            faults.append(error)
    if faults:
        raise Invalid(*(one for error in faults for one in error.faults))
    return tuple(pairs)


def _loaded(value: object, name: str) -> Pairs:
    if isinstance(value, str) and not isinstance(value, Decimal):
        try:
            value = load_json(value)
        except Invalid as error:
            raise Invalid(fault("invalid", f"{name}: {error}", name)) from None
    if not isinstance(value, Pairs):
        raise Invalid(fault("invalid", f"{name} must be an object of names and values.", name))
    return value


def _read_field(key: str, item: object, name: str) -> tuple[str, str]:
    if not 1 <= len(text_of(key, name)) <= MAX_FIELD_NAME:
        raise Invalid(fault("too_long" if key else "invalid", _NAME_LENGTH, name, most=f"{MAX_FIELD_NAME}"))
    if isinstance(item, bool):
        item = "true" if item else "false"
    elif isinstance(item, (int, Decimal)):
        item = str(item)
    if not isinstance(item, str):
        raise Invalid(fault("invalid", "A field's value must be a text, a number or a boolean.", name))
    if len(text_of(item, name)) > MAX_FIELD_VALUE:
        raise Invalid(fault("too_long", _VALUE_TOO_LONG, name, most=f"{MAX_FIELD_VALUE:,}", length=f"{len(item):,}"))
    return key, str(item)


FIELDS = Kind(
    "object",
    _read_fields,
    {
        "type": "object",
        "maxProperties": MAX_FIELDS,
        "propertyNames": {"minLength": 1, "maxLength": MAX_FIELD_NAME},
        "additionalProperties": {"anyOf": [{"type": "string", "maxLength": MAX_FIELD_VALUE}, {"type": ["number", "boolean"]}]},
    },
    {"type": "string", "description": "an object as JSON text, or its members as `fields[name]=value`"},
)


def objects(most: int) -> Kind:
    """A list of one or more objects, which are read one by one later."""

    def read(value: object, name: str) -> list[object]:
        if not isinstance(value, list) or not value:
            raise Invalid(fault("invalid", f"{name} must be a list of 1 to {most:,} objects.", name))
        items = cast(list[object], value)
        if len(items) > most:
            raise Invalid(fault("too_long", f"{name} takes at most {most:,} entries, got {len(items):,}.", name))
        return items

    return Kind("list of objects", read, {"type": "array", "minItems": 1, "maxItems": most})
