"""Every row of a space, to compare catalogs by."""

from collections.abc import Collection, Iterator
from typing import Any, Final, TypeAlias

from sqlalchemy import select

from share_registry.catalog.sql import Session
from share_registry.catalog.tables import (
    TABLES,
    CommitRow,
    IdentityRow,
    LabelRow,
    MetricRow,
    ModuleRow,
    ObjectRow,
    SpaceRow,
    VersionRow,
)

# The rows of a table: by key, what the other columns hold
Rows: TypeAlias = dict[tuple[Any, ...], dict[str, Any]]
# Columns and tables that say what notes said, which may have been removed since
OF_NOTES: Final = frozenset(
    {
        *(f"{CommitRow.table.name}.{name}" for name in ("author", "message", "detail")),
        *(
            f"{VersionRow.table.name}.{name}"
            for name in (
                "config_digest",
                "source_kind",
                "source_location",
                "source_revision",
                "remarks",
            )
        ),
        *(row.table.name for row in (LabelRow, MetricRow, ObjectRow)),
    }
)
# Likewise of layouts
OF_LAYOUTS: Final = frozenset({ModuleRow.table.name})
# The commit whose layout said it first
SINCE_OF_LAYOUTS: Final = frozenset({f"{ModuleRow.table.name}.since"})


def rows_of_space(
    session: Session, space: str, *, without: Collection[str] = ()
) -> Iterator[tuple[str, Rows]]:
    """Yield every table with its rows of a space, one table at a time.

    Args:
        session: A transaction.
        space: The space.
        without: Tables, and columns as `table.column`, that are left out.
    """
    for table in TABLES.sorted_tables:
        if table is IdentityRow.table or table.name in without:
            continue
        keys = [column.name for column in table.primary_key]
        others = [
            column.name
            for column in table.c
            if column.name not in keys and f"{table.name}.{column.name}" not in without
        ]
        of_space = table.c.name if table is SpaceRow.table else table.c.space
        yield (
            table.name,
            {
                tuple(row[key] for key in keys): {name: row[name] for name in others}
                for row in session.execute(select(table).where(of_space == space)).mappings()
            },
        )
