"""What comes in: the three body types, and the kinds of values. No service needed."""

from typing import Any

import pytest

from tocsin.api import bodies, kinds, times
from tocsin.api.bodies import Decimal, File, Pairs, object_of
from tocsin.api.errors import Refusal
from tocsin.model import Invalid

MULTIPART = "multipart/form-data; boundary=b"


def multipart(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + value + b"\r\n" for head, value in parts) + b"--b--\r\n"


def part(name: str, more: str = "") -> str:
    return f'Content-Disposition: form-data; name="{name}"{more}'


def read(content: bytes, content_type: str) -> Pairs:
    return object_of(content, content_type, bodies.MEDIA_TYPES, ["handlers"])


def test_three_bodies_are_equal() -> None:
    wanted = {"name": "Störung & Co", "a": ""}
    assert read(multipart((part("name"), "Störung & Co".encode()), (part("a"), b"")), MULTIPART) == wanted
    assert read(b"name=St%C3%B6rung+%26+Co&a=", bodies.FORM) == wanted
    assert read('{"name": "Störung & Co", "a": ""}'.encode(), "Application/JSON; Charset=UTF-8") == wanted


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/json", MULTIPART, "multipart/form-data"])
def test_no_body_says_nothing(content_type: str) -> None:
    assert read(b"", content_type) == {}


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/xml", "multipart/mixed; boundary=b", ";;;"])
def test_other_media_types(content_type: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(b"x", content_type)
    assert (caught.value.fault.code, caught.value.fault.status) == ("unsupported_media_type", 415)


@pytest.mark.parametrize(
    ("content", "content_type"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'"x"', "application/json"),
        (b'{"a": NaN}', "application/json"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "application/json"),
        (b'{"a": "\xff"}', "application/json"),
        (b'{"a": "x"}', "application/json; charset=utf-16"),
        (b"[" * 100_000, "application/json"),
        (b'{"a":' * 100_000, "application/json"),
        (b"a=%FF", bodies.FORM),
        (b"a=\xff", bodies.FORM),
        (b"a=1", bodies.FORM + "; charset=iso-8859-1"),
        (b"nonsense", MULTIPART),
        (b"--b\r\nnonsense", MULTIPART),
        (multipart((part("a"), b"1"))[:-6], MULTIPART),
        (multipart((part("a"), b"\xff")), MULTIPART),
        (multipart(("Content-Disposition: form-data", b"1")), MULTIPART),
        (multipart((part("a") + "\r\nContent-Type: text/plain; charset=utf-16", b"1")), MULTIPART),
        (multipart((part("a") + "\r\nContent-Transfer-Encoding: base64", b"MQ==")), MULTIPART),
        (multipart((part("a"), b"1")), "multipart/form-data"),
        (multipart((part("a"), b"1")), "multipart/form-data; boundary=c"),
    ],
)
def test_unreadable(content: bytes, content_type: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(content, content_type)
    assert [(one.code, one.status) for one in caught.value.faults] == [("unreadable", 400)]


def test_what_comes_twice_is_told() -> None:
    assert read(b'{"a": 1, "b": {"c": 1, "c": 2}, "a": 2}', "application/json").repeated == ("a",)
    assert read(b'{"b": {"c": 1, "c": 2}}', "application/json")["b"].repeated == ("c",)
    assert read(b"a=1&a=2", bodies.FORM).repeated == ("a",)
    assert read(b"fields[x]=1&fields[x]=2", bodies.FORM)["fields"].repeated == ("x",)
    assert read(b"fields[x]=1&fields={}", bodies.FORM).repeated == ("fields",)


def test_forms_have_lists_and_objects() -> None:
    assert read(b"handlers=1&handlers[]=2&handlers=3,4", bodies.FORM) == {"handlers": ["1", "2", "3,4"]}
    assert read(b"fields[host]=db-1&fields[a b]=&fields%5Bc%5D=x", bodies.FORM) == {"fields": {"host": "db-1", "a b": "", "c": "x"}}
    assert read(b"fields[a[b]]=1", bodies.FORM) == {"fields": {"a[b]": "1"}}


def test_a_file_is_a_file() -> None:
    assert read(multipart((part("message", '; filename="x.txt"'), b"\xff\x00")), MULTIPART) == {"message": File()}


def test_json_keeps_numbers_as_written() -> None:
    given = read(b'\xef\xbb\xbf{"a": 0.10, "b": 1e400, "c": -0}', "application/json")
    assert given == {"a": "0.10", "b": "1e400", "c": 0}
    assert isinstance(given["a"], Decimal)


# ------------------------------------------------------------------------------------------------------------------ kinds


def code_of(kind: kinds.Kind, value: Any) -> str:
    with pytest.raises(Invalid) as caught:
        kind.read(value, "p")
    assert all((one.parameter or "").startswith("p") for one in caught.value.faults)
    return caught.value.faults[0].code


@pytest.mark.parametrize(
    "kind", [kinds.text(5), kinds.text(5, one_line=True), kinds.long_text(20), kinds.RAW, kinds.NAME, kinds.URL, kinds.TIME]
)
def test_no_text(kind: kinds.Kind) -> None:
    for value in (True, Decimal("1.5"), [], Pairs(())):
        assert code_of(kind, value) == "invalid"
    assert code_of(kind, "a\0") in {"unusable_text", "invalid"}
    assert code_of(kind, "a\ud800") in {"unusable_text", "invalid"}


def test_texts() -> None:
    assert kinds.text(3).read("a\x07\x1b", "p") == "a\x07\x1b"  # control characters are the renderers' business
    assert code_of(kinds.text(3), "abcd") == "too_long"
    assert kinds.text(5, one_line=True).read("a\r\nb\nc", "p") == "a b c"
    assert kinds.text(5, one_line=True).read("a\u2028b\x07", "p") == "a b\x07"
    assert code_of(kinds.long_text(9), " \n\t") == "required"
    assert code_of(kinds.long_text(9), "") == "required"
    assert kinds.long_text(9).read("가나다", "p") == "가나다"
    assert code_of(kinds.long_text(8), "가나다") == "too_long"
    assert kinds.RAW.read(-100123, "p") == "-100123"


@pytest.mark.parametrize("value", [True, 1, "1", "true", "TRUE", "Yes", "on", "ON"])
def test_true(value: Any) -> None:
    assert kinds.BOOLEAN.read(value, "p") is True


@pytest.mark.parametrize("value", [False, 0, "0", "false", "False", "NO", "off"])
def test_false(value: Any) -> None:
    assert kinds.BOOLEAN.read(value, "p") is False


@pytest.mark.parametrize("value", [2, -1, "", "maybe", "01", Decimal("1.0"), [], "ja"])
def test_no_boolean(value: Any) -> None:
    assert code_of(kinds.BOOLEAN, value) == "invalid"


def test_integers() -> None:
    assert kinds.integer(1, 9).read("9", "p") == 9
    for value in ("0", "10", "-1", "+1", "1.0", " 1", "１", "1" * 5000, "", True, Decimal("1.0"), None):
        assert code_of(kinds.integer(1, 9), value) == "invalid"
    assert code_of(kinds.one_of([10, 25]), "11") == "invalid_choice"


def test_handlers() -> None:
    assert kinds.HANDLERS.read([3, 1, 3, "2"], "p") == (3, 1, 2)
    assert kinds.HANDLERS.read("3, 1,,3", "p") == (3, 1)
    assert kinds.HANDLERS.read(7, "p") == (7,)
    assert kinds.HANDLERS.read([], "p") == kinds.HANDLERS.read("", "p") == kinds.HANDLERS.read(["", ""], "p") == ()
    for value in ("a", [0], [-1], [2**63], [True], [Decimal("1.0")], [[1]], Pairs(()), True, "1;2"):
        assert code_of(kinds.HANDLERS, value) == "invalid"
    assert code_of(kinds.HANDLERS, list(range(1, 10_002))) == "too_many_deliveries"


def test_fields() -> None:
    given = Pairs([("host", "db-1"), ("up", True), ("n", 5), ("load", Decimal("0.10")), ("empty", "")])
    wanted = (("host", "db-1"), ("up", "true"), ("n", "5"), ("load", "0.10"), ("empty", ""))
    assert kinds.FIELDS.read(given, "p") == wanted
    assert kinds.FIELDS.read('{"host": "db-1", "up": true, "n": 5, "load": 0.10, "empty": ""}', "p") == wanted
    assert kinds.FIELDS.read(Pairs([("n" * 256, "v" * 1024)]), "p")
    for value in ("x", "[]", "{", '{"a":' * 10_000, [], 1, Pairs([("a", None)]), Pairs([("a", [])]), Pairs([("", "x")])):
        assert code_of(kinds.FIELDS, value) == "invalid"
    for value in (Pairs([("n" * 257, "")]), Pairs([("n", "v" * 1025)]), Pairs((str(n), "") for n in range(26))):
        assert code_of(kinds.FIELDS, value) == "too_long"
    assert code_of(kinds.FIELDS, '{"a": 1, "a": 2}') == "repeated"
    for value in (Pairs([("a\0", "")]), Pairs([("a", "\0")]), Pairs([("\ud800", "")]), Pairs([("a", "\udfff")])):
        assert code_of(kinds.FIELDS, value) == "unusable_text"
    with pytest.raises(Invalid) as caught:
        kinds.FIELDS.read(Pairs([("a", []), ("b", "ok"), ("c", None)]), "p")
    assert [one.parameter for one in caught.value.faults] == ["p[a]", "p[c]"]


# ------------------------------------------------------------------------------------------------------------------ times


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-23 10:00:00", "2026-11-23 10:00:00"),
        ("2026-11-23T10:00:00Z", "2026-11-23 10:00:00"),
        ("2026-11-23t10:00:00.999999999z", "2026-11-23 10:00:00"),
        ("2026-11-23 10:00:00+01:00", "2026-11-23 09:00:00"),
        ("2026-11-23T23:30:00-23:30", "2026-11-24 23:00:00"),
        ("2016-12-31T23:59:60Z", "2017-01-01 00:00:00"),
        ("0001-01-01 00:00:00", "0001-01-01 00:00:00"),
        ("9999-12-31 23:59:59", "9999-12-31 23:59:59"),
    ],
)
def test_times(text: str, shown: str) -> None:
    assert times.show(times.read(text)) == shown


def test_fractions_of_a_second() -> None:
    assert times.read("1970-01-01T00:00:00.5Z") == 500_000
    assert times.read("1969-12-31T23:59:59.999999Z") == -1


@pytest.mark.parametrize(
    "text",
    [
        *("", "now", "2026-11-23", "2026-11-23T10:00:00", "2026-11-23 10:00", "2026-13-01 00:00:00", "2026-02-30 00:00:00", "1700000000"),
        *("2026-11-23 24:00:00", "2026-11-23 10:61:00", "2026-11-23T10:00:00+25:00", "2026-11-23T10:00:00+01:60", "2026-11-23 10:00:00\n"),
        *(
            "0000-01-01 00:00:00",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "２０２６-11-23 10:00:00",
            "2026-11-23 10:00:00.5",
        ),
    ],
)
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError):
        times.read(text)
