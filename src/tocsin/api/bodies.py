"""Request bodies: multipart, urlencoded and JSON all become an object of what was given."""

import itertools
import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from msgspec import Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Message, Receive

from tocsin.api.errors import ClientGone, Refusal, fault, shown
from tocsin.model import Invalid

MAX_BODY = 1024 * 1024
MAX_BATCH = 16 * MAX_BODY
MAX_READ = 16 * MAX_BODY
MAX_OBJECTS = 10_000  # far more than any body needs, few enough to be read without delay for others
MAX_FORM_FIELDS = 11_000

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
MEDIA_TYPES = (MULTIPART, FORM, JSON)

_BRACKETS = re.compile(r"([^\[\]]+)\[(.*)\]", re.DOTALL)
_PLAIN_ENCODINGS = {"", "7bit", "8bit", "binary"}


class Pairs(dict[str, Any]):
    """An object as it was received, and the names that occurred more than once."""

    __slots__ = ("repeated",)

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        super().__init__()
        repeated: dict[str, None] = {}
        for name, value in pairs:
            if name in self:
                repeated[name] = None
            self[name] = value
        self.repeated = tuple(repeated)


class Decimal(str):
    """A JSON number with a point or an exponent, as it was written."""

    __slots__ = ()


class File(Struct, frozen=True):
    """Marks a multipart field that was sent as a file."""


def unreadable(detail: str) -> Invalid:
    return Invalid(fault("unreadable", detail))


# ------------------------------------------------------------------------------------------------------ from the wire


async def content_of(receive: Receive, headers: Mapping[bytes, bytes], most: int) -> bytes:
    """The whole body. Even one that is too large is read to its end, up to 16 MiB, so that the client sees the answer.

    Raises Refusal and ClientGone.
    """
    message = await receive()
    content: bytes = message.get("body", b"")
    if message["type"] != "http.request" or message.get("more_body") or len(content) > most:
        content = await _content_in_pieces(message, receive, most)
    encoding = headers.get(b"content-encoding", b"identity").decode("latin-1").lower()
    if encoding != "identity":
        raise Refusal(fault("unsupported_media_type", f"The body must be sent without Content-Encoding: {shown(encoding)}."), {})
    return content


async def _content_in_pieces(message: Message, receive: Receive, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while message["type"] == "http.request":
        size += len(message.get("body", b""))
        if size <= most:
            chunks.append(message.get("body", b""))
        elif size > MAX_READ:
            _refuse_size(most, {"connection": "close"})
        else:
            chunks.clear()
        if not message.get("more_body"):
            return b"".join(chunks) if size <= most else _refuse_size(most, {})
        message = await receive()
    raise ClientGone


def _refuse_size(most: int, headers: dict[str, str]) -> NoReturn:
    raise Refusal(fault("body_too_large", f"The body must be at most {most // MAX_BODY} MiB."), headers)


def object_of(content: bytes, content_type: str, accepted: Collection[str], lists: Collection[str]) -> Pairs:
    """The object in the body, empty if there is no body. `lists`: the form fields that may be repeated.

    Raises Invalid (unreadable) and Refusal (media type).
    """
    if not content:
        return Pairs(())
    raw_type, options = parse_options_header(content_type)
    media_type = raw_type.decode("latin-1").lower()
    if media_type not in accepted:
        said = shown(media_type) if media_type else "none"
        raise Refusal(fault("unsupported_media_type", f"Content-Type must be {' or '.join(accepted)}; it is {said}."), {})
    if options.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"utf8", b"us-ascii"}:
        raise unreadable("The body must be in UTF-8.")
    if media_type == JSON:
        return _json_object(content)
    if media_type == FORM:
        return _grouped(form_pairs(content), lists)
    return _grouped(_multipart_pairs(content, options.get(b"boundary", b"")), lists)


# --------------------------------------------------------------------------------------------------------------- JSON


def load_json(content: bytes | str) -> Any:
    """JSON with objects as Pairs and fractions as Decimal. Raises Invalid."""
    count = itertools.count(1)

    def pairs(given: list[tuple[str, Any]]) -> Pairs:
        if next(count) > MAX_OBJECTS:
            raise ValueError("too many objects")
        return Pairs(given)

    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        return json.loads(text, object_pairs_hook=pairs, parse_float=Decimal, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise unreadable("The body must be in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise unreadable(f"The JSON cannot be read: {error.msg} at line {error.lineno}, column {error.colno}.") from None
    except (RecursionError, ValueError):
        raise unreadable(
            "The JSON is nested too deeply, too large, or contains a number that JSON does not allow (NaN, Infinity)."
        ) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _json_object(content: bytes) -> Pairs:
    value = load_json(content)
    if not isinstance(value, Pairs):
        raise unreadable("The JSON must be an object.")
    return value


# -------------------------------------------------------------------------------------------------------------- forms


def form_pairs(content: bytes) -> list[tuple[str, Any]]:
    """The pairs of a urlencoded form or a query, in their order. Raises Invalid."""
    try:
        return [*parse_qsl(content.decode(), keep_blank_values=True, errors="strict", max_num_fields=MAX_FORM_FIELDS)]
    except UnicodeDecodeError:
        raise unreadable("Percent-encoded text must be in UTF-8.") from None
    except ValueError:
        raise unreadable(f"There are more than {MAX_FORM_FIELDS:,} fields.") from None


def _multipart_pairs(content: bytes, boundary: bytes) -> list[tuple[str, Any]]:
    """The parts of a multipart form (RFC 7578), in their order."""
    if not boundary:
        raise unreadable("The Content-Type of a multipart body must name its boundary.")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # pyright: ignore[reportArgumentType]
        _ = parser.write(content)
        parser.finalize()
    except FormParserError:
        raise unreadable("The multipart body cannot be read.") from None
    if not parts.is_complete:
        raise unreadable("The multipart body ends in the middle.")
    return parts.pairs


class _Parts:
    """Collects the parts as the parser meets them."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, Any]] = []
        self.is_complete = False
        self._begin()

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_part_data": self._data,
            "on_part_end": self._end_part,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.pairs) >= MAX_FORM_FIELDS:
            raise unreadable(f"There are more than {MAX_FORM_FIELDS:,} fields.")
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = self._text = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._text += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._name.lower()] = self._text
        self._name = self._text = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"name" not in options:
            raise unreadable("A part of the multipart body has no name.")
        _, type_options = parse_options_header(self._headers.get(b"content-type", b""))
        encoding = self._headers.get(b"content-transfer-encoding", b"").decode("latin-1").strip().lower()
        charset = type_options.get(b"charset", b"utf-8").lower()
        try:
            name = options[b"name"].decode()
            if b"filename" in options:
                self.pairs.append((name, File()))
            elif charset not in {b"utf-8", b"us-ascii"} or encoding not in _PLAIN_ENCODINGS:
                raise unreadable(f"The part {shown(name)} of the multipart body must be in plain UTF-8.")
            else:
                self.pairs.append((name, self._value.decode()))
        except UnicodeDecodeError:
            raise unreadable("The multipart body must be in UTF-8.") from None

    def _end(self) -> None:
        self.is_complete = True


def _grouped(pairs: Iterable[tuple[str, Any]], lists: Collection[str]) -> Pairs:
    """`a[]=1` and a repeated list become a list, `a[b]=1` an object."""
    plain: list[tuple[str, Any]] = []
    gathered: dict[str, list[Any]] = {}
    objects: dict[str, list[tuple[str, Any]]] = {}
    for name, value in pairs:
        match = _BRACKETS.fullmatch(name)
        base, key = (match[1], match[2]) if match else (name, None)
        if base in lists and not key:
            gathered.setdefault(base, []).append(value)
        elif key:
            objects.setdefault(base, []).append((key, value))
        else:
            plain.append((name, value))
    return Pairs([*plain, *gathered.items(), *((name, Pairs(inner)) for name, inner in objects.items())])
