"""The rows of a catalog, to compare catalogs by."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from share_registry.catalog.tables import TABLES


def dump(session: Session) -> dict[str, list[tuple[object, ...]]]:
    """Return every row that follows from the records, sorted.

    Equal for equal catalogs, whatever database they are in.
    """
    tables = TABLES.sorted_tables
    return {
        table.name: sorted((tuple(row) for row in session.execute(select(table))), key=repr)
        for table in tables
    }
