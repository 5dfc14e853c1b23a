"""`tocsin workers`: the processes on a store that several share."""

from tocsin.cli import show
from tocsin.cli.admin import DataDir
from tocsin.cli.failure import Failure
from tocsin.cli.options import load_settings


def list_workers(*, json: bool = False, data_dir: DataDir = None) -> None:
    """List the processes on the PostgreSQL database: what each owns, when it was last seen, and what waits there.

    Parameters
    ----------
    json
        Print JSON instead of a table.
    """
    from tocsin import datadir
    from tocsin.ports.errors import StoreError
    from tocsin.store import overview
    from tocsin.store.sql import read_now

    settings = load_settings(data_dir=data_dir)
    if not settings.database_url:
        raise Failure("One process serves a SQLite store: workers share a PostgreSQL database, which TOCSIN_DATABASE_URL names.")
    try:
        engine, _ = datadir.open_existing(settings)
        try:
            found = read_now(engine, overview.workers)
        finally:
            engine.dispose()
    except StoreError as error:
        raise Failure(str(error)) from None
    if json:
        names = ("id", "name", "roles", "parts", "beat_age_ms", "backlog", "in_flight", "address", "version", "is_leaving")
        show.as_json([{name: getattr(one, name) for name in names} for one in found.workers])
        return
    rows = [
        (str(one.id), one.name, one.roles, str(one.parts), f"{one.beat_age_ms} ms", f"{one.backlog:,}", f"{one.in_flight:,}", one.address)
        for one in found.workers
    ]
    show.table(("ID", "NAME", "ROLES", "PARTITIONS", "LAST BEAT", "DUE", "IN FLIGHT", "ADDRESS"), rows)
    if found.nobodys:
        show.note(f"{found.nobodys} partitions have no owner; {found.nobodys_backlog:,} of their deliveries are due.")
