"""The `tocsin` command."""

import errno
import gc
import os
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper

_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main() -> None:
    """Entry of the console script: runs the command line and exits with its code."""
    _end_when_told()
    _collect_garbage_seldom()
    _open_standard_files()
    _forget_unknown_width()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        code = _not_written(error)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Exit codes: 0 done, 1 failed or refused, 2 wrong usage, 3 still waiting, 4 key refused, 5 no connection,
    130 interrupted.
    """
    from tocsin.cli.failure import Failure

    try:
        result = _serve() if [*arguments] == ["serve"] else _command(arguments)
    except Failure as failure:
        from tocsin.cli import show

        for line in str(failure).splitlines():
            show.complain(line)
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return 1
    except OSError as error:
        return _not_written(error)
    return result if isinstance(result, int) else 0


def _command(arguments: Sequence[str]) -> object:
    """The command's result."""
    from cyclopts import CycloptsError, UnusedCliTokensError

    from tocsin.cli import reading
    from tocsin.cli.commands import MESSAGE_COMMANDS, app, refuse_unknown_options
    from tocsin.cli.failure import Usage
    from tocsin.cli.show import one_line

    refuse_unknown_options(arguments)
    try:
        command, given, _ = app.parse_args(list(arguments), exit_on_error=False, print_error=False)
    except UnusedCliTokensError as error:
        left = " ".join(error.unused_tokens or ())
        hint = " Put quotes around a message of several words." if arguments[0] in MESSAGE_COMMANDS else ""
        raise Usage(f"Too many arguments: {one_line(left)[:80]}.{hint} Try `{_help_for(error.command_chain)}`.") from None
    except CycloptsError as error:
        error.verbose = False
        raise Usage(f"{' '.join(str(error).split())} Try `{_help_for(error.command_chain)}`.") from None
    reading.make_readable(given)
    return command(*given.args, **given.kwargs)


def _serve() -> int:
    """`tocsin serve` as service managers run it, with nothing to parse: without the command line's libraries a start takes 0.15 s
    less CPU (of 0.9), and the service 6 MB less.
    """
    with _without("rich"):  # structlog imports it for coloured tracebacks, which our logs do not have
        import structlog  # noqa: F401  # pyright: ignore[reportUnusedImport]
    from tocsin.cli.start import start

    return start()


@contextmanager
def _without(package: str) -> Generator[None]:
    """Meanwhile the package cannot be imported, unless it is already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # pyright: ignore[reportArgumentType]  # https://docs.python.org/3/reference/import.html#the-module-cache
    try:
        yield
    finally:
        del sys.modules[package]


def _end_when_told() -> None:
    """The first process of a container ignores signals without a handler, and the service sets its handlers only once it serves."""
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _end)


def _end(_number: int, _frame: object) -> None:
    os._exit(0)  # as after a crash: nothing has been accepted yet


def _collect_garbage_seldom() -> None:
    """Neither modules nor, later, thousands of deliveries in memory are garbage: searching them again and again would cost 10 % of a
    start and of every delivery.
    """
    gc.set_threshold(50_000, 20, 100)


def _open_standard_files() -> None:
    """Those that were closed before the start become /dev/null: otherwise a store could get their numbers, and the output with them.

    What cannot be shown, or read, is replaced: by the time that a command prints something it has been done.
    """
    from tocsin.lines import open_standard_files

    open_standard_files()
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # a descriptor for as long as the process lives
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _forget_unknown_width() -> None:
    """COLUMNS=0 says that the width of the terminal is not known. rich takes it for one in which nothing has room."""
    if not os.environ.get("COLUMNS", "1").strip("0"):
        del os.environ["COLUMNS"]


def _help_for(chain: Sequence[str] | None) -> str:
    return " ".join(["tocsin", *(chain or ()), "--help"])


def _not_written(error: OSError) -> int:
    """Say that a disk is full or broken, and return the exit code. Where no file is named it is most likely the one behind standard output.

    Raises any other error.
    """
    from tocsin.cli import show

    if error.errno not in _NOT_WRITTEN:
        raise error
    if error.filename is None:
        _drop_output()
    where = error.filename or "the output or a file"
    show.complain(f"Could not write {where}: {error.strerror}. The command may have done its work all the same.")
    return 1


def _drop_output() -> None:
    """The reader of standard output has gone (`tocsin ... | head`), or its disk is full: nothing more can be flushed there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
