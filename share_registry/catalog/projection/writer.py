"""The application of one record: where the log stands, and the few ways rows are written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CursorResult,
    Insert,
    Select,
    Table,
    bindparam,
    func,
    select,
    update,
)

from share_registry.catalog.sql import Session, pieces
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
from share_registry.errors import IntegrityError, ensure
from share_registry.format.named_objects import Replaced, read_for
from share_registry.names import Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTask:
    """What the catalog knows of a task before a record.

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
    """The application of record `number` of a space, and what later ones replace."""

    session: Session
    space: str
    number: int
    replaced: Replaced = ()

    @property
    def subject(self) -> str:
        """The record, as the subject of a message."""
        return f"record c{self.number} of space {self.space}"

    def add(self, row: type[Row], rows: Sequence[Mapping[str, object]]) -> None:
        """Insert rows of this space."""
        if rows:
            self.session.execute(
                _insert(row.table), [{"space": self.space, **values} for values in rows]
            )

    def end(self, row: type[Temporal], *conditions: ColumnElement[bool]) -> int:
        """Let rows that hold until further notice end with this record; return how many."""
        ended = self.session.execute(
            update(row.table)
            .where(row.space == self.space, row.until.is_(None), *conditions)
            .values(until=self.number)
        )
        return cast("CursorResult[object]", ended).rowcount

    def count(self, more: int) -> None:
        """Note that there are so many more (or, below 0, fewer) live tasks."""
        if more:
            self.session.execute(_COUNT, {"this": self.space, "more": more})

    def add_versions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert versions, and add up what they bring to the space."""
        self.add(VersionRow, rows)
        sums = {name: sum(row[name] for row in rows) for name in ("added_bytes", "raw_bytes")}
        self.session.execute(_ADD_UP, {"this": self.space, **sums})

    def touch(self, versions: Mapping[int, int | None]) -> None:
        """Note which tasks, and which versions of them, this record is about."""
        self.add(
            TouchRow,
            [
                {"number": self.number, "task": task, "version": version}
                for task, version in versions.items()
            ],
        )

    def tasks(self, names: Iterable[str]) -> dict[str, KnownTask]:
        """Return the tasks that have or had some names, by those names."""
        return {
            row[0]: KnownTask(task=row[1], name=row[2], live=bool(row[3]), latest=row[4])
            for piece in pieces(sorted(set(names)))
            for row in self.session.execute(_TASKS, {"space": self.space, "names": piece})
        }

    def task(self, name: str) -> KnownTask:
        """Return the task that has this name now. Raises IntegrityError."""
        return self.require_name(self.tasks([name]).get(name), name)

    def require_name(self, task: KnownTask | None, name: str) -> KnownTask:
        """Check that a task is there and has this name now. Raises IntegrityError."""
        if task is None:
            raise IntegrityError(f"{self.subject} is of task {name!r}, which does not exist.")
        ensure(
            task.name == name,
            IntegrityError(
                f"{self.subject} is of task {name!r}, which is called {task.name!r} by then."
            ),
        )
        return task

    def read_for(self, digest: Digest | None) -> Digest | None:
        """Return the object that is read in place of one; None where nothing is."""
        return read_for(digest, self.number, self.replaced)

    def check_kept(self, task: KnownTask, version: int) -> None:
        """Check that a version of a task exists and was not removed. Raises IntegrityError."""
        self.check_version(task, version)
        asked = {"space": self.space, "task": task.task, "version": version}
        removed = self.session.scalar(_REMOVED, asked)
        ensure(
            removed is None,
            IntegrityError(
                f"{self.subject} speaks of {task.name}@v{version}, which c{removed} removed."
            ),
        )

    def check_version(self, task: KnownTask, version: int) -> None:
        """Check that a version of a task exists. Raises IntegrityError."""
        ensure(
            1 <= version <= task.latest,
            IntegrityError(
                f"{self.subject} speaks of {task.name}@v{version}, which does not exist: "
                f"the newest is v{task.latest}."
            ),
        )


@cache
def _insert(table: Table) -> Insert:
    return table.insert()


def _select_tasks() -> Select[str, int, str, bool, int]:
    here, asked = bindparam("space", type_=TEXT), TaskNameRow.table.alias()
    present = (
        (TaskNameRow.space == here)
        & (TaskNameRow.task == asked.c.task)
        & TaskNameRow.until.is_(None)
    )
    life = select(TaskLifeRow.task).where(
        TaskLifeRow.space == here, TaskLifeRow.task == asked.c.task, TaskLifeRow.until.is_(None)
    )
    latest = select(func.coalesce(func.max(VersionRow.version), 0)).where(
        VersionRow.space == here, VersionRow.task == asked.c.task
    )
    return (
        select(asked.c.name, asked.c.task, TaskNameRow.name)
        .add_columns(life.exists(), latest.scalar_subquery())
        .select_from(asked.outerjoin(TaskNameRow.table, present))
        .where(asked.c.space == here, asked.c.name.in_(bindparam("names", expanding=True)))
    )


# Built once: putting it together takes longer than running it
_TASKS: Final = _select_tasks()
_REMOVED: Final = select(VersionRow.removed).where(
    VersionRow.space == bindparam("space", type_=TEXT),
    VersionRow.task == bindparam("task", type_=BigInteger),
    VersionRow.version == bindparam("version", type_=BigInteger),
)
_COUNT: Final = (
    update(SpaceRow.table)
    .where(SpaceRow.name == bindparam("this", type_=TEXT))
    .values(live=SpaceRow.live + bindparam("more", type_=BigInteger))
)
_ADD_UP: Final = (
    update(SpaceRow.table)
    .where(SpaceRow.name == bindparam("this", type_=TEXT))
    .values(
        added_bytes=SpaceRow.added_bytes + bindparam("added_bytes", type_=BigInteger),
        raw_bytes=SpaceRow.raw_bytes + bindparam("raw_bytes", type_=BigInteger),
    )
)
