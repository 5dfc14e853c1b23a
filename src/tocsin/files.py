"""Files that are written whole or not at all, and that keep their owner when root writes them beside the service."""

import contextlib
import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

PRIVATE = 0o600
MAX_LINKS = 40  # one after the other, as in Linux


def create(path: Path, is_service: bool = True) -> None:
    """An empty file that only its owner may read. `is_service`: if root creates it, it belongs to the service's user.

    Raises OSError, also if something of that name exists.
    """
    os.close(_created(path, is_service))


def _created(path: Path, is_service: bool) -> int:
    owner = owner_of(path.with_name(path.name.removesuffix(".new"))) if is_service and os.geteuid() == 0 else None
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE)
    try:
        if owner is not None:  # in a folder of the service's user, who otherwise could not read it
            with contextlib.suppress(PermissionError):  # root in a container without the permission
                os.fchown(descriptor, *owner)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def opened(path: Path) -> int:
    """The file, open for reading and writing; created if missing. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        create(path)
    return existing(path)


def existing(path: Path) -> int:
    """The file, open for reading and writing. Raises OSError."""
    return itself(real(path), os.O_RDWR)


def itself(path: Path | str, flags: int) -> int:
    """An `opener` that follows no link: beside the service, root works in a folder where another user can exchange files for links."""
    return os.open(path, flags | os.O_NOFOLLOW, PRIVATE)


def real(path: Path) -> Path:
    """The file that a link leads to. Raises OSError, also if root would follow the link of another user, who chooses where it leads."""
    for _ in range(MAX_LINKS):
        if not path.is_symlink():
            return path.parent.resolve() / path.name
        user = path.lstat().st_uid
        if os.geteuid() == 0 and user:
            raise PermissionError(errno.EPERM, f"it is a link of user {user}, which root does not follow: run the command as user {user}")
        path = path.parent / path.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


@contextmanager
def replaced(path: Path, is_service: bool = True) -> Generator[Path, None, None]:
    """A new file that replaces `path`, with its owner and mode, once it is complete and on the disk. Raises OSError, also, having written
    nothing, if the service's user could not read it.

    `is_service`: see `create`.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        descriptor = _created(new, is_service)
        mode = PRIVATE
        try:
            with contextlib.suppress(FileNotFoundError):
                found = path.stat()
                if is_service:
                    _check_owner(new, descriptor, found)
                mode = found.st_mode & 0o777
            yield new
            os.fchmod(descriptor, mode)  # once it is written: with 0400 its owner could not do that either
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.rename(path)
        sync(path.absolute().parent)
    finally:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)


def _check_owner(new: Path, descriptor: int, old: os.stat_result) -> None:
    """Whether it belongs to the owner of the file that it is to replace, or to that of the folder, who then puts things right."""
    found = os.fstat(descriptor)
    user = found.st_uid
    if user not in {old.st_uid, owner_of(new.with_name("none"))[0]}:
        why = (
            f"the new file would belong to user {user} instead of {old.st_uid}, who could not read it: run the command as user {old.st_uid}"
        )
        raise PermissionError(errno.EPERM, why)
    if old.st_mode & 0o070 and found.st_gid != old.st_gid:
        os.fchown(descriptor, -1, old.st_gid)


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def owner_of(path: Path) -> tuple[int, int]:
    """User and group that own this file, or would: those of the folder, or, if root owns the folder, those of the files in it."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_uid, found.st_gid
    folder = path.absolute().parent
    found = folder.stat()
    if found.st_uid == 0:
        with contextlib.suppress(PermissionError):
            files = (one.lstat() for one in sorted(folder.iterdir()))
            found = next((one for one in files if stat.S_ISREG(one.st_mode) and one.st_uid), found)
    return found.st_uid, found.st_gid
