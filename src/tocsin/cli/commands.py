"""The command line as a whole: which command is which function."""

import difflib
import sys
from collections.abc import Sequence
from typing import Literal

from cyclopts import App, Parameter

from tocsin import __version__
from tocsin.cli import admin, audit, check, deliveries, handlers, notifications, options, preview, send, serve, upkeep, workers
from tocsin.cli.failure import Usage

app = App(
    name="tocsin",
    help="A notification service that delivers what it accepts.",
    version=f"tocsin {__version__}",
    help_format="plaintext",
    default_parameter=Parameter(negative=()),
)
app.command(serve.serve)
app.command(serve.demo)
app.command(serve.selftest)
app.command(send.send)
app.command(preview.preview)

_handlers = App(name="handlers", help="Manage the handlers of a running service.")
_handlers.command(handlers.list_handlers, name="list")
_handlers.command(handlers.show_handler, name="show")
_handlers.command(handlers.add)
_handlers.command(handlers.edit)
_handlers.command(handlers.enable)
_handlers.command(handlers.disable)
_handlers.command(handlers.delete)
_handlers.command(handlers.secret)
_handlers.command(handlers.test)
app.command(_handlers)

_deliveries = App(name="deliveries", help="Look at, cancel and retry the deliveries of a running service.")
_deliveries.command(deliveries.list_deliveries, name="list")
_deliveries.command(deliveries.show_delivery, name="show")
_deliveries.command(deliveries.cancel)
_deliveries.command(deliveries.retry)
app.command(_deliveries)

_notifications = App(name="notifications", help="Look at what was sent through a running service.")
_notifications.command(notifications.list_notifications, name="list")
_notifications.command(notifications.show_notification, name="show")
app.command(_notifications)

_users = App(name="users", help="Manage users, on the store itself.")
_users.command(admin.add_user, name="add")
_users.command(admin.set_password, name="password")
_users.command(admin.set_user, name="set")
_users.command(admin.disable_user, name="disable")
_users.command(admin.delete_user, name="delete")
_users.command(admin.list_users, name="list")
app.command(_users)

_keys = App(name="keys", help="Manage API keys, on the store itself.")
_keys.command(admin.add_key, name="add")
_keys.command(admin.list_keys, name="list")
_keys.command(admin.revoke_key, name="revoke")
app.command(_keys)

_secrets = App(name="secrets", help="Manage the key that encrypts secrets, on the store itself.")
_secrets.command(upkeep.rotate)
app.command(_secrets)
app.command(upkeep.backup)
app.command(upkeep.restore)
app.command(upkeep.compact)
app.command(upkeep.migrate)
app.command(workers.list_workers, name="workers")
app.command(audit.list_entries, name="audit")

app.command(options.list_settings, name="settings")
app.command(check.check)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that completes commands and options with the tab key.

    bash: source <(tocsin completion bash). zsh: save it as _tocsin in a folder of $fpath. fish: tocsin completion fish | source.

    Parameters
    ----------
    shell
        The shell that the script is for.
    """
    sys.stdout.write(app.generate_completion(shell=shell))


MESSAGE_COMMANDS = ("send", "preview")


def refuse_unknown_options(arguments: Sequence[str]) -> None:
    """A message may begin with a hyphen ("- item", "-50 %"). Anything that looks like an unknown option is not taken for a message."""
    if not arguments or arguments[0] not in MESSAGE_COMMANDS:
        return
    command = app[arguments[0]]
    known = {name for one in command.assemble_argument_collection() for name in one.names} | {*command.help_flags, *command.version_flags}
    for place, given in enumerate(arguments[1:], 2):
        if given == "--":
            if len(arguments) > place + 1:
                raise Usage("After `--` comes the message and nothing else: put options before it, and quotes around the message.")
            return
        name = given.partition("=")[0]
        if (given.startswith("--") or (given.startswith("-") and given[1:2].isalpha())) and name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            meant = f" Did you mean {similar[0]}?" if similar else ""
            raise Usage(f"Unknown option: {name.splitlines()[0][:80]}.{meant} Put `--` before a message that begins like an option.")
