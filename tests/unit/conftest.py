"""What several unit tests need."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from tocsin.net import exchange


@contextmanager
def trusting(authority: trustme.CA, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """The wire trusts the authority meanwhile."""
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
    exchange.authorities.cache_clear()
    yield
    exchange.authorities.cache_clear()


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[trustme.CA]:
    """An authority that the wire trusts."""
    authority = trustme.CA()
    with trusting(authority, tmp_path, monkeypatch):
        yield authority
