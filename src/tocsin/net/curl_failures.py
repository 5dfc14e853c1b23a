"""What a failed transfer means: libcurl's result codes as our reasons. https://curl.se/libcurl/c/libcurl-errors.html"""

import os

import pycurl

from tocsin.model import NoReply, Reason
from tocsin.net.shortage import ERRNOS, NO_DESCRIPTOR, lacks_descriptors, nothing_sent
from tocsin.net.trust import HINT

# Codes for which pycurl has no name, or an outdated one.
_WEIRD_SERVER_REPLY = 8
HTTP2_STREAM = 92
_TOO_LARGE = 100

_MALFORMED = {pycurl.E_URL_MALFORMAT, pycurl.E_UNSUPPORTED_PROTOCOL, pycurl.E_BAD_FUNCTION_ARGUMENT}
_DNS = {pycurl.E_COULDNT_RESOLVE_HOST, pycurl.E_COULDNT_RESOLVE_PROXY}
_TLS = {
    pycurl.E_SSL_CONNECT_ERROR,
    pycurl.E_SSL_CERTPROBLEM,
    pycurl.E_SSL_CIPHER,
    pycurl.E_SSL_CACERT,
    pycurl.E_SSL_CACERT_BADFILE,
    pycurl.E_SSL_CRL_BADFILE,
    pycurl.E_SSL_ENGINE_INITFAILED,
    pycurl.E_SSL_ISSUER_ERROR,
    pycurl.E_SSL_PINNEDPUBKEYNOTMATCH,
    pycurl.E_SSL_INVALIDCERTSTATUS,
}
_NEEDS_FILES = {pycurl.E_SSL_CACERT_BADFILE, pycurl.E_FAILED_INIT, *_DNS}
_BAD_ANSWER = {
    pycurl.E_UNSUPPORTED_PROTOCOL,  # an answer of HTTP/0.9: no status line
    _WEIRD_SERVER_REPLY,
    pycurl.E_BAD_CONTENT_ENCODING,
    pycurl.E_HTTP2,
    HTTP2_STREAM,
}
HEAD_TOO_LARGE = "The answer has too many header lines, or too long ones."
_MAX_HEADER_BYTES = 300 * 1024  # libcurl's own limit for one answer


def was_sent(curl: pycurl.Curl) -> bool:
    """Whether a byte of the request left: if it fails before that, it has certainly not arrived."""
    return bool(curl.getinfo(pycurl.REQUEST_SIZE))


def no_reply(curl: pycurl.Curl, code: int) -> NoReply:
    """What to make of a transfer that ended with a code other than 0. Details never hold any part of the URL except its host."""
    return _after_sending(curl, code) if was_sent(curl) else _before_sending(curl, code)


def _before_sending(curl: pycurl.Curl, code: int) -> NoReply:
    if _is_ours(curl, code):
        return nothing_sent(NO_DESCRIPTOR)
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return NoReply(Reason.TIMEOUT, sent=False, detail="No connection was made in time.")
    if code in _DNS:
        return NoReply(Reason.DNS, sent=False, detail="The host name does not resolve.")
    if code == pycurl.E_SSL_CACERT:
        return NoReply(Reason.TLS, sent=False, detail=f"No secure connection was made: {_said(curl)}. {HINT}.")
    if code in _TLS:
        return NoReply(Reason.TLS, sent=False, detail=f"No secure connection was made: {_said(curl)}.")
    if code in _MALFORMED:
        return NoReply(Reason.SETTINGS, sent=False, detail="The URL cannot be used.")
    if code == pycurl.E_ABORTED_BY_CALLBACK:
        return NoReply(Reason.CUT, sent=False, detail="The service stopped before anything went out.", stopped=True)
    number = int(curl.getinfo(pycurl.OS_ERRNO))
    return NoReply(
        Reason.CONNECT, sent=False, detail=f"No connection was made: {os.strerror(number) if number else f'libcurl error {code}'}."
    )


def _is_ours(curl: pycurl.Curl, code: int) -> bool:
    """Whether this process lacks what a connection needs. Without descriptors the file of authorities cannot be read either."""
    if code == pycurl.E_OUT_OF_MEMORY or curl.getinfo(pycurl.OS_ERRNO) in ERRNOS:
        return True
    return code in _NEEDS_FILES and lacks_descriptors()


def _after_sending(curl: pycurl.Curl, code: int) -> NoReply:
    if code == pycurl.E_OPERATION_TIMEDOUT:
        return NoReply(Reason.TIMEOUT, sent=True, detail="The request went out, but no whole answer came in time.")
    if code == _TOO_LARGE or curl.getinfo(pycurl.HEADER_SIZE) >= _MAX_HEADER_BYTES:
        return NoReply(Reason.ANSWER_TOO_LARGE, sent=True, detail=HEAD_TOO_LARGE)
    if code in _BAD_ANSWER or _said(curl).startswith("chunk"):  # broken chunks have the code of a cut connection
        return NoReply(Reason.BAD_ANSWER, sent=True, detail="The answer is not valid HTTP.")
    if code == pycurl.E_ABORTED_BY_CALLBACK:
        return NoReply(Reason.CUT, sent=True, detail="The service stopped before the whole answer came.", stopped=True)
    return NoReply(Reason.CUT, sent=True, detail="The connection ended before the whole answer came.")


def _said(curl: pycurl.Curl) -> str:
    return str(curl.errstr())[:200].rstrip(".")
