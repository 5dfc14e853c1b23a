"""What several unit tests need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tocsin.net import exchange


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[trustme.CA]:
    """An authority that the wire trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    exchange.authorities.cache_clear()
    yield authority
    exchange.authorities.cache_clear()
