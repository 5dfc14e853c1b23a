"""A small file mapped into memory: a write costs no system call, and survives the end of the process, though not a power cut."""

import errno
import mmap
import os
from pathlib import Path

import structlog

from tocsin import files
from tocsin.ports.errors import StoreError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
log = structlog.get_logger(__name__)


def content(path: Path, limit: int) -> bytes:
    """The file's first `limit` bytes; empty if there is no file. Raises StoreError."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise _unusable(path, error) from error


def mapped(path: Path, size: int) -> mmap.mmap:
    """The file, created or resized to `size` bytes; new bytes are zero. If the disk is full it is memory only, and the log says so.

    Raises StoreError.
    """
    try:
        return allocated(path, size)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise _unusable(path, error) from error
    log.error("ledger.no_room", file=path.name, lost_by="a crash")
    memory = mmap.mmap(-1, size)
    found = content(path, size)
    memory[: len(found)] = found
    return memory


def is_on_disk(path: Path, memory: mmap.mmap) -> bool:
    """Whether what is written there is in the file, all of which is allocated; see `mapped`."""
    found = path.stat()
    return found.st_size >= len(memory) and found.st_blocks * 512 >= len(memory)


def allocated(path: Path, size: int) -> mmap.mmap:
    """As `mapped`. Raises OSError if there is no room: every byte is allocated on the disk, because the kernel kills a process that
    writes into a hole of a file when the disk is full."""
    file = files.opened(path)
    try:
        os.ftruncate(file, size)
        os.posix_fallocate(file, 0, size)
        return mmap.mmap(file, size)
    finally:
        os.close(file)


def _unusable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"The file {path} cannot be used: {error.strerror}. Give it back to the service's user, or move it away.")
