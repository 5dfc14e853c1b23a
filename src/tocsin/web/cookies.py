"""The names of our cookies.

Over TLS a name begins so that browsers keep out what another host, or a page without TLS, would plant: `__Host-`, or `__Secure-` under a
sub-path, since `__Host-` demands the path `/` and so would hand the cookie to everything else on that host.
https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#name-cookie-name-prefixes
"""

SESSION, BEFORE, DEVICE, LANGUAGE = "tocsin_session", "tocsin_before", "tocsin_device", "tocsin_language"


def name_of(cookie: str, is_secure: bool, prefix: str) -> str:
    """The name under which this cookie is set. `prefix`: the sub-path, empty at the root."""
    if not is_secure or cookie == LANGUAGE:
        return cookie
    return f"__Secure-{cookie}" if prefix else f"__Host-{cookie}"
