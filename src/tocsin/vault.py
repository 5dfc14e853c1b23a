"""Secrets: encryption at rest with rotation, masking, scrubbing, and the hashes of keys and passwords."""

import base64
import hashlib
import hmac
import json
import re
import secrets
import string
from collections.abc import Mapping, Sequence
from html.entities import codepoint2name

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from tocsin import caches
from tocsin.model import MASK, Hidden

_BASE62 = string.digits + string.ascii_letters
_SHORTEST_SCRUBBED = 6  # a shorter "secret" would blank out parts of ordinary words of an answer
_SHORTEST_WORD = 3
_MAC_BYTES = 16  # of a link's signature
_NEVER_ESCAPED = re.compile(r"[0-9A-Za-z]+")
# Of the settings that OWASP calls equally strong, the one with the least memory: a sign-in must not use half as much as the service.
# https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id
_passwords = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


class WrongKey(Exception):
    """None of the keys opens this."""


class Vault:
    """Encrypts with the first key, decrypts with any (https://cryptography.io/en/latest/fernet/)."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.use(keys)

    def use(self, keys: Sequence[str]) -> None:
        """Use these keys from now on."""
        if not keys:
            raise ValueError("a vault needs a key")
        self._fernet = MultiFernet([Fernet(_fernet_key(key)) for key in keys])
        self._marking = [hashlib.sha256(b"tocsin marks\0" + key.strip().encode()).digest() for key in keys]
        self._signing = [hashlib.sha256(b"tocsin links\0" + key.strip().encode()).digest() for key in keys]

    def opens(self, sealed: bytes) -> bool:
        """Whether one of the keys opens it."""
        try:
            self._fernet.decrypt(sealed)
        except InvalidToken:
            return False
        return True

    def seal(self, values: Mapping[str, object]) -> bytes:
        return self._fernet.encrypt(json.dumps(values).encode())

    def open(self, sealed: bytes) -> dict[str, object]:
        """Raises WrongKey."""
        try:
            return json.loads(self._fernet.decrypt(sealed))
        except InvalidToken:
            raise WrongKey from None

    def mark(self, text: str) -> bytes:
        """Stands for the text where the text itself is not to be kept; it cannot be found by trying without the key. 32 bytes."""
        return hmac.digest(self._marking[0], text.encode(), "sha256")

    def marks(self, text: str) -> tuple[bytes, ...]:
        """The mark, and those under the other keys: what was kept before a rotation."""
        return tuple(hmac.digest(key, text.encode(), "sha256") for key in self._marking)

    def sign(self, purpose: str, content: bytes) -> str:
        """The content with a signature, as it may stand in a URL: not secret, and good for this purpose only. Always the same text."""
        return _in_url(content + _signature(self._signing[0], purpose, content))

    def verify(self, purpose: str, signed: str) -> bytes | None:
        """The content; None: none of the keys has signed this, or for another purpose."""
        try:
            whole = base64.b64decode(signed + "=" * (-len(signed) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        content, given = whole[:-_MAC_BYTES], whole[-_MAC_BYTES:]
        is_ours = any(hmac.compare_digest(given, _signature(key, purpose, content)) for key in self._signing)
        return content if is_ours and _in_url(whole) == signed else None

    def rotate(self, sealed: bytes) -> bytes:
        """The same content under the first key. Raises WrongKey."""
        try:
            return self._fernet.rotate(sealed)
        except InvalidToken:
            raise WrongKey from None


def _signature(key: bytes, purpose: str, content: bytes) -> bytes:
    return hmac.digest(key, purpose.encode() + b"\0" + content, "sha256")[:_MAC_BYTES]


def _in_url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _fernet_key(key: str) -> bytes:
    return base64.urlsafe_b64encode(hashlib.sha256(b"tocsin settings\0" + key.strip().encode()).digest())


def new_secret_key() -> str:
    return secrets.token_urlsafe(32)


def random_base62(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def new_api_key() -> str:
    """`tk_` and 32 random bytes in base62 (43 digits)."""
    number = int.from_bytes(secrets.token_bytes(32))
    digits: list[str] = []
    for _ in range(43):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return "tk_" + "".join(digits)


def shown_key(key: str) -> str:
    """The beginning of a key: enough to tell it from others."""
    return key[:7]


def new_signing_secret() -> str:
    """A Standard Webhooks secret (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md)."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def hash_api_key(key: str) -> bytes:
    """Keys are long and random, so one round of SHA-256 is enough and quick."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def hash_password(password: str) -> str:
    return _passwords.hash(password)


def hash_of_nothing() -> str:
    """Looks like a password's hash but belongs to no password: checking it takes as long."""
    salt, digest = (base64.b64encode(secrets.token_bytes(size)).decode().rstrip("=") for size in (_passwords.salt_len, _passwords.hash_len))
    costs = f"m={_passwords.memory_cost},t={_passwords.time_cost},p={_passwords.parallelism}"
    return f"$argon2id$v=19${costs}${salt}${digest}"


def check_password(hashed: str, password: str) -> bool:
    try:
        return _passwords.verify(hashed, password)
    except (VerificationError, InvalidHashError):
        return False


def is_hash_of_old(hashed: str) -> bool:
    """Whether it was made with other costs than today's: checking it takes longer or shorter than any other."""
    return _passwords.check_needs_rehash(hashed)


def hash_recovery_code(code: str, salt: bytes | None = None) -> bytes:
    """Salt and SHA-256: recovery codes are random, and long enough for one round."""
    salt = salt or secrets.token_bytes(16)
    return salt + hashlib.sha256(salt + code.encode("utf-8", "surrogatepass")).digest()


def is_recovery_code(hashed: bytes, code: str) -> bool:
    return hmac.compare_digest(hashed, hash_recovery_code(code, hashed[:16]))


def hide_all(value: str) -> Hidden:
    """Nothing of the value stays."""
    return Hidden(MASK, (value,)) if value else Hidden("", ())


def scrub(text: str, hidden: Sequence[str]) -> str:
    """`text` without the secrets in it, in every form: plain, percent-encoded, or escaped in JSON or HTML.

    Secrets of three to five characters go only where they are a word of their own, in their own case: parts of other words stay.
    """
    if len(text) < _SHORTEST_WORD or not hidden:
        return text
    traces, pattern = _scrubber(tuple(hidden))
    lower = text.lower()
    for trace in traces:  # a generator would take twice as long
        if trace in lower:
            return pattern.sub(MASK, text)
    return text


@caches.of_secrets(4096)
def _scrubber(hidden: tuple[str, ...]) -> tuple[tuple[str, ...], re.Pattern[str]]:
    """What of the secrets is in a text however they are written, for a look that is a hundred times as quick, and all their forms."""
    longest_first = sorted({secret for secret in hidden if len(secret) >= _SHORTEST_WORD}, key=len, reverse=True)
    forms = [_in_every_form(secret) if len(secret) >= _SHORTEST_SCRUBBED else _as_a_word(secret) for secret in longest_first]
    traces = {max(_NEVER_ESCAPED.findall(secret), key=len, default="").lower() for secret in longest_first}
    shortest = tuple(one for one in traces if not any(other in one for other in traces if other != one))
    return shortest, re.compile("|".join(forms), re.IGNORECASE)


def _as_a_word(secret: str) -> str:
    before, after = (r"(?<!\w)" if secret[0].isalnum() else ""), (r"(?!\w)" if secret[-1].isalnum() else "")
    return f"(?-i:{before}{_in_every_form(secret)}{after})"


def _in_every_form(secret: str) -> str:
    return "".join(one if one.isascii() and one.isalnum() else _forms(one) for one in secret)


def _forms(character: str) -> str:
    """What a character that is no ASCII letter or digit may look like in an answer."""
    percent = "".join(f"%(?i:{byte:02x})" for byte in character.encode("utf-8", "surrogatepass"))
    units = character.encode("utf-16-be", "surrogatepass").hex()
    json_units = "".join(rf"\\u(?i:{units[at : at + 4]})" for at in range(0, len(units), 4))
    code, name = ord(character), codepoint2name.get(ord(character))
    entity = f"#0*{code}|#(?i:x0*{code:x})" + (f"|{name}" if name else "")
    plus = "|[+]" if character == " " else ""
    return rf"(?:\\?(?:{re.escape(character)}|(?:&|\\u0026|%26)(?:amp;)*(?:{entity});)|{percent}|{json_units}{plus})"


def fingerprint(text: str) -> str:
    """16 hex digits that stand for a secret, in pacing keys for instance."""
    return hashlib.sha256(b"tocsin fingerprint\0" + text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
