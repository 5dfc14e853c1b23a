"""An OpenID provider of our own making that breaks one rule at a time."""

import base64
import hashlib
import hmac
import json
import threading
import time
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from msgspec import Struct, field

CLIENT_ID, CLIENT_SECRET = "tocsin", "a secret of the client, long enough for HS256"


class Answers(Struct):
    """What it says the next time, each changed by the tests."""

    claims: dict[str, Any]
    header: dict[str, Any]
    key: RSAPrivateKey | bytes
    unsigned: bool = False
    raw_token: str | None = None
    callback: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, Any] = field(default_factory=dict)
    token_status: int = 200
    token_body: bytes | None = None
    user_info: dict[str, Any] | None = None


Twist = Callable[[Answers], object]


class HostileProvider:
    def __init__(self) -> None:
        self.key = generate_private_key(65537, 2048)
        self.other_key = generate_private_key(65537, 2048)
        self.twist: Twist = bool
        self.calls_itself: str | None = None
        self.takes_codes_again = False
        self.asked: list[str] = []
        self._nonces: dict[str, str] = {}
        self._challenges: dict[str, str] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._get(self)

            def do_POST(self) -> None:
                provider._post(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def environ(self) -> dict[str, str]:
        return {"TOCSIN_OIDC_ISSUER": self.issuer, "TOCSIN_OIDC_CLIENT_ID": CLIENT_ID, "TOCSIN_OIDC_CLIENT_SECRET": CLIENT_SECRET}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answers(self, nonce: str) -> Answers:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": "248289761001",
            "aud": CLIENT_ID,
            "iat": now,
            "exp": now + 300,
            "nonce": nonce,
            "email": "new@example.com",
            "email_verified": True,
        }
        answers = Answers(claims, {"alg": "RS256", "kid": "the key"}, self.key, user_info={"sub": claims["sub"]})
        self.twist(answers)
        return answers

    def _get(self, request: BaseHTTPRequestHandler) -> None:
        url = urllib.parse.urlsplit(request.path)
        self.asked.append(url.path)
        if url.path == "/authorize":
            self._authorize(request, dict(urllib.parse.parse_qsl(url.query)))
            return
        answer: Any = {
            "/.well-known/openid-configuration": {
                "issuer": self.calls_itself or self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/keys",
                "userinfo_endpoint": f"{self.issuer}/me",
            },
            "/keys": {"keys": [{"kty": "unheard of"}, public(self.key)]},
            "/attackers-keys": {"keys": [public(self.other_key)]},
            "/me": self._answers("").user_info,
        }.get(url.path)
        _say(request, 200 if answer is not None else 404, json.dumps(answer).encode())

    def _authorize(self, request: BaseHTTPRequestHandler, given: dict[str, str]) -> None:
        code = f"code-{len(self._nonces)}"
        self._nonces[code], self._challenges[code] = given["nonce"], given["code_challenge"]
        assert given["code_challenge_method"] == "S256" and given["response_type"] == "code" and "openid" in given["scope"].split()
        query = {"code": code, "state": given["state"], **self._answers(given["nonce"]).callback}
        request.send_response(303)
        request.send_header("location", f"{given['redirect_uri']}?{urllib.parse.urlencode(query)}")
        request.send_header("content-length", "0")
        request.end_headers()

    def _post(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        form = dict(urllib.parse.parse_qsl(request.rfile.read(int(request.headers["content-length"])).decode()))
        nonce = self._nonces.get(form["code"]) if self.takes_codes_again else self._nonces.pop(form["code"], None)
        if nonce is None:
            _say(request, 400, b'{"error": "invalid_grant"}')
            return
        challenge = _encoded(hashlib.sha256(form["code_verifier"].encode()).digest())
        assert challenge == self._challenges[form["code"]]
        answers = self._answers(nonce)
        body = {"access_token": "an-access-token", "token_type": "Bearer", "id_token": self._id_token(answers), **answers.tokens}
        _say(request, answers.token_status, answers.token_body if answers.token_body is not None else json.dumps(body).encode())

    def _id_token(self, answers: Answers) -> str:
        if answers.raw_token is not None:
            return answers.raw_token
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (answers.header, answers.claims))
        signature = b""
        if not answers.unsigned:
            key = answers.key
            is_secret = isinstance(key, bytes)
            signature = hmac.digest(key, signed.encode(), "sha256") if is_secret else key.sign(signed.encode(), PKCS1v15(), SHA256())
        return f"{signed}.{_encoded(signature)}"


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def public(key: RSAPrivateKey) -> dict[str, Any]:
    """As it is listed."""
    numbers = key.public_key().public_numbers()
    n, e = (_encoded(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.n, numbers.e))
    return {"kty": "RSA", "kid": "the key", "use": "sig", "alg": "RS256", "n": n, "e": e}


def _say(request: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    request.send_response(status)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", str(len(body)))
    if 300 <= status < 400:
        request.send_header("location", "/keys")
    request.end_headers()
    request.wfile.write(body)
