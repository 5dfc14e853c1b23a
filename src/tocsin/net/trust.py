"""Whose certificates are trusted: the system's authorities, and those that the operator adds with TOCSIN_CA_FILE."""

import os
import ssl
from pathlib import Path

import pycurl

# Where systems keep their certificate authorities; the libcurl in pycurl's wheel knows one place only, and Debian has another.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem")
JOINED = "authorities.pem"
HINT = "TOCSIN_CA_FILE names a file of authorities that are trusted in addition to the system's"


def authorities(added: str | None = None, folder: Path | None = None) -> dict[int, str]:
    """libcurl's options for them. SSL_CERT_FILE replaces the system's file; SSL_CERT_DIR, a folder as `openssl rehash` makes it, adds.

    libcurl accepts one file only, so `added` is joined to the system's in `folder`. Each connection reads it again, so it must stay.
    Raises OSError.
    """
    paths = ssl.get_default_verify_paths()
    file = next((one for one in (paths.cafile, *_BUNDLES) if one and Path(one).is_file()), None)
    options: dict[int, str] = {}
    if paths.capath and (file is None or os.environ.get(paths.openssl_capath_env)):
        options[pycurl.CAPATH] = paths.capath
    if added is not None and file is not None and folder is not None:
        file = str(_joined(Path(file), Path(added), folder / JOINED))
    if file is not None or added is not None:
        options[pycurl.CAINFO] = file or str(added)
    return options


def _joined(first: Path, second: Path, target: Path) -> Path:
    content = first.read_bytes().rstrip() + b"\n" + second.read_bytes()
    if not target.exists() or target.read_bytes() != content:
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_suffix(".new")
        new.write_bytes(content)
        new.replace(target)
    return target.absolute()


def mail_context(added: str | None = None, verifies: bool = True) -> ssl.SSLContext:
    """For the mail server. `verifies` False: its certificate is not checked. Raises OSError."""
    context = ssl.create_default_context()
    if added is not None:
        context.load_verify_locations(added)
    if not verifies:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def complaints() -> list[str]:
    """What is wrong with the variables that OpenSSL reads, one sentence each."""
    found: list[str] = []
    for name, is_there, what in (("SSL_CERT_FILE", os.path.isfile, "file"), ("SSL_CERT_DIR", os.path.isdir, "folder")):
        value = os.environ.get(name)
        if value and not is_there(value):
            found.append(f"{name} names no {what} that can be read, so it has no effect: {value}")
    return found


def notes() -> list[str]:
    """What is worth knowing, but may be intended."""
    file = os.environ.get("SSL_CERT_FILE")
    if not file or not Path(file).is_file():
        return []
    return [f"SSL_CERT_FILE replaces the system's certificate authorities, for HTTPS and for mail: {HINT}"]
