"""The body of an e-mail with its MIME headers, byte for byte what `email.message.EmailMessage` makes of it.

EmailMessage parses each header that it is given and folds it again: that alone took two thirds of a short e-mail's rendering.
"""

from base64 import encodebytes
from binascii import b2a_base64
from email.quoprimime import body_encode

_MAX_LINE = 78  # bytes: longer lines and all non-ASCII text are encoded, so that no server needs 8BITMIME
_LINES_LOOKED_AT = 10  # the first lines, which decide how all are encoded
_VERSION = "MIME-Version: 1.0\n"


def text_body(text: str) -> bytes:
    """The text alone. Raises UnicodeEncodeError for lone surrogates."""
    return _wire(_part("plain", text, _VERSION))


def alternative_body(text: str, page: str, boundary: str) -> bytes:
    """The text, and the HTML page that says the same. Neither may contain `boundary`. Raises as `text_body` does."""
    head = f'{_VERSION}Content-Type: multipart/alternative;\n boundary="{boundary}"\n\n'
    plain, html = _part("plain", text), _part("html", page, _VERSION)
    return _wire(f"{head}--{boundary}\n{plain}\n--{boundary}\n{html}\n--{boundary}--\n")


def _part(subtype: str, content: str, version: str = "") -> str:
    encoding, encoded = _encoded(content)
    return f'Content-Type: text/{subtype}; charset="utf-8"\nContent-Transfer-Encoding: {encoding}\n{version}\n{encoded}'


def _wire(content: str) -> bytes:
    return content.replace("\n", "\r\n").encode("ascii")


def _encoded(content: str) -> tuple[str, str]:
    """The encoding's name and the encoded content: unchanged if possible, else in the encoding that is shorter for its first lines."""
    lines = content.encode().splitlines()
    if content.isascii() and max(map(len, lines), default=0) <= _MAX_LINE:
        return "7bit", _joined(lines)
    beginning = b"".join([line + b"\r\n" for line in lines[:_LINES_LOOKED_AT]])
    quoted = _quoted(_joined(lines[:_LINES_LOOKED_AT], "latin-1"))
    if len(quoted) > len(b2a_base64(beginning)):
        return "base64", encodebytes(b"\r\n".join(lines) + b"\r\n").decode("ascii")
    return "quoted-printable", quoted if len(lines) <= _LINES_LOOKED_AT else _quoted(_joined(lines, "latin-1"))


def _joined(lines: list[bytes], charset: str = "ascii") -> str:
    return (b"\n".join(lines) + b"\n").decode(charset)


def _quoted(content: str) -> str:
    return body_encode(content, _MAX_LINE)
