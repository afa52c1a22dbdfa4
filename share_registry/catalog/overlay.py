"""Temporary views over a PostgreSQL catalog's tables: what is written stays in the transaction.

A table that is about to be written gets a temporary one beside it, of the rows that are new or
changed, and a temporary view under its own name, which PostgreSQL looks for first: the rows of
both, less those of the table that were changed. (Where none is changed, nothing is taken out: then
PostgreSQL goes on using the indexes of the table.) A trigger leads what is written to the view into
the temporary table. So a reader without the right to write applies records as any catalog does,
waits for nobody and lets nobody wait. All of it goes with the transaction.
"""

from functools import cache
from typing import Final

from sqlalchemy import Connection, Insert, Table, Update, event
from sqlalchemy.dialects import postgresql

from share_registry.catalog.tables import IdentityRow

_QUOTE: Final = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
# Several statements at once, which have no parameters
_SCRIPT: Final = {"no_parameters": True}
# Where the tables are: this one is never written by records
_SCHEMA: Final = (
    "SELECT relnamespace::regnamespace::text FROM pg_class "
    f"WHERE oid = '{IdentityRow.table.name}'::regclass"
)
# A row that is changed again replaces itself; the trigger is told which columns are its key
_KEEP: Final = """
CREATE FUNCTION pg_temp.share_registry_keep() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  new_rows text := 'pg_temp.' || quote_ident('new_' || TG_TABLE_NAME);
BEGIN
  IF TG_OP = 'UPDATE' THEN
    EXECUTE 'DELETE FROM ' || new_rows || ' AS kept WHERE ' || TG_ARGV[0] USING OLD;
  END IF;
  EXECUTE 'INSERT INTO ' || new_rows || ' SELECT ($1).*' USING NEW;
  RETURN NEW;
END $$"""


def lay_over(connection: Connection) -> None:
    """Keep what is written from now on apart, until the transaction is rolled back.

    The server plans what it has prepared anew, since the temporary schema is new to it.

    Args:
        connection: In a transaction that has read nothing yet.
    """
    # also where the connection or the role may only read
    connection.exec_driver_sql("SET TRANSACTION READ WRITE")
    schema = str(connection.exec_driver_sql(_SCHEMA).scalar_one())
    done: set[str] = set()

    @event.listens_for(connection, "before_execute")
    def prepare(connection: Connection, statement: object, *_: object) -> None:
        if isinstance(statement, Insert | Update) and isinstance(statement.table, Table):
            is_changed = isinstance(statement, Update)
            steps = _steps(statement.table, schema, is_changed=is_changed)
            if script := ";".join(step for step in steps if step not in done):
                done.update(steps)
                # the view that leaves out what is changed also serves what is only added
                done.update(_steps(statement.table, schema, is_changed=False))
                connection.exec_driver_sql(script, execution_options=_SCRIPT)


@cache
def _steps(table: Table, schema: str, *, is_changed: bool) -> tuple[str, ...]:
    """Return what is done, once, before rows of a table are written."""
    name, new = table.name, f"new_{table.name}"
    keys = [_QUOTE(column.name) for column in table.primary_key]
    itself = " AND ".join(f"kept.{key} = ($1).{key}" for key in keys)
    changed = " AND ".join(f"kept.{key} = row.{key}" for key in keys)
    unchanged = f"WHERE NOT EXISTS (SELECT FROM pg_temp.{new} AS kept WHERE {changed})"
    view = (
        f"CREATE OR REPLACE TEMPORARY VIEW {name} AS SELECT row.* FROM {schema}.{name} AS row "
        f"{unchanged if is_changed else ''} UNION ALL SELECT * FROM pg_temp.{new}"
    )
    trigger = (
        f"CREATE TRIGGER keep INSTEAD OF INSERT OR UPDATE ON pg_temp.{name} FOR EACH ROW "
        f"EXECUTE FUNCTION pg_temp.share_registry_keep('{itself}')"
    )
    return _KEEP, f"CREATE TEMPORARY TABLE {new} (LIKE {schema}.{name})", view, trigger
