"""The `tocsin` command."""

import gc
import os
import signal
import sys
from collections.abc import Sequence


def main() -> None:
    """Entry of the console script: runs the command line and exits with its code."""
    _end_when_told()
    _collect_garbage_seldom()
    _open_standard_files()
    code = run(sys.argv[1:])
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command line. Exit codes: 0 done, 1 not done, 2 wrong usage, 130 interrupted."""
    from cyclopts import CycloptsError

    from tocsin.cli import show
    from tocsin.cli.commands import app
    from tocsin.cli.failure import Failure

    try:
        result = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except Failure as failure:
        for line in str(failure).splitlines():
            show.complain(line)
        return failure.exit_code
    except CycloptsError as error:
        error.verbose = False
        show.complain(f"{' '.join(str(error).split())} Try `{_help_for(error.command_chain)}`.")
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _drop_output()
        return 1
    return result if isinstance(result, int) else 0


def _end_when_told() -> None:
    """The first process of a container ignores what it has no handler for, and the service sets its own only once it serves."""
    if os.getpid() == 1:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _end)


def _end(_number: int, _frame: object) -> None:
    os._exit(0)  # as after a crash: nothing has been accepted yet


def _collect_garbage_seldom() -> None:
    """Neither modules nor, later, thousands of deliveries in memory are garbage: looking for some among them again and again would cost
    a tenth of a start, and of all deliveries.
    """
    gc.set_threshold(50_000, 20, 100)


def _open_standard_files() -> None:
    """Those that were closed before the start are /dev/null: else a store could get their numbers, and what is printed with them."""
    from tocsin.lines import open_standard_files

    open_standard_files()
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # a number, for as long as the process lives
    if sys.stderr is None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _help_for(chain: Sequence[str] | None) -> str:
    return " ".join(["tocsin", *(chain or ()), "--help"])


def _drop_output() -> None:
    """Whoever read standard output has gone (`tocsin ... | head`): nothing more can be flushed there."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
