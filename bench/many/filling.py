"""A million deliveries that are due in a year, and 300,000 handlers of a thousand users, put into the tables themselves."""

import psycopg

ROWS, HANDLERS, USERS = 1_000_000, 300_000, 1000
_YEAR = 365 * 86_400 * 1_000_000
_NOW = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_STATEMENTS = (
    "INSERT INTO users (email, is_admin, created_at)"
    f" SELECT 'user' || n || '@example.com', FALSE, {_NOW} FROM generate_series(1, {USERS}) n",
    # Settings are those of a handler that is there: nothing is sent to them before the year is over.
    "INSERT INTO handlers (user_id, type, name, settings, secret, is_enabled, created_at, version, partition)"
    f" SELECT u.id, h.type, 'filled ' || n, h.settings, h.secret, TRUE, {_NOW}, 1, n % 1024"
    f" FROM generate_series(1, {HANDLERS}) n"
    " JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM users WHERE email LIKE 'user%') u"
    f" ON u.place = n % {USERS} CROSS JOIN (SELECT * FROM handlers ORDER BY id LIMIT 1) h",
    "CREATE TEMP TABLE filled AS SELECT id, user_id, partition, row_number() OVER (ORDER BY id) - 1 AS place FROM handlers"
    " WHERE name LIKE 'filled %'",
    "CREATE TEMP TABLE made AS SELECT nextval(pg_get_serial_sequence('notifications', 'id')) AS notification, f.id, f.user_id, f.partition"
    f" FROM generate_series(1, {ROWS}) n JOIN filled f ON f.place = n % {HANDLERS}",
    "INSERT INTO notifications (id, user_id, created_at, send_at, kind, severity, title, text, url, fields)"
    f" SELECT notification, user_id, {_NOW}, {_NOW} + {_YEAR}, 'notification', 'info', '', 'in a year', '', '[]' FROM made",
    "INSERT INTO deliveries (notification_id, handler_id, user_id, status, is_critical, due_at, first_due_at, created_at, partition)"
    f" SELECT notification, id, user_id, 0, FALSE, {_NOW} + {_YEAR}, {_NOW} + {_YEAR}, {_NOW}, partition FROM made",
    "DROP TABLE made, filled",
    "VACUUM ANALYZE",
)


def fill(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in _STATEMENTS:
            connection.execute(statement.encode())
