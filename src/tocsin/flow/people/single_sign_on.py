"""Signing in elsewhere: at an OpenID provider, or at a proxy in front that names its user in a header."""

import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import structlog
from email_validator import EmailNotValidError
from msgspec import Struct

from tocsin import clock
from tocsin.clock import MINUTE, Micros
from tocsin.flow.people.administration import address_of
from tocsin.model import Fault, Invalid
from tocsin.ports.identities import Arrival, Arrived, Identities, Identity
from tocsin.ports.people import By
from tocsin.settings import Settings
from tocsin.vault import Vault, WrongKey, hash_api_key

if TYPE_CHECKING:
    from tocsin.net.openid import Claims, Provider

AWAY_LASTS: Micros = 10 * MINUTE  # at the provider
MAX_TO = 1000  # characters of the path somebody comes back to
ANY = "*"
log = structlog.get_logger(__name__)

_TOO_OLD = Fault("invalid", "Not signed in", "This sign-in took too long, or was begun in another window. Try again.", "email")
_NOT_SIGNED_IN = Fault("invalid", "Not signed in", "The provider did not sign you in. Try again.", "email")
_SOMEBODY_ELSE = Fault("invalid", "Not signed in", "At the provider you are somebody else than here. Sign in there as yourself.", "email")
_NOT_ALLOWED = Fault(
    "invalid", "Not signed in", "Your e-mail address at the provider is not verified, or not from a domain that may sign in here.", "email"
)
_NO_ADDRESS = Fault(
    "invalid",
    "Not signed in",
    "The proxy in front names no e-mail address. The operator can set TOCSIN_REMOTE_USER_HEADER to a header that does.",
    "email",
)
_UNUSABLE = Fault(
    "busy", "Not signed in", "The provider cannot be used at this moment. Try again later, or sign in with a password.", "email", 503
)
_DISABLED = Fault("invalid", "Not signed in", "This user is disabled. Ask an administrator.", "email")
_TAKEN = Fault(
    "invalid",
    "Not signed in",
    "The user with your address belongs to another account of the provider. The operator can change that (tocsin users set --unbind).",
    "email",
)
_UNKNOWN = Fault("invalid", "Not signed in", "There is no user for you here. Ask an administrator to invite your e-mail address.", "email")


class Away(Struct, frozen=True):
    """`url`: where the browser goes. `kept`: what it keeps meanwhile, sealed."""

    url: str
    kept: str


class Back(Struct, frozen=True):
    """Who has come back from the provider, and the path they wanted to go to. `again`: they were signed in, and have proved it."""

    user: int
    to: str
    again: bool


class _Kept(Struct, frozen=True):
    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    to: str
    again: int | None
    """Whose session it is that waits for a proof."""


class SingleSignOn:
    def __init__(
        self,
        settings: Settings,
        provider: "Provider | None",
        identities: Identities,
        vault: Vault,
        user_changed: Callable[[int], object] = bool,
    ) -> None:
        """`provider`: None where the settings name none. `user_changed` is told of users whose role may have been changed."""
        self._user_changed = user_changed
        self._settings = settings
        self._provider = provider
        self._identities = identities
        self._vault = vault

    @property
    def name(self) -> str:
        """Of the OpenID provider, for people; empty: there is none."""
        if self._provider is None:
            return ""
        return self._settings.oidc_name or urlsplit(self._settings.oidc_issuer or "").hostname or ""

    # --------------------------------------------------------------------------------------------- at the OpenID provider

    async def leave(self, redirect_uri: str, to: str, again: int | None = None) -> Away:
        """The way to the provider. `again`: the user who is signed in and has to prove it. Raises Invalid where it cannot be used now."""
        from tocsin.net.openid import Unusable

        kept = _Kept(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), redirect_uri, to[:MAX_TO], again)
        max_age = None if again is None else 0
        try:
            url = await self._there.way_there(redirect_uri, kept.state, kept.nonce, kept.verifier, max_age)
        except Unusable as unusable:
            raise _unusable(unusable) from None
        return Away(url, self._sealed(kept))

    async def come_back(self, answer: Mapping[str, str], sealed: str) -> Back:
        """Who has come back with this answer, in the browser that kept this. Raises Invalid."""
        from tocsin.net.openid import Refused, Unusable

        kept = self._opened(sealed)
        if kept is None or not secrets.compare_digest(answer.get("state", "").encode(), kept.state.encode()):
            raise Invalid(_TOO_OLD)
        max_age = None if kept.again is None else 0
        wanted = self._wanted_claims()
        try:
            code = await self._there.code_of(answer)
            claims = await self._there.claims(code, kept.redirect_uri, kept.nonce, kept.verifier, wanted, max_age)
        except Unusable as unusable:
            raise _unusable(unusable) from None
        except Refused as refused:
            log.warning("openid.refused", why=str(refused))
            raise Invalid(_NOT_SIGNED_IN) from None
        now = clock.now()
        if not await self._identities.use_up(hash_api_key(kept.state), now, now + AWAY_LASTS):
            log.warning("openid.refused", why="this sign-in was finished before")
            raise Invalid(_TOO_OLD)
        if kept.again is None:
            return Back(await self._user_of(claims), kept.to, again=False)
        known = await self._identities.arrive(self._identity(claims), None, creates=False, is_admin=None, at=now)
        if known.user != kept.again:
            raise Invalid(_SOMEBODY_ELSE)
        return Back(kept.again, kept.to, again=True)

    def _identity(self, claims: "Claims") -> Identity:
        return Identity(cast(str, self._settings.oidc_issuer), claims["sub"])

    async def _user_of(self, claims: "Claims") -> int:
        identity = self._identity(claims)
        domains = self._settings.oidc_domains
        email = _address(claims.get("email"))
        is_verified = _is_true(claims.get(self._settings.oidc_verified_claim))
        is_allowed = not domains or ANY in domains or (email is not None and email.rpartition("@")[2].lower() in domains)
        if domains and not (email and is_verified and is_allowed):
            log.warning("openid.refused", why=_objection(self._settings, email, is_verified), subject=identity.subject)
            raise Invalid(_NOT_ALLOWED)
        creates = bool(domains) and self._settings.oidc_create
        is_admin = self._is_admin(claims)
        arrived = await self._identities.arrive(identity, email if is_verified else None, creates, is_admin, clock.now())
        return self._let_in(arrived, "openid", identity.subject)

    def _wanted_claims(self) -> set[str]:
        named = self._settings.oidc_admin_claim
        return {"email", self._settings.oidc_verified_claim} | ({named[0].partition(".")[0]} if named is not None else set())

    def _is_admin(self, claims: "Claims") -> bool | None:
        """None where no claim decides about it."""
        if self._settings.oidc_admin_claim is None:
            return None
        name, wanted = self._settings.oidc_admin_claim
        value: object = claims.get(name)
        if value is None:  # as in `realm_access.roles`
            value = claims
            for part in name.split("."):
                value = cast("Mapping[str, object]", value).get(part) if isinstance(value, Mapping) else None
        values = cast("list[object]", value) if isinstance(value, list) else [value]
        return any(one == wanted or (isinstance(one, bool) and str(one).lower() == wanted.lower()) for one in values)

    async def way_out(self, redirect_uri: str) -> str | None:
        """Where to sign out at the provider, too; None where that cannot be said. The session here has ended by then."""
        from tocsin.net.openid import Unusable

        try:
            return await self._there.way_out(redirect_uri)
        except Unusable as unusable:
            log.warning("openid.unusable", why=str(unusable))
            return None

    @property
    def _there(self) -> "Provider":
        if self._provider is None:
            raise LookupError("no provider is set")
        return self._provider

    # ------------------------------------------------------------------------------------------------- named by a proxy

    async def arrive_by_header(self, value: str) -> int:
        """The user whom the proxy's header names. Raises Invalid."""
        email = _address(value)
        if email is None:
            log.warning("header.refused", why="TOCSIN_REMOTE_USER_HEADER does not hold an e-mail address")
            raise Invalid(_NO_ADDRESS)
        admins = self._settings.remote_user_admins
        is_admin = email.lower() in admins if admins else None
        arrived = await self._identities.arrive(None, email, self._settings.remote_user_create, is_admin, clock.now())
        return self._let_in(arrived, "header", email)

    def is_named(self, email: str, value: str) -> bool:
        """Whether the header names the user with this address."""
        return (_address(value) or "").lower() == email.lower()

    # ------------------------------------------------------------------------------------------------------- how it goes on

    def _let_in(self, arrived: Arrived, by: By, who: str) -> int:
        if arrived.keeps_role:
            log.warning("sign_on.last_administrator", by=by, who=who, why="they should be no administrator any more, and are the last one")
        if arrived.user is not None:
            self._user_changed(arrived.user)
            if arrived.how is not Arrival.KNOWN:
                log.info("sign_on.new", by=by, who=who, how=arrived.how.name.lower(), user=arrived.user)
            return arrived.user
        log.warning("sign_on.refused", by=by, who=who, why=arrived.how.name.lower())
        raise Invalid({Arrival.DISABLED: _DISABLED, Arrival.TAKEN: _TAKEN}.get(arrived.how, _UNKNOWN))

    def _sealed(self, kept: _Kept) -> str:
        values: dict[str, Any] = {name: getattr(kept, name) for name in _Kept.__struct_fields__}
        return self._vault.seal({"what": "openid", "until": clock.now() + AWAY_LASTS, **values}).decode()

    def _opened(self, sealed: str) -> _Kept | None:
        """None: it is none of ours, or too old."""
        try:
            found = self._vault.open(sealed.encode())
        except WrongKey:
            return None
        if found.pop("what", None) != "openid" or cast(int, found.pop("until")) <= clock.now():
            return None
        return _Kept(**cast("dict[str, Any]", found))


def _address(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        return address_of(value.strip())
    except EmailNotValidError:
        return None


def _is_true(value: object) -> bool:
    """Some providers write it as a text, or a number."""
    return value is True or (isinstance(value, str) and value.lower() in {"true", "1"}) or (isinstance(value, int) and value == 1)


def _objection(settings: Settings, email: str | None, is_verified: bool) -> str:
    if email is None:
        return "the provider names no e-mail address"
    if not is_verified:
        return f"the provider does not say in {settings.oidc_verified_claim} that the address is verified"
    return "the address is not of TOCSIN_OIDC_DOMAINS"


def _unusable(why: Exception) -> Invalid:
    log.error("openid.unusable", why=str(why))
    return Invalid(_UNUSABLE)
