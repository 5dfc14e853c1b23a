"""What an endpoint is: what it takes, what it answers, and one request to it, already read."""

import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct, structs

from tocsin.api import bodies
from tocsin.api.bodies import File, Pairs
from tocsin.api.errors import Answer, fault, shown
from tocsin.api.kinds import Kind
from tocsin.api.proxies import base_url
from tocsin.flow.people.access import Caller
from tocsin.flow.service import Service
from tocsin.model import Fault, Invalid, all_faults
from tocsin.ports.intake import Idempotency

MAX_WRONG_NAMES = 100

Part: TypeAlias = Literal["one", "list", "page", "nothing", "bare", "document", "text"]


class Parameter(Struct, frozen=True):
    """One query parameter or body field. `empty_is_absent`: an empty text counts as not given. `items`: the fields of each of a
    list's objects.
    """

    name: str
    kind: Kind
    description: str
    required: bool = False
    default: Any = None
    may_be_empty: bool = False
    empty_is_absent: bool = False
    repeats: bool = False
    example: Any = None
    items: tuple["Parameter", ...] = ()


class Result(Struct, frozen=True):
    """The answer to a successful request: one `item`, a list or a page of them in the envelope; or without
    the envelope nothing, a bare item, a JSON document of any form, or text.
    """

    status: int
    sentence: str
    item: type[Struct] | None = None
    part: Part = "one"


class Call(Struct):
    """One request to an endpoint. `values` are the typed query parameters, `faults` the errors in id and query."""

    service: Service
    endpoint: "Endpoint"
    path: str
    scope: Mapping[str, Any]
    headers: Mapping[bytes, bytes]
    caller: Caller
    id: int
    content: bytes
    pairs: list[tuple[str, str]]
    values: Mapping[str, Any]
    faults: list[Fault]

    @property
    def user_id(self) -> int:
        return self.caller.user_id

    @property
    def base(self) -> str:
        """The beginning of the addresses in the answer."""
        return base_url(self.scope, self.headers, self.service.settings)

    def body(self) -> Mapping[str, Any]:
        """The typed body fields that were given and are usable; the errors of the others are added to `faults`."""
        endpoint = self.endpoint
        content_type = self.headers.get(b"content-type", b"").decode("latin-1")
        lists = [parameter.name for parameter in endpoint.body if parameter.repeats]
        values, faults = read_body(bodies.object_of(self.content, content_type, endpoint.media_types, lists), endpoint.body)
        self.faults.extend(faults)
        return values

    def check(self, *more: Fault) -> None:
        """Raises Invalid with all faults at once, if there are any; a parameter's first fault hides those that `more` has for it."""
        if faults := all_faults(self.faults, more):
            raise Invalid(*faults)

    def idempotency(self, content: bytes) -> Idempotency | None:
        """The request's idempotency key with the fingerprint of its parsed content. Raises Invalid."""
        key = self.headers.get(b"idempotency-key")
        if key is None:
            return None
        if not 1 <= len(key) <= 255 or any(not 0x20 <= byte < 0x7F for byte in key):
            raise Invalid(fault("idempotency_key", "Idempotency-Key must be 1 to 255 printable ASCII characters.", "Idempotency-Key"))
        return Idempotency(self.path, key.decode("ascii"), content)


Handle: TypeAlias = Callable[[Call], Awaitable[Answer]]


class Endpoint(Struct, frozen=True, kw_only=True):
    """One row of the table. All `scopes` are required; None: no key is required. `id_of`: the kind of thing that {id} in the path names."""

    method: str
    path: str
    name: str
    summary: str
    description: str
    scopes: tuple[str, ...] | None
    handle: Handle
    result: Result
    group: str
    query: tuple[Parameter, ...] = ()
    body: tuple[Parameter, ...] = ()
    codes: tuple[str, ...] = ()
    id_of: str = ""
    media_types: tuple[str, ...] = bodies.MEDIA_TYPES
    most_bytes: int = bodies.MAX_BODY
    is_idempotent: bool = False


# ------------------------------------------------------------------------------------------------- reading parameters


def read_query(text: bytes, parameters: tuple[Parameter, ...]) -> tuple[list[tuple[str, str]], dict[str, Any], list[Fault]]:
    """The pairs as given, the typed values with defaults, and every fault, all of them 400."""
    pairs = bodies.form_pairs(text)
    given = Pairs(pairs)
    faults = _wrong_names(given, parameters, "")
    values: dict[str, Any] = {}
    for parameter in parameters:
        value = given.get(parameter.name)
        if value is None or parameter.name in given.repeated:
            values[parameter.name] = parameter.default
        elif not value and not parameter.may_be_empty:
            faults.append(fault("empty", f"{parameter.name} has no value.", parameter.name))
        else:
            values[parameter.name] = _read(parameter, value, parameter.name, faults)
    return pairs, values, [_bad_query(one) for one in faults]


def _bad_query(one: Fault) -> Fault:
    return structs.replace(one, status=400)


def read_body(given: Pairs, parameters: tuple[Parameter, ...], prefix: str = "") -> tuple[dict[str, Any], list[Fault]]:
    """The typed values of what was given, and every fault. `prefix` precedes the parameters' names, inside a list."""
    faults = _wrong_names(given, parameters, prefix)
    values: dict[str, Any] = {}
    for parameter in parameters:
        name = parameter.name
        value = given.get(name)
        if value is None or (value == "" and parameter.empty_is_absent):
            if parameter.required:
                faults.append(fault("required", "{name} is required.", prefix + name, name=prefix + name))
        elif name not in given.repeated:
            found = _read(parameter, value, prefix + name, faults)
            if found is not None:
                values[name] = found
    return values, faults


def _wrong_names(given: Pairs, parameters: tuple[Parameter, ...], prefix: str) -> list[Fault]:
    """Repeated and unknown names; only the first of each, since a body may have a million of them."""
    known = {parameter.name for parameter in parameters}
    unknown = (name for name in given if name not in known)
    return [
        *(fault("repeated", f"{shown(name)} is given more than once.", prefix + name) for name in given.repeated[:MAX_WRONG_NAMES]),
        *(fault("unknown", f"There is no parameter {shown(name)}.", prefix + name) for name in itertools.islice(unknown, MAX_WRONG_NAMES)),
    ]


def _read(parameter: Parameter, value: object, name: str, faults: list[Fault]) -> Any:
    """The typed value; None if it cannot be used, and `faults` then says why."""
    if isinstance(value, File):
        faults.append(fault("file", f"{name} must be sent as a text, not as a file.", name))
        return None
    try:
        return parameter.kind.read(value, name)
    except Invalid as error:
        faults.extend(error.faults)
        return None
