"""One step of the projection: where the log stands, and the few ways rows are written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, ColumnElement, bindparam, func, select, update
from sqlalchemy.orm import Session

from share_registry.catalog.sql import pieces
from share_registry.catalog.tables import (
    TEXT,
    Row,
    SpaceRow,
    TaskLifeRow,
    TaskNameRow,
    Temporal,
    TouchRow,
    VersionRow,
)
from share_registry.errors import IntegrityError

if TYPE_CHECKING:
    from sqlalchemy import Insert, Select, Table


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """What the catalog knows of a task before a step.

    Attributes:
        name: The name it has now.
        latest: Its newest version, 0 before the first.
    """

    task: int
    name: str
    live: bool
    latest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordWriter:
    """The application of record `number` of a space."""

    session: Session
    space: str
    number: int

    @property
    def what(self) -> str:
        """The record, for messages."""
        return f"record c{self.number} of space {self.space}"

    def add(self, row: type[Row], rows: Sequence[Mapping[str, object]]) -> None:
        """Insert rows of this space."""
        if rows:
            self.session.execute(
                _insert(row.table), [{"space": self.space, **values} for values in rows]
            )

    def end(self, row: type[Temporal], *conditions: ColumnElement[bool]) -> None:
        """Let rows that hold until further notice end with this record."""
        statement = (
            update(row.table)
            .where(row.space == self.space, row.until.is_(None), *conditions)
            .values(until=self.number)
        )
        self.session.execute(statement)

    def count(self, more: int) -> None:
        """Note that there are so many more (or, below 0, fewer) live tasks."""
        if more:
            self.session.execute(_COUNT, {"this": self.space, "more": more})

    def touch(self, versions: Mapping[int, int | None]) -> None:
        """Note which tasks, and which versions of them, this record is about."""
        self.add(
            TouchRow,
            [
                {"number": self.number, "task": task, "version": version}
                for task, version in versions.items()
            ],
        )

    def known(self, names: Iterable[str]) -> dict[str, KnownTask]:
        """Return what is known under some names, older names included."""
        found = {}
        for piece in pieces(sorted(set(names))):
            for asked, task, name, live, latest in self.session.execute(
                _KNOWN, {"space": self.space, "names": piece}
            ):
                found[asked] = KnownTask(task=task, name=name, live=bool(live), latest=latest)
        return found

    def task(self, name: str) -> KnownTask:
        """Return the task that has this name now. Raises IntegrityError."""
        return self.checked(self.known([name]).get(name), name)

    def checked(self, known: KnownTask | None, name: str) -> KnownTask:
        """Return a task that has this name now. Raises IntegrityError."""
        if known is None:
            raise IntegrityError(f"{self.what} is of task {name!r}, which does not exist.")
        if known.name != name:
            raise IntegrityError(
                f"{self.what} is of task {name!r}, which is called {known.name!r} by then."
            )
        return known

    def check_version(self, known: KnownTask, version: int) -> None:
        """Check that a version of a task exists. Raises IntegrityError."""
        if not 1 <= version <= known.latest:
            raise IntegrityError(
                f"{self.what} speaks of {known.name}@v{version}, which does not exist: the newest is v{known.latest}."
            )


@cache
def _insert(table: "Table") -> "Insert":
    return table.insert()


def _known() -> "Select[str, int, str, bool, int]":
    here, asked = bindparam("space", type_=TEXT), TaskNameRow.table.alias()
    named = (
        (TaskNameRow.space == here)
        & (TaskNameRow.task == asked.c.task)
        & TaskNameRow.until.is_(None)
    )
    live = (
        select(TaskLifeRow.task)
        .where(
            TaskLifeRow.space == here, TaskLifeRow.task == asked.c.task, TaskLifeRow.until.is_(None)
        )
        .exists()
    )
    latest = (
        select(func.coalesce(func.max(VersionRow.version), 0))
        .where(VersionRow.space == here, VersionRow.task == asked.c.task)
        .scalar_subquery()
    )
    query = select(asked.c.name, asked.c.task, TaskNameRow.name, live, latest).select_from(
        asked.outerjoin(TaskNameRow.table, named)
    )
    return query.where(asked.c.space == here, asked.c.name.in_(bindparam("names", expanding=True)))


_KNOWN: Final = _known()
"""Built once: putting it together takes longer than running it."""
_COUNT: Final = (
    update(SpaceRow.table)
    .where(SpaceRow.name == bindparam("this", type_=TEXT))
    .values(live=SpaceRow.live + bindparam("more", type_=BigInteger))
)
