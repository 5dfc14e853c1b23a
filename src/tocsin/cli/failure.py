"""What ends a command early: one sentence for standard error and an exit code."""


class Failure(Exception):
    """The command could not do what was asked; the message is one clear sentence without secrets."""

    exit_code = 1


class Usage(Failure):
    """The command line itself makes no sense."""

    exit_code = 2


class StillWaiting(Failure):
    """Everything was accepted, but not all was delivered in the time that the command waits."""

    exit_code = 3


class KeyRefused(Failure):
    """No API key, one that the service does not know, or one that lacks a permission."""

    exit_code = 4


class NoConnection(Failure):
    """The service cannot be reached."""

    exit_code = 5
