"""The rows of a catalog, to compare catalogs by."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from share_registry.catalog.tables import TABLES, LeaseRow


def dump(session: Session) -> dict[str, list[tuple[object, ...]]]:
    """Return every row that follows from the records, sorted.

    Equal for equal catalogs, whatever database they are in.
    """
    tables = [table for table in TABLES.sorted_tables if table is not LeaseRow.table]
    return {
        table.name: sorted((tuple(row) for row in session.execute(select(table))), key=repr)
        for table in tables
    }
