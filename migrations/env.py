"""Alembic's entry: run the migrations on the catalog's connection, inside its transaction."""

from alembic import context

from share_registry.catalog.tables import SCHEMA_TABLE, TABLES

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=TABLES,
    version_table=SCHEMA_TABLE,
    render_as_batch=connection.dialect.name == "sqlite",
)
with context.begin_transaction():
    context.run_migrations()
