"""Run by Alembic inside the transaction that `store.migrating.migrate` opened."""

from typing import Any

from alembic import context

from tocsin.store.tables import metadata

attributes = context.config.attributes


def applied(ctx: Any, step: Any, heads: Any, run_args: Any) -> None:  # noqa: ARG001 - Alembic passes them by name
    if (told := attributes.get("applied")) is not None:
        told(step.up_revision_id)


context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,
    on_version_apply=applied,
)
context.run_migrations()
