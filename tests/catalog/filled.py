"""A catalog that has a log, and what others can see of it."""

import sqlite3
from contextlib import closing

from sqlalchemy import select
from sqlalchemy.orm import Session

from share_registry.catalog.catalog import Catalog
from share_registry.catalog.tables import CommitRow
from tests.catalog.logs import Log, Logged, story


def fill_catalog(url: str) -> Log:
    """Fill an empty database with the story."""
    log = story()
    with Catalog.open(url, store_id="store") as catalog:
        apply(catalog, log)
    return log


def apply(catalog: Catalog, entry: Log | Logged) -> None:
    """Apply a log, or one entry of it, in a transaction."""
    with catalog.begin(write=True) as session:
        entry.apply(session)


def count(session: Session) -> int:
    """Return the number of commits."""
    return len(session.scalars(select(CommitRow.number)).all())


def is_locked(url: str) -> bool:
    """Tell whether another connection may not begin to write."""
    with closing(
        sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0, isolation_level=None)
    ) as waiting:
        try:
            waiting.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        return False
