"""Whose certificates are believed, for HTTPS and for mail."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pycurl
import pytest

from mailserver import MailServer
from receiver import Receiver
from tocsin.model import HttpReply, HttpRequest, Mail, MailReply, NoReply, Reason
from tocsin.net import exchange, trust
from tocsin.net.http import HttpWire
from tocsin.net.mail import MailWire, notes
from tocsin.settings import Settings, SettingsError, load

MAIL = Mail("tocsin@sender.example", "root@nas", b"Subject: x\r\n\r\nx\r\n")


@pytest.fixture(autouse=True)
def fresh_authorities(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    exchange.authorities.cache_clear()
    yield
    exchange.authorities.cache_clear()


def saved(server: Receiver | MailServer, file: Path) -> Path:
    assert server.authority is not None
    server.authority.cert_pem.write_to_path(str(file))
    return file


def settings_of(folder: Path, ca_file: Path | None = None, **more: str) -> Settings:
    given = {"TOCSIN_DATA_DIR": str(folder / "data"), "TOCSIN_ALLOW_NETWORKS": "127.0.0.0/8", "TOCSIN_EMAIL_FROM": "a@example.com"}
    return load(given | ({"TOCSIN_CA_FILE": str(ca_file)} if ca_file else {}) | more, folder / "no.env")


def posted(settings: Settings, *urls: str) -> list[HttpReply | NoReply]:
    async def work() -> list[HttpReply | NoReply]:
        wire = HttpWire(settings)
        replies = [await wire.send(HttpRequest(url, url, b"{}")) for url in urls]
        await wire.close()
        return replies

    return asyncio.run(work())


def mailed(settings: Settings) -> MailReply | NoReply:
    async def work() -> MailReply | NoReply:
        wire = MailWire(settings)
        reply = await wire.send(MAIL)
        await wire.close()
        return reply

    return asyncio.run(work())


def test_the_operators_authorities_are_added_to_the_systems_for_https(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(tls=True) as public, Receiver(tls=True) as private:
        monkeypatch.setenv("SSL_CERT_FILE", str(saved(public, tmp_path / "system.pem")))
        added = saved(private, tmp_path / "added.pem")
        urls = (public.url("/a"), private.url("/b"))
        known, unknown = posted(settings_of(tmp_path), *urls)
        assert isinstance(known, HttpReply) and isinstance(unknown, NoReply)
        assert (unknown.reason, unknown.sent) == (Reason.TLS, False)
        assert "TOCSIN_CA_FILE" in unknown.detail and "SSL_CERT_FILE" not in unknown.detail
        assert [isinstance(reply, HttpReply) for reply in posted(settings_of(tmp_path, added), *urls)] == [True, True]


def test_the_joined_file_is_kept_and_written_anew_only_where_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "system.pem", tmp_path / "added.pem"
    first.write_text("one\n\n")
    second.write_text("two\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(first))
    options = trust.authorities(str(second), tmp_path / "data")
    joined = tmp_path / "data" / trust.JOINED
    assert options[pycurl.CAINFO] == str(joined) and joined.read_text() == "one\ntwo\n"
    before = joined.stat().st_ino
    trust.authorities(str(second), tmp_path / "data")
    assert joined.stat().st_ino == before
    second.write_text("three\n")
    trust.authorities(str(second), tmp_path / "data")
    assert joined.read_text() == "one\nthree\n"
    assert [file.name for file in joined.parent.iterdir()] == [trust.JOINED]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to name the file by its hash")
def test_a_folder_of_authorities_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(tls=True) as server:
        folder = tmp_path / "authorities"
        folder.mkdir()
        file = saved(server, tmp_path / "ca.pem")
        command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(file)]
        name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        shutil.copy(file, folder / f"{name}.0")
        [refused] = posted(settings_of(tmp_path), server.url("/a"))
        monkeypatch.setenv("SSL_CERT_DIR", str(folder))
        exchange.authorities.cache_clear()
        [taken] = posted(settings_of(tmp_path), server.url("/a"))
    assert isinstance(refused, NoReply) and isinstance(taken, HttpReply)


@pytest.mark.parametrize("kind", ["tls", "starttls"])
def test_the_operators_authorities_are_added_to_the_systems_for_mail(tmp_path: Path, kind: str) -> None:
    with MailServer(**{kind: True}, user="me", password="a password") as server:
        refused = mailed(settings_of(tmp_path, TOCSIN_SMTP_URL=server.url()))
        assert isinstance(refused, NoReply) and "TOCSIN_CA_FILE" in refused.detail and "SSL_CERT_FILE" not in refused.detail
        taken = mailed(settings_of(tmp_path, saved(server, tmp_path / "ca.pem"), TOCSIN_SMTP_URL=server.url()))
        assert isinstance(taken, MailReply) and taken.code == 250
        assert (
            trust.mail_context(str(tmp_path / "ca.pem")).cert_store_stats()["x509_ca"]
            >= ssl.create_default_context().cert_store_stats()["x509_ca"]
        )


@pytest.mark.parametrize("kind", ["tls", "starttls"])
def test_optional_takes_a_certificate_that_nobody_vouches_for_and_says_so(tmp_path: Path, kind: str) -> None:
    with MailServer(**{kind: True}, user="me", password="a password", names=("other.example",)) as server:
        settings = settings_of(tmp_path, TOCSIN_SMTP_URL=server.url("?tls=optional"))
        reply = mailed(settings)
        assert isinstance(reply, MailReply) and reply.code == 250
        assert server.mails[0].has_tls
    [note] = notes(settings)
    assert "no certificate is checked" in note and "the password" in note and "a password" not in note
    assert ("unencrypted" in note) is (kind == "starttls")
    assert notes(settings_of(tmp_path, TOCSIN_SMTP_URL=server.url())) == notes(settings_of(tmp_path)) == []


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
def test_a_file_without_certificates_is_refused_at_the_start(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"TOCSIN_CA_FILE must name a readable file of certificates in PEM form"):
        settings_of(tmp_path, file)


def test_what_openssl_would_read_and_cannot_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (trust.complaints(), trust.notes()) == ([], [])
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    said = trust.complaints()
    assert [sentence.split()[0] for sentence in said] == ["SSL_CERT_FILE", "SSL_CERT_DIR"] and trust.notes() == []
    (tmp_path / "none.pem").write_text("")
    (tmp_path / "none").mkdir()
    assert trust.complaints() == []
    assert "replaces" in trust.notes()[0] and "TOCSIN_CA_FILE" in trust.notes()[0]
