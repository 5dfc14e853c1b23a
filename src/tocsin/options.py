"""Which options differ from those of the last start: their names are written to the audit log, their values nowhere."""

import contextlib
import hashlib
from typing import Final

import structlog
from sqlalchemy import Connection, Engine

from tocsin.ports.audit import Act
from tocsin.ports.errors import StoreError
from tocsin.settings import OPTIONS, Settings
from tocsin.store import values
from tocsin.store.audit import record
from tocsin.store.sql import write_now
from tocsin.vault import Vault, WrongKey

KEPT: Final = "options "
"""How the names of their rows in `meta` begin; what follows is the role of the process."""
_OF_COMMANDS = frozenset({"url", "api_key"})
_OF_MACHINES = frozenset({"host", "port", "unix_socket", "data_dir", "egress"})  # processes that share a store differ in them
log = structlog.get_logger(__name__)


def note_options(engine: Engine, settings: Settings, vault: Vault) -> None:
    """A store that cannot be written is no reason not to serve: the next start notes it."""
    given = _hashes(settings)

    def note(connection: Connection) -> None:
        name = KEPT + settings.role
        sealed = values.read(connection, name)
        before: dict[str, object] | None = None
        with contextlib.suppress(WrongKey):  # as after the first start
            before = vault.open(sealed) if sealed is not None else None
        if before == given:
            return
        values.write(connection, name, vault.seal(given))
        if before is not None:
            differ = sorted(one for one in {*given, *before} if given.get(one) != before.get(one))
            record(connection, Act.OPTIONS_CHANGED, name=settings.role, options=differ)

    try:
        write_now(engine, note)
    except StoreError as error:
        log.warning("options.not_noted", why=str(error))


def _hashes(settings: Settings) -> dict[str, str]:
    """What stands for each value. They are kept encrypted, since short values could be guessed from them."""
    left_out = _OF_COMMANDS | _OF_MACHINES if settings.database_url else _OF_COMMANDS
    texts = {option.variable: repr(getattr(settings, option.name)) for option in OPTIONS if option.name not in left_out}
    return {name: hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest() for name, text in texts.items()}
