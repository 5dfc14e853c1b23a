"""What ends a command early: one sentence for standard error and an exit code."""


class Failure(Exception):
    """The command could not do what was asked; the message is one clear sentence without a secret."""

    exit_code = 1


class Usage(Failure):
    """The command line itself makes no sense."""

    exit_code = 2
