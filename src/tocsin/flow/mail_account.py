"""The refresh token of the mail account, where its server gave a new one: encrypted, in the store."""

import structlog

from tocsin.model import Busy
from tocsin.ports.values import Values
from tocsin.settings import Settings
from tocsin.vault import Vault, WrongKey, fingerprint

REFRESH_TOKEN = "mail_refresh_token"  # noqa: S105  # its row of `meta`
log = structlog.get_logger(__name__)


class KeptToken:
    """It replaces the setting that it came from, until that setting is changed."""

    def __init__(self, values: Values, vault: Vault, settings: Settings) -> None:
        self._values = values
        self._vault = vault
        self._first = fingerprint(settings.smtp_oauth_refresh_token or "")
        self._unkept: str | None = None

    async def read(self) -> str | None:
        """The token to go on with; None: the one in the settings, or the store cannot be read now."""
        if self._unkept is not None:
            return self._unkept
        try:
            sealed = await self._values.read(REFRESH_TOKEN)
            kept = self._vault.open(sealed) if sealed else {}
        except (Busy, WrongKey):
            return None
        token = kept.get("token")
        return token if isinstance(token, str) and kept.get("first") == self._first else None

    async def keep(self, token: str) -> None:
        """Where the store takes no writes it is kept in memory, and the log says so: a restart would need a new one in the settings."""
        self._unkept = token
        try:
            await self._values.write(REFRESH_TOKEN, self._vault.seal({"token": token, "first": self._first}))
        except Exception as error:  # noqa: BLE001  # the mail goes out all the same
            log.error("mail.refresh_token_not_kept", why=type(error).__name__)
        else:
            self._unkept = None
