"""E-mail addresses: what is accepted, and the form that goes on the wire. Nothing is looked up."""

import functools
import re

import email_validator
from email_validator import EmailNotValidError, validate_email
from msgspec import Struct

MAX_LOCAL_BYTES = 64  # https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1.1

# Mail to root@localhost, alarm@nas.local or me@nas.home.arpa is what a machine at home wants. Taking names off this list is the library's
# own way to allow them: https://github.com/JoshData/python-email-validator#options
for _name in ("local", "localhost", "test", "arpa"):
    if _name in email_validator.SPECIAL_USE_DOMAIN_NAMES:
        email_validator.SPECIAL_USE_DOMAIN_NAMES.remove(_name)


class Address(Struct, frozen=True):
    """One mailbox. `domain` is in its ASCII form (IDNA), `local` as it is; `name` is the display name, mostly empty."""

    local: str
    domain: str
    name: str = ""

    @property
    def mailbox(self) -> str:
        return f"{self.local}@{self.domain}"


@functools.lru_cache(maxsize=1024)
def read_address(text: str) -> Address:
    """An address as a person wrote it. Local domains are fine, DNS is not asked.

    Raises ValueError with a sentence that does not repeat the address.
    """
    try:
        read = validate_email(text, check_deliverability=False, globally_deliverable=False, strict=True)
    except EmailNotValidError as error:
        raise ValueError(str(error)) from None
    if len(read.local_part.encode()) > MAX_LOCAL_BYTES:
        raise ValueError(f"The part before the @ sign takes at most {MAX_LOCAL_BYTES} bytes.")
    return Address(read.local_part, read.ascii_domain)


def normalized(text: str) -> str:
    """An address in the one form that it is kept in. Local domains are fine. Raises EmailNotValidError."""
    return validate_email(text, check_deliverability=False, globally_deliverable=False).normalized


def compared(text: str) -> str:
    """An address in the form in which two that mean the same are equal, whatever their case and form of the domain. Raises ValueError."""
    address = read_address(text)
    return f"{address.local.lower()}@{address.domain.lower()}"


def mailbox_of(text: str) -> str:
    """The same without what may follow a plus sign: mail to me+tag@ is mostly put into the mailbox of me@. Raises ValueError."""
    local, _, domain = compared(text).rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


def read_named_address(text: str) -> Address:
    """The same, where `Name <address>` is fine too; the name may be quoted and in any script."""
    match = re.fullmatch(r'\s*(?:"((?:[^"\\]|\\.)*)"|([^"<>]*?))\s*<([^<>]*)>\s*', text)
    if match is None:
        return read_address(text.strip())
    name = re.sub(r"\\(.)", r"\1", match[1]) if match[1] is not None else match[2]
    address = read_address(match[3].strip())
    return Address(address.local, address.domain, name.strip())
