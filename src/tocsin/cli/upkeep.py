"""`tocsin backup`, `tocsin restore`, `tocsin compact`, `tocsin migrate`, `tocsin secrets rotate`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tocsin.cli import show
from tocsin.cli.admin import DataDir
from tocsin.cli.failure import Failure, Usage
from tocsin.cli.options import load_settings
from tocsin.settings import Settings

PROGRESS_SECONDS = 2.0


def backup(file: Path, /, *, data_dir: DataDir = None) -> None:
    """Copy the store to a file, also while the service runs. The copy does not contain the key: keep that elsewhere.

    Parameters
    ----------
    file
        File to write; it must not exist yet.
    """
    from tocsin import upkeep
    from tocsin.ports.errors import StoreError

    try:
        size = upkeep.back_up(load_settings(data_dir=data_dir), file)
    except StoreError as error:
        raise Failure(str(error)) from None
    show.note(f"{show.one_line(str(file))} holds the store ({size / 1e6:.1f} MB), not its key: without the key file it cannot be restored.")


def restore(file: Path | None = None, /, *, replace: bool = False, after_recovery: bool = False, data_dir: DataDir = None) -> None:
    """Replace the store with a copy made by `tocsin backup`. The service must be stopped.

    All ids move on, so that none comes to mean a different message, handler or user.

    Parameters
    ----------
    file
        File to take the store from.
    replace
        Replace the current store, which is kept beside it under another name.
    after_recovery
        Without a file: the store was restored by other means (a copy of the folder, a snapshot of the machine), so only move its ids on.
    """
    from tocsin import upkeep
    from tocsin.ports.errors import StoreError

    if (file is None) is not after_recovery:
        raise Usage("Name the file to restore from, or use --after-recovery without one.")
    try:
        settings = load_settings(data_dir=data_dir)
        if file is None:
            upkeep.move_on(settings)
            show.note("The ids have moved on. What had not arrived is sent once the service runs: it may arrive a second time.")
            return
        moved = upkeep.restore(settings, file, replace)
    except StoreError as error:
        raise Failure(str(error)) from None
    if moved is not None:
        show.note(f"The store that was there is {show.one_line(str(moved))} now.")
    _say_owners(settings)
    show.note("Restored. What had not arrived when the copy was made is sent once the service runs: it may arrive a second time.")


def compact(*, data_dir: DataDir = None) -> None:
    """Return unused space in the store to the disk. While the service runs, sends wait for it: about a second per 100 MB."""
    from tocsin import upkeep
    from tocsin.ports.errors import StoreError

    try:
        before, after = upkeep.compact(load_settings(data_dir=data_dir))
    except StoreError as error:
        raise Failure(str(error)) from None
    show.note(f"The store now takes {after / 1e6:.1f} MB; before it took {before / 1e6:.1f} MB.")


def migrate(*, source: Annotated[Path | None, Parameter(name="--from")] = None, force: bool = False, data_dir: DataDir = None) -> None:
    """Bring the store to this version's form; with --from move it from a data directory into PostgreSQL. The service must be stopped.

    Processes that share a PostgreSQL database and are one version older go on meanwhile. With --from everything is copied in one
    transaction and compared row by row. The store that was moved does not start any more.

    Parameters
    ----------
    source
        Data directory of the SQLite store to move to the database that TOCSIN_DATABASE_URL names, which must be empty.
    force
        Upgrade beside processes that are more than one version older, too. They may fail.
    """
    from tocsin import moving
    from tocsin.ports.errors import StoreError

    try:
        settings = load_settings(data_dir=data_dir)
        if source is None:
            moving.upgrade(settings, _say_upgrade, force=force)
            show.note("The store has the form of this version.")
            return
        rows = moving.move(settings, source, _told_seldom())
    except StoreError as error:
        raise Failure(str(error)) from None
    show.note(f"Moved: {rows:,} rows were copied and compared. The store in {show.one_line(str(source))} does not start any more.")


def _say_upgrade(event: str, **values: Any) -> None:
    if event == "upgraded":
        show.note(f"Upgraded from {values['before']} to {values['after']}: the migration took {values['seconds']} s.")
    else:
        show.note(f"Migrating the store for {values['seconds']} s ...")


def _told_seldom() -> Callable[[str, str, int, int], None]:
    told_at = time.monotonic()

    def tell(what: str, table: str, done: int, count: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at > PROGRESS_SECONDS:
            told_at = time.monotonic()
            show.note(f"{what} {done:,} of {count:,} {table} ...")

    return tell


def _say_owners(settings: Settings) -> None:
    """The files that could not be given to the service's user, who cannot start with them."""
    from tocsin.cli.check import owners

    for finding in owners(settings):
        show.note(finding.text)


def rotate(*, data_dir: DataDir = None) -> None:
    """Encrypt all secrets under a new key, also while the service runs. If it is interrupted, run it again: it continues.

    What no key opens is left as it is. With TOCSIN_SECRET_KEY the first key of its list is the new one: put it there and restart the
    service first.
    """
    from tocsin import upkeep
    from tocsin.ports.errors import StoreError

    try:
        settings = load_settings(data_dir=data_dir)
        rows, left, old = upkeep.rotate_key(settings)
    except StoreError as error:
        raise Failure(str(error)) from None
    _say_owners(settings)
    show.note(f"{rows} handlers have their secrets encrypted under the new key.")
    if left:
        show.note(f"No key opens the secrets of {left} more, which were left as they are: their owners can enter the settings again.")
    if old is None:
        show.note("The other keys in TOCSIN_SECRET_KEY are no longer needed, except for backups made under them.")
    else:
        show.note(f"The old key is in {show.one_line(str(old))}: existing backups need it. Delete it when they are gone.")
