"""An OpenID provider as a client sees it: discovery, the way there, and what comes back (https://openid.net/specs/openid-connect-core-1_0.html).

Authlib has the rules of the protocol, joserfc (of the same authors) the signatures; requests go through our own wire. It is loaded only
where a provider is set: it takes 15 MB.
"""

import re
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, TypeAlias, cast
from urllib.parse import quote_plus, urlsplit

import msgspec
import structlog
from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import rfc7636
from authlib.oauth2.rfc6749 import parameters
from authlib.oidc.core import CodeIDToken
from joserfc import jws, jwt
from joserfc.errors import BadSignatureError, InvalidKeyIdError, JoseError
from joserfc.jwk import Key, import_key
from msgspec import Struct

from tocsin.model import HttpReply, HttpRequest, NoReply
from tocsin.settings import Settings

# Signatures that only the provider can make. Neither `none` nor the client secret's are among them.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519")
METADATA_LASTS_SECONDS, KEYS_LAST_SECONDS = 3600.0, 3600.0
LEEWAY_SECONDS = 60  # between the provider's clock and ours
MAX_SUBJECT = 255  # https://openid.net/specs/openid-connect-core-1_0.html#IDToken
MAX_TOKEN, MAX_KEYS = 32_768, 50
_MAX_SAID = 200
_ERROR = re.compile(r"[\x21\x23-\x5b\x5d-\x7e ]{1,60}")  # https://datatracker.ietf.org/doc/html/rfc6749#section-4.1.2.1
log = structlog.get_logger(__name__)

Post: TypeAlias = Callable[[HttpRequest], Awaitable[HttpReply | NoReply]]
Claims: TypeAlias = Mapping[str, Any]


class Client(Struct, frozen=True):
    """This service at its provider. `scope`: words separated by spaces."""

    issuer: str
    client_id: str
    client_secret: str
    scope: str

    def __repr__(self) -> str:
        return f"Client({urlsplit(self.issuer).hostname})"


def client_of(settings: Settings) -> Client:
    """As TOCSIN_OIDC_… say."""
    return Client(settings.oidc_issuer or "", settings.oidc_client_id or "", settings.oidc_client_secret or "", settings.oidc_scopes)


class Unusable(Exception):
    """The provider cannot be used now: it does not answer, or not as it should. The text is for the operator."""


class Refused(Exception):
    """What came back does not show who somebody is. The text is for the operator."""


class Metadata(Struct, frozen=True):
    """https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata"""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class Provider:
    """`clock` counts seconds, `now` is the time since 1970."""

    def __init__(
        self, client: Client, send: Post, clock: Callable[[], float] = time.monotonic, now: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._send = send
        self._clock = clock
        self._now = now
        self._metadata: tuple[Metadata, float] | None = None
        self._keys: tuple[list[Key], float] | None = None

    # ------------------------------------------------------------------------------------------------------------ discovery

    async def metadata(self) -> Metadata:
        """What the provider says of itself, an hour old at most; older where it does not answer. Raises Unusable."""
        known = self._metadata
        if known is not None and self._clock() - known[1] < METADATA_LASTS_SECONDS:
            return known[0]
        try:
            found = await self._discovered()
        except Unusable as error:
            if known is None:
                raise
            log.warning("openid.metadata_old", why=str(error))
            return known[0]
        self._metadata = (found, self._clock())
        return found

    async def _discovered(self) -> Metadata:
        url = f"{self._client.issuer.rstrip('/')}/.well-known/openid-configuration"
        answer = await self._json(_get(url), "its discovery document")
        try:
            found = msgspec.convert(answer, Metadata)
        except msgspec.ValidationError as error:
            raise Unusable(f"{url} does not describe an OpenID provider: {error}") from None
        if found.issuer != self._client.issuer:
            raise Unusable(f"the provider calls itself {found.issuer[:_MAX_SAID]!r}: set TOCSIN_OIDC_ISSUER to exactly that")
        endpoints = (
            found.authorization_endpoint,
            found.token_endpoint,
            found.jwks_uri,
            found.userinfo_endpoint,
            found.end_session_endpoint,
        )
        for endpoint in endpoints:
            if endpoint is not None and not _is_as_safe(endpoint, self._client.issuer):
                raise Unusable(f"{endpoint[:_MAX_SAID]!r}, an address of the provider, is not https as TOCSIN_OIDC_ISSUER is")
        return found

    async def check(self) -> None:
        """See whether it can be used: what it says of itself, and its keys. Raises Unusable."""
        await self._known_keys(await self.metadata(), 0.0)

    # ------------------------------------------------------------------------------------------------------- there and back

    async def way_there(self, redirect_uri: str, state: str, nonce: str, verifier: str, max_age: int | None = None) -> str:
        """Where to send the browser. `max_age`: how many seconds ago they may have proved who they are; 0 makes them do it again.

        Raises Unusable.
        """
        found = await self.metadata()
        more: dict[str, str] = {} if max_age is None else {"max_age": str(max_age), "prompt": "login"}
        more |= {"nonce": nonce, "code_challenge": cast(str, rfc7636.create_s256_code_challenge(verifier)), "code_challenge_method": "S256"}
        client = self._client
        given = (found.authorization_endpoint, client.client_id, "code", redirect_uri, client.scope, state)
        return cast(str, parameters.prepare_grant_uri(*given, **more))

    async def code_of(self, answer: Mapping[str, str]) -> str:
        """The code that the browser brought. Raises Refused, Unusable."""
        found = await self.metadata()
        issuer = answer.get("iss")
        if issuer is None and found.authorization_response_iss_parameter_supported:
            raise Refused("the answer does not say which provider it is from (RFC 9207)")
        if issuer is not None and issuer != found.issuer:
            raise Refused(f"the answer is from another provider, {issuer[:_MAX_SAID]!r}")
        if "error" in answer:
            word = answer["error"] if _ERROR.fullmatch(answer["error"]) else "an error"
            raise Refused(f"the provider said {word}: {' '.join(answer.get('error_description', '').split())[:_MAX_SAID]}")
        code = answer.get("code", "")
        if not code:
            raise Refused("the answer brings no code")
        return code

    async def claims(
        self, code: str, redirect_uri: str, nonce: str, verifier: str, wanted: Collection[str], max_age: int | None = None
    ) -> Claims:
        """What the provider says of the person who came back with this code, all checked. `wanted`: claims that the ID token may lack.

        Raises Refused, Unusable.
        """
        found = await self.metadata()
        tokens = await self._redeemed(found, code, redirect_uri, verifier)
        id_token, access_token = tokens.get("id_token"), tokens.get("access_token")
        if not isinstance(id_token, str) or len(id_token) > MAX_TOKEN:
            raise Refused("the provider's answer holds no ID token")
        claims = await self._checked(found, id_token, access_token if isinstance(access_token, str) else None, nonce, max_age)
        return claims if claims.keys() >= set(wanted) else await self._with_user_info(found, claims, access_token)

    async def _redeemed(self, found: Metadata, code: str, redirect_uri: str, verifier: str) -> Claims:
        client, headers = self._client, [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")]
        more = {"code": code, "code_verifier": verifier}
        methods = found.token_endpoint_auth_methods_supported
        if not client.client_secret:
            more["client_id"] = client.client_id
        elif "client_secret_basic" in methods or "client_secret_post" not in methods:
            # Both are form-encoded first: https://datatracker.ietf.org/doc/html/rfc6749#section-2.3.1
            login = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"
            headers.append(("authorization", f"Basic {b64encode(login.encode()).decode()}"))
        else:
            more |= {"client_id": client.client_id, "client_secret": client.client_secret}
        body = parameters.prepare_token_request("authorization_code", redirect_uri=redirect_uri, **more)
        request = HttpRequest(found.token_endpoint, found.token_endpoint, body.encode(), tuple(headers), guarded=False, repeats=False)
        reply = await self._send(request)
        if isinstance(reply, HttpReply) and 400 <= reply.status < 500:
            answer = _object(reply.body) or {}
            error = str(answer.get("error", ""))
            word = error if _ERROR.fullmatch(error) else "no reason"
            if word == "invalid_client":
                raise Unusable("the provider refuses TOCSIN_OIDC_CLIENT_ID and TOCSIN_OIDC_CLIENT_SECRET")
            raise Refused(f"the provider did not take the code: it answered {reply.status}, {word}")
        return self._read(reply, "its tokens")

    async def _with_user_info(self, found: Metadata, claims: Claims, access_token: object) -> Claims:
        """Some providers name the address only there (https://openid.net/specs/openid-connect-core-1_0.html#UserInfo)."""
        if found.userinfo_endpoint is None or not isinstance(access_token, str) or not re.fullmatch(r"[\x21-\x7e]+", access_token):
            return claims
        more = await self._json(_get(found.userinfo_endpoint, ("authorization", f"Bearer {access_token}")), "what it knows of the user")
        if more.get("sub") != claims["sub"]:
            raise Refused("the provider's user information is of somebody else")
        return {**more, **claims}

    async def way_out(self, redirect_uri: str) -> str | None:
        """Where the browser signs out at the provider, too; None: it has no such address. Raises Unusable."""
        endpoint = (await self.metadata()).end_session_endpoint
        if endpoint is None:
            return None
        return add_params_to_uri(endpoint, [("client_id", self._client.client_id), ("post_logout_redirect_uri", redirect_uri)])

    # ---------------------------------------------------------------------------------------------------------- the ID token

    async def _checked(self, found: Metadata, id_token: str, access_token: str | None, nonce: str, max_age: int | None) -> Claims:
        token = await self._verified(found, id_token)
        options: dict[str, Any] = {
            "iss": {"essential": True, "value": found.issuer},
            "aud": {"essential": True, "value": self._client.client_id},
        }
        params = {"nonce": nonce, "client_id": self._client.client_id, "access_token": access_token}
        try:
            claims = CodeIDToken(token.claims, token.header, options, params)
            claims.validate(int(self._now()), LEEWAY_SECONDS)
        except (JoseError, TypeError, ValueError, KeyError, OverflowError, AttributeError) as error:
            raise Refused(f"the ID token is not valid: {_said(error)}") from None
        subject = token.claims["sub"]
        if not 0 < len(subject) <= MAX_SUBJECT or "\0" in subject:
            raise Refused("the ID token names no subject that can be kept")
        if max_age is not None and not _is_since(token.claims.get("auth_time"), self._now() - max_age - LEEWAY_SECONDS):
            raise Refused("the provider did not ask again who it is (`auth_time`)")
        return token.claims

    async def _verified(self, found: Metadata, id_token: str) -> jwt.Token:
        """The token, if one of the provider's keys has signed it. A new key is asked for by the first token that it signed."""
        try:
            return self._signed(id_token, await self._known_keys(found, KEYS_LAST_SECONDS))
        except (BadSignatureError, InvalidKeyIdError):
            pass
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise Refused(f"the ID token cannot be read: {_said(error)}") from None
        try:
            return self._signed(id_token, await self._known_keys(found, 0.0))
        except (JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise Refused(f"no key of the provider has signed the ID token: {_said(error)}") from None

    def _signed(self, id_token: str, keys: list[Key]) -> jwt.Token:
        header = jws.extract_compact(id_token.encode()).headers()
        kid = header.get("kid")
        fitting = [key for key in keys if kid is None or key.kid == kid]
        if not fitting:
            raise InvalidKeyIdError
        for key in fitting[:-1]:
            try:
                return jwt.decode(id_token, key, algorithms=ALGORITHMS)
            except (JoseError, ValueError, TypeError):
                continue  # of another kind, or not the one
        return jwt.decode(id_token, fitting[-1], algorithms=ALGORITHMS)

    async def _known_keys(self, found: Metadata, age_seconds: float) -> list[Key]:
        """Those that the provider signs with, fetched again if they are older than that. Raises Unusable."""
        known = self._keys
        if known is not None and self._clock() - known[1] < age_seconds:
            return known[0]
        answer = await self._json(_get(found.jwks_uri), "its keys")
        listed = answer.get("keys")
        keys = [key for one in cast(list[Any], listed)[:MAX_KEYS] if (key := _key(one)) is not None] if isinstance(listed, list) else []
        if not keys:
            raise Unusable(f"{found.jwks_uri} lists no key that signatures can be checked with")
        self._keys = (keys, self._clock())
        return keys

    # -------------------------------------------------------------------------------------------------------------- requests

    async def _json(self, request: HttpRequest, what: str) -> Claims:
        return self._read(await self._send(request), what)

    def _read(self, reply: HttpReply | NoReply, what: str) -> Claims:
        host = urlsplit(self._client.issuer).hostname
        if isinstance(reply, NoReply):
            raise Unusable(f"{host} does not answer when asked for {what}: {reply.detail}")
        answer = _object(reply.body)
        if reply.status != 200 or answer is None or reply.cut is not None:
            raise Unusable(f"{host} answered {reply.status} when asked for {what}{', which is no JSON object' if answer is None else ''}")
        return answer


def _get(url: str, *headers: tuple[str, str]) -> HttpRequest:
    """The operator has named the host, so it may be in a private network."""
    return HttpRequest(url, url, b"", (("accept", "application/json"), *headers), "GET", guarded=False)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return cast(dict[str, Any], decoded) if isinstance(decoded, dict) else None


def _key(data: object) -> Key | None:
    """A public key for signatures; None: it is none, or of a kind that is not known here."""
    if not isinstance(data, dict) or cast(Claims, data).get("kty") == "oct" or cast(Claims, data).get("use", "sig") != "sig":
        return None
    try:
        return import_key(cast(Any, data))
    except (JoseError, ValueError, TypeError, KeyError):
        return None


def _is_as_safe(url: str, issuer: str) -> bool:
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        return False
    return bool(host) and (scheme == "https" or (scheme == "http" and urlsplit(issuer).scheme == "http"))


def _is_since(auth_time: object, since: float) -> bool:
    return isinstance(auth_time, int | float) and not isinstance(auth_time, bool) and auth_time >= since


def _said(error: BaseException) -> str:
    """In one line; the library's messages name claims, and never a token."""
    return " ".join(f"{type(error).__name__} {error}".split())[:_MAX_SAID]
