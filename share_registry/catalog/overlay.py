"""Temporary views over a PostgreSQL catalog's tables: what is written stays in the transaction.

Each table gets a temporary one beside it, of the rows that are new or changed, and a temporary view
under its own name, which PostgreSQL looks for first: the rows of both, less those of the table that
were changed. A trigger leads what is written to the view into the temporary table. So a reader
without the right to write applies records as any catalog does, waits for nobody and lets nobody
wait. All of it goes with the transaction.
"""

from functools import cache
from typing import Final

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql

from share_registry.catalog.tables import TABLES

_QUOTE: Final = postgresql.dialect().identifier_preparer.quote  # type: ignore[no-untyped-call]
# A row that is changed again replaces itself; the trigger is told which columns are its key
_KEEP: Final = """
CREATE FUNCTION pg_temp.share_registry_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    EXECUTE format('DELETE FROM pg_temp.%I kept WHERE %s', 'new_' || TG_TABLE_NAME, TG_ARGV[0])
      USING OLD;
  END IF;
  EXECUTE format('INSERT INTO pg_temp.%I SELECT ($1).*', 'new_' || TG_TABLE_NAME) USING NEW;
  RETURN NEW;
END $$"""


def lay_over(connection: Connection) -> None:
    """Make the views, in a transaction that has read nothing yet and is to be rolled back."""
    # also where the connection or the role may only read
    connection.exec_driver_sql("SET TRANSACTION READ WRITE")
    connection.exec_driver_sql(_script(), execution_options={"no_parameters": True})


@cache
def _script() -> str:
    return ";".join([_KEEP, *(_over(table) for table in TABLES.sorted_tables)])


def _over(table: Table) -> str:
    keys = [_QUOTE(column.name) for column in table.primary_key]
    changed = " AND ".join(f"kept.{key} = row.{key}" for key in keys)
    itself = " AND ".join(f"kept.{key} = ($1).{key}" for key in keys)
    name, new = table.name, f"new_{table.name}"
    # the view is not there yet: `name` is the table
    return f"""
CREATE TEMPORARY TABLE {new} (LIKE {name});
CREATE TEMPORARY VIEW {name} AS
  SELECT row.* FROM {name} AS row
  WHERE NOT EXISTS (SELECT FROM pg_temp.{new} AS kept WHERE {changed})
  UNION ALL SELECT * FROM pg_temp.{new};
CREATE TRIGGER keep INSTEAD OF INSERT OR UPDATE ON pg_temp.{name} FOR EACH ROW
  EXECUTE FUNCTION pg_temp.share_registry_keep('{itself}')"""
