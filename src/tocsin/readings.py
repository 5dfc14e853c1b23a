"""How the text of an option becomes its value: each raises ValueError with what it must be, and never repeats what was given."""

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

Networks: TypeAlias = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]
Ports: TypeAlias = tuple[range, ...]

MAX_SOCKET_PATH_BYTES = 107  # `sun_path`, with the NUL at its end: https://man7.org/linux/man-pages/man7/unix.7.html
MAX_PORT = 65535
EVERY_PORT: Ports = (range(MAX_PORT + 1),)
MAX_WAIT_DAYS = 36_500  # times beyond the year 9999 cannot be written
_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def text(value: str) -> str:
    return value


def boolean(value: str) -> bool:
    word = value.lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be on or off")


def whole(least: int, most: int) -> Callable[[str], int]:
    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value) or not least <= int(value) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(value)

    return read


def number(value: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value):
        raise ValueError("must be a number, 0 or more")
    return float(value)


def networks(value: str) -> Networks:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"must be networks in CIDR form, separated by commas ({error})") from None


def ports(value: str) -> Ports:
    found: list[range] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= MAX_PORT:
            raise ValueError(f"must be ports from 1 to {MAX_PORT} and ranges of them such as 8000-8099, separated by commas")
        found.append(range(first, last + 1))
    return tuple(found)


def no_proxy(value: str) -> tuple[str, ...]:
    parts = tuple(part.strip().lower() for part in value.split(",") if part.strip())
    for part in parts:
        if "/" in part:
            networks(part)
        elif not re.fullmatch(r"\*|[a-z0-9._-]+", part) and not _is_address(part.strip("[]")):
            raise ValueError("must be host names, addresses and networks, separated by commas, without ports")
    return parts


def hosts(value: str) -> tuple[str, ...]:
    parts = tuple(part.strip().lower() for part in value.split(",") if part.strip())
    for part in parts:
        if not re.fullmatch(r"\*|(?:\*\.)?[^\W_](?:[\w.-]*\w)?\.?", part) and not _is_address(part.strip("[]")):
            raise ValueError("must be host names and addresses without ports, separated by commas; *.example.com is every name below one")
    return parts


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def schedule(value: str) -> tuple[float, ...]:
    waits: list[float] = []
    for part in value.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,7}(?:\.[0-9]+)?)\s*(s|m|min|h|d|)\s*", part)
        if not match:
            raise ValueError("must be waits such as 5s,30s,5m,2h, separated by commas")
        waits.append(float(match[1]) * _UNITS[match[2]])
        if waits[-1] > MAX_WAIT_DAYS * 86_400:
            raise ValueError(f"must be no longer than {MAX_WAIT_DAYS:,} days each")
    return tuple(waits)


def time(value: str) -> float:
    waits = schedule(value)
    if len(waits) != 1:
        raise ValueError("must be a length of time, such as 3d")
    return waits[0]


def choice(*words: str) -> Callable[[str], str]:
    def read(value: str) -> str:
        if value.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return value.lower()

    return read


def _split(value: str) -> SplitResult:
    """urlsplit, whose own complaints repeat parts of the URL, and so of a password."""
    wrong, place = "cannot be read as a URL", ""
    try:
        parts = urlsplit(value)
        wrong, place = f"must have a port from 1 to {MAX_PORT}, or none", parts.netloc
        _ = parts.port
    except ValueError:
        if "@" in value and "@" not in place:
            wrong = "cannot be read as a URL: special characters in user and password must be percent-encoded"
        raise ValueError(wrong) from None
    return parts


def base_url(value: str) -> str:
    value = value.strip()  # as keys are: files and units add blanks and line ends
    parts = _split(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an http or https URL without a query")
    return value.rstrip("/")


def public_url(value: str) -> str:
    """It is handed out in links, so nobody's password may be in it."""
    if "@" in _split(value).netloc:
        raise ValueError("must not contain a user name or password: it appears in links")
    return base_url(value)


def socket_path(value: str) -> str:
    size = len(os.fsencode(value))
    if size > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"must be at most {MAX_SOCKET_PATH_BYTES} bytes long, as a path of a Unix socket, and has {size}")
    return value


def smtp_url(value: str) -> str:
    value = value.strip()
    parts = _split(value)
    if parts.scheme not in {"smtp", "smtps"} or not parts.hostname or parts.query not in {"", "tls=optional"}:
        raise ValueError("must read smtp://user:password@host:587 or smtps://..., with ?tls=optional at most")
    return value


def token_url(value: str) -> str:
    value = value.strip()
    parts = _split(value)
    is_here = parts.hostname in {"localhost", "127.0.0.1", "::1"}
    if parts.scheme != "https" and not (parts.scheme == "http" and is_here):
        raise ValueError("must be an https URL")
    if not parts.hostname or parts.username or parts.password or parts.fragment:
        raise ValueError("must be an https URL without user and fragment")
    return value


def issuer(value: str) -> str:
    """As the provider writes it, with a slash at its end or without: it is compared letter by letter."""
    value = token_url(value)
    if "?" in value:
        raise ValueError("must be an https URL without a query")
    return value


def domains(value: str) -> tuple[str, ...]:
    parts = tuple(part.strip().lower().removeprefix("@") for part in value.split(",") if part.strip())
    if any(not re.fullmatch(r"\*|[^\s@*/]+", part) for part in parts):
        raise ValueError("must be domains of e-mail addresses, such as example.com, separated by commas, or *")
    return parts


def addresses(value: str) -> tuple[str, ...]:
    parts = tuple(part.strip().lower() for part in value.split(",") if part.strip())
    if any(not re.fullmatch(r"[^\s@]+@[^\s@]+", part) for part in parts):
        raise ValueError("must be e-mail addresses, separated by commas")
    return parts


def claim(value: str) -> tuple[str, str]:
    name, _, wanted = value.partition("=")
    if not name.strip() or not wanted.strip():
        raise ValueError("must read name=value, such as groups=tocsin-admins")
    return name.strip(), wanted.strip()


def sign_out_url(value: str) -> str:
    value = value.strip()
    if not (value.startswith("/") and not value.startswith("//")):
        public_url(value)
    return value


def header_name(value: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}", value):
        raise ValueError("must be the name of a header, such as Remote-Email")
    return value.lower()


def ca_file(value: str) -> str:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(value)
    except OSError:  # ssl.SSLError is one
        raise ValueError("must name a readable file of certificates in PEM form") from None
    return str(Path(value).absolute())


def api_key(value: str) -> str:
    if not re.fullmatch(r"tk_[A-Za-z0-9]{20,200}", value):
        raise ValueError("must be tk_ and 20 or more letters and digits")
    return value


def database_url(value: str) -> str:
    value = value.strip()
    if value and not re.match(r"postgres(ql)?://[^/?]*(/|\?|$)", value):
        raise ValueError("must read postgresql://user:password@host/database, or be empty: then the store is SQLite in TOCSIN_DATA_DIR")
    return value
