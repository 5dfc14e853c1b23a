"""The command line as a whole: which command is which function."""

from cyclopts import App

from tocsin import __version__
from tocsin.cli import admin, check, deliveries, handlers, options, preview, send, serve, upkeep

app = App(
    name="tocsin",
    help="A notification service that delivers what it accepts.",
    version=f"tocsin {__version__}",
    help_format="plaintext",
)
app.command(serve.serve)
app.command(serve.demo)
app.command(serve.selftest)
app.command(send.send)
app.command(preview.preview)

_handlers = App(name="handlers", help="List, add and test the handlers of a running service.")
_handlers.command(handlers.list_handlers, name="list")
_handlers.command(handlers.add)
_handlers.command(handlers.test)
app.command(_handlers)

_deliveries = App(name="deliveries", help="List and retry the deliveries of a running service.")
_deliveries.command(deliveries.list_deliveries, name="list")
_deliveries.command(deliveries.retry)
app.command(_deliveries)

_users = App(name="users", help="Manage users, on the store itself.")
_users.command(admin.add_user, name="add")
_users.command(admin.set_password, name="password")
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

app.command(options.list_settings, name="settings")
app.command(check.check)
