"""A second factor beside the password: time-based codes (RFC 6238), and recovery codes for users who have lost their app."""

import secrets
import unicodedata
from typing import cast

import structlog
from msgspec import Struct

from tocsin import clock
from tocsin.clock import HOUR, MINUTE, SECOND, Micros
from tocsin.flow.people.accounts import Accounts, CodeWanted, Opened
from tocsin.flow.people.clients import Client, Visitor
from tocsin.flow.people.failures import Failures
from tocsin.flow.people.tries import Counted, Tries
from tocsin.model import Fault, Invalid
from tocsin.ports.audit import Act
from tocsin.ports.people import By
from tocsin.ports.second_factors import SecondFactor, SecondFactorRows
from tocsin.settings import Settings
from tocsin.vault import Vault, WrongKey, hash_recovery_code, is_recovery_code

DRIFT_STEPS = 1  # of 30 s, by which the clock of the app may be ahead or behind
RECOVERY_CODES = 10
HALFWAY_LASTS: Micros = 10 * MINUTE  # between the password and the code
SETTING_UP_LASTS: Micros = HOUR
_DIGITS = 6
_MAX_TYPED = 64  # characters
# 16 of these 32 are 80 bits. None of them is easily taken for another.
_ALPHABET, _LENGTH, _GROUP = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789", 16, 4
_VOUCHED_FOR = ("openid", "header")  # ways in where asking for a second factor is somebody else's duty
_UNREADABLE = Fault(
    "invalid",
    "Not possible",
    "The secret of your second factor cannot be read. Use a recovery code, or ask the operator to reset it.",
    "code",
)
log = structlog.get_logger(__name__)


class Setup(Struct, frozen=True):
    """What an app needs. `uri`: for its QR code. `sealed`: the same for us, given back with the first code: nothing is kept before that."""

    secret: str
    uri: str
    sealed: str

    def __repr__(self) -> str:
        return "Setup(...)"


class Standing(Struct, frozen=True):
    """`codes`: how many recovery codes are left."""

    since: Micros
    codes: int


class SecondFactors:
    def __init__(
        self, rows: SecondFactorRows, accounts: Accounts, tries: Tries, vault: Vault, settings: Settings, failures: Failures
    ) -> None:
        self._rows = rows
        self._accounts = accounts
        self._tries = tries
        self._failures = failures
        self._vault = vault
        self._required = settings.require_second_factor

    # ---------------------------------------------------------------------------------------------------- who has one

    async def standing(self, user: int) -> Standing | None:
        """None: they have none."""
        found = await self._rows.of(user)
        return None if found is None else Standing(found.created_at, len(found.codes))

    def is_required(self, visitor: Visitor) -> bool:
        """Whether the operator wants one of them. Where a provider or a proxy has signed them in, it is that one's duty to ask."""
        if visitor.by in _VOUCHED_FOR:
            return False
        return self._required == "all" or (self._required == "admins" and visitor.is_admin)

    async def is_missing(self, visitor: Visitor) -> bool:
        return self.is_required(visitor) and await self._rows.of(visitor.id) is None

    # -------------------------------------------------------------------------------------------------- setting one up

    def begin(self, visitor: Visitor, host: str) -> Setup:
        """A new secret. `host` tells this service from others in the app."""
        import pyotp

        return self._setup(visitor, pyotp.random_base32(), host)

    def again(self, visitor: Visitor, sealed: str, host: str) -> Setup:
        """The same secret once more, after a wrong code; a new one if it is too old."""
        secret = self._opened_setup(visitor, sealed)
        return self.begin(visitor, host) if secret is None else self._setup(visitor, secret, host)

    def _setup(self, visitor: Visitor, secret: str, host: str) -> Setup:
        from pyotp.totp import TOTP

        uri = TOTP(secret).provisioning_uri(name=visitor.email, issuer_name=f"tocsin {host}".replace(":", " ").strip())
        return Setup(secret, uri, self._sealed("set up", SETTING_UP_LASTS, user=visitor.id, secret=secret))

    async def confirm(self, visitor: Visitor, sealed: str, code: str, client: Client) -> tuple[str, ...]:
        """Set it up with the first code of the app; returns the recovery codes, which nothing can show again. Raises Invalid, Throttled."""
        secret = self._opened_setup(visitor, sealed)
        if secret is None:
            raise Invalid(Fault("invalid", "Too old", "This secret was shown too long ago. Here is a new one: add it to your app.", "code"))
        async with self._tries.one(_counted(visitor.id, client)) as attempt:
            step = _step_of(secret, _typed(code))
            attempt.is_right = step is not None
        if step is None:
            raise _wrong()
        codes = _new_codes()
        hashes = [hash_recovery_code(_plain(one)) for one in codes]
        if not await self._rows.add(visitor.id, self._vault.seal({"secret": secret}), step, hashes, clock.now()):
            raise Invalid(Fault("invalid", "Not possible", "You have set up a second factor already, in another window.", "code"))
        log.info("second_factor.set_up", user=visitor.id)
        return codes

    def _opened_setup(self, visitor: Visitor, sealed: str) -> str | None:
        found = self._opened("set up", sealed)
        return cast(str, found["secret"]) if found is not None and found["user"] == visitor.id else None

    # ------------------------------------------------------------------------------------------------------ signing in

    def halfway(self, wanted: CodeWanted) -> str:
        """What the browser keeps between the password and the code."""
        return self._sealed("sign in", HALFWAY_LASTS, user=wanted.user, by=wanted.by, proof=wanted.proof)

    def is_halfway(self, token: str) -> bool:
        return self._opened("sign in", token) is not None

    async def finish(self, token: str, code: str, client: Client) -> Opened | None:
        """A new session; None if the code is wrong, or the password has been changed meanwhile. Raises Invalid where it took too long,
        Throttled, Busy.
        """
        found = self._opened("sign in", token)
        if found is None:
            raise Invalid(Fault("invalid", "Too old", "This took too long. Enter your password again.", "code"))
        user, by, proof = cast(int, found["user"]), cast(By, found["by"]), cast(str, found["proof"])
        if not await self._is_right(user, code, client):
            await self._failures.note(Act.SIGN_IN_FAILED, client.address, client.counted_as, user, by="code")
            return None
        if by == "password":
            return await self._accounts.new_session_by_password(user, proof, client)
        return await self._accounts.new_session(user, by, client)

    # ------------------------------------------------------------------------------------------------------- afterwards

    async def is_right(self, visitor: Visitor, code: str, client: Client) -> bool:
        """Whether it is a code of theirs, which is used up by this. Raises Throttled."""
        return await self._is_right(visitor.id, code, client)

    async def renew_codes(self, visitor: Visitor, code: str, client: Client) -> tuple[str, ...]:
        """New recovery codes in place of all others. Raises Invalid, Throttled."""
        await self._check(visitor, code, client)
        codes = _new_codes()
        if not await self._rows.renew_codes(visitor.id, [hash_recovery_code(_plain(one)) for one in codes]):
            raise _wrong()
        log.info("second_factor.codes_renewed", user=visitor.id)
        return codes

    async def remove(self, visitor: Visitor, code: str, client: Client) -> None:
        """Raises Invalid, Throttled."""
        if self.is_required(visitor):
            raise Invalid(Fault("invalid", "Not possible", "The operator of this service requires a second factor, so it stays.", "code"))
        await self._check(visitor, code, client)
        await self._rows.remove(visitor.id)
        log.info("second_factor.removed", user=visitor.id)

    async def _check(self, visitor: Visitor, code: str, client: Client) -> None:
        if not await self._is_right(visitor.id, code, client):
            await self._failures.note(Act.NOT_CONFIRMED, client.address, client.counted_as, visitor.id, by="code")
            raise _wrong()

    async def _is_right(self, user: int, code: str, client: Client) -> bool:
        typed = _typed(code)
        is_code = typed.isdigit() and len(typed) == _DIGITS
        # Recovery codes are too long to guess, so with one of them the owner gets in however many codes others have tried.
        counted = _counted(user, client) if is_code else Counted(f"{_address(client)} recovery of {user}", (_address(client),))
        async with self._tries.one(counted) as attempt:
            factor = await self._rows.of(user)
            is_right = factor is not None and await (self._use_step if is_code else self._use_recovery_code)(user, factor, typed)
            attempt.is_right = is_right
        return is_right

    async def _use_step(self, user: int, factor: SecondFactor, typed: str) -> bool:
        try:
            secret = cast(str, self._vault.open(factor.secret)["secret"])
        except WrongKey:
            log.error("second_factor.unreadable", user=user, why="no key in use opens its secret: `tocsin users set` can reset it")
            raise Invalid(_UNREADABLE) from None
        step = _step_of(secret, typed)
        return step is not None and await self._rows.use_step(user, step)

    async def _use_recovery_code(self, user: int, factor: SecondFactor, typed: str) -> bool:
        for hashed in factor.codes:
            if is_recovery_code(hashed, _plain(typed)):
                if not await self._rows.use_code(user, hashed):
                    return False
                log.warning("second_factor.recovery_code_used", user=user, left=len(factor.codes) - 1)
                return True
        return False

    # ------------------------------------------------------------------------------------- what the browser keeps for us

    def _sealed(self, what: str, lasts: Micros, **values: object) -> str:
        return self._vault.seal({"what": f"second factor: {what}", "until": clock.now() + lasts, **values}).decode()

    def _opened(self, what: str, sealed: str) -> dict[str, object] | None:
        """None: it is none of ours, or too old."""
        try:
            found = self._vault.open(sealed.encode())
        except WrongKey:
            return None
        return found if found.get("what") == f"second factor: {what}" and cast(int, found["until"]) > clock.now() else None


def _counted(user: int, client: Client) -> Counted:
    return Counted(f"{_address(client)} codes of {user}", (_address(client), f"codes of {user}"))


def _address(client: Client) -> str:
    return f"address {client.counted_as}"


def _wrong() -> Invalid:
    return Invalid(Fault("invalid", "Not a usable value", "This code is wrong, or was used before.", "code"))


def _typed(code: str) -> str:
    """As it is meant: people type full-width digits, lower case, and spaces and hyphens as they are shown."""
    text = unicodedata.normalize("NFKC", code[:_MAX_TYPED]).upper()
    return "".join(one for one in text if one.isascii() and one.isalnum())


def _plain(code: str) -> str:
    return code.replace("-", "")


def _new_codes() -> tuple[str, ...]:
    return tuple(_new_code() for _ in range(RECOVERY_CODES))


def _new_code() -> str:
    code = "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))
    return "-".join(code[start : start + _GROUP] for start in range(0, _LENGTH, _GROUP))


def _step_of(secret: str, code: str) -> int | None:
    """The time step whose code it is: the present one, or one beside it."""
    from pyotp.exceptions import OTPVerificationError
    from pyotp.totp import TOTP

    try:
        return TOTP(secret).verify_and_get_timecode(code, for_time=clock.now() / SECOND, valid_window=DRIFT_STEPS)
    except OTPVerificationError:
        return None
