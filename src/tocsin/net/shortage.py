"""What this process itself may lack: descriptors, memory, threads. In that case nothing went out, and no handler is to blame."""

import errno
import os

from tocsin.model import NoReply, Reason

NO_DESCRIPTOR = "No file descriptor or no memory is left for another connection."
ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class Lacking(OSError):
    """Raised with a sentence for people that says what is lacking."""


def nothing_sent(lacking: str) -> NoReply:
    return NoReply(Reason.INTERNAL, sent=False, detail=lacking, ours=True)


def lacks_descriptors() -> bool:
    """Whether no file can be opened now: libraries only report that what they needed the file for failed."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in ERRNOS
    return False
