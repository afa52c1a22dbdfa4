"""Commits as values: the rows of one page of the log, put together.

Everything else about the commits of a page is fetched in three more statements for each space and
500 commits.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import BigInteger, ColumnElement, Select, bindparam, select
from sqlalchemy.orm import Session

from share_registry.catalog.queries.lookups import SPACE
from share_registry.catalog.sql import pieces
from share_registry.catalog.tables import (
    CommitRow,
    LabelRow,
    MetricRow,
    TaskNameRow,
    TouchRow,
    VersionRow,
)
from share_registry.names import CommitNumber, Digest, SpaceName, Version
from share_registry.values.commits import AdapterReport, BasisReport, Commit

if TYPE_CHECKING:
    from sqlalchemy import Row


_Key: TypeAlias = tuple[str, int]
"""Space and commit number."""
COLUMNS: Final[tuple[ColumnElement[Any], ...]] = (
    CommitRow.space,
    CommitRow.number,
    CommitRow.id,
    CommitRow.parent,
    CommitRow.kind,
    CommitRow.time,
    CommitRow.key,
    CommitRow.author,
    CommitRow.message,
    CommitRow.detail,
    CommitRow.basis,
)
"""What a page of commits selects."""
_NUMBERS: Final = bindparam("numbers", expanding=True, type_=BigInteger)


@dataclass(slots=True)
class _About:
    """What a commit says of tasks."""

    versions: dict[str, Version] = field(default_factory=dict)
    reports: dict[str, AdapterReport] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def commits_of(
    session: Session, rows: "Sequence[Row[Any]]", *, created: bool = True
) -> list[Commit]:
    """Return commits in the order of their rows.

    Args:
        session: A transaction.
        rows: Rows of `COLUMNS`.
        created: What the commits shall say of themselves.
    """
    about: dict[_Key, _About] = defaultdict(_About)
    by_space: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        by_space[row.space].append(row.number)
    for space, numbers in by_space.items():
        for piece in pieces(numbers):
            _read_about(session, space, piece, about)
    return [_commit(row, about[(row.space, row.number)], created=created) for row in rows]


def moment(text: str) -> datetime:
    """Return a record's time."""
    return datetime.fromisoformat(text)


def _commit(row: Any, about: _About, *, created: bool) -> Commit:
    return Commit(
        number=CommitNumber(row.number),
        id=Digest(row.id),
        parent=Digest(row.parent),
        kind=row.kind,
        space=SpaceName(row.space),
        time=moment(row.time),
        key=row.key,
        author=row.author,
        message=row.message,
        detail=row.detail,
        refs={task: f"{row.space}/{task}@v{version}" for task, version in about.versions.items()},
        versions=about.versions,
        reports=about.reports,
        labels=about.labels,
        metrics=about.metrics,
        basis=None if row.basis is None else BasisReport(digest=Digest(row.basis), size_bytes=None),
        created=created,
    )


def _read_about(
    session: Session, space: str, numbers: Sequence[int], found: dict[_Key, _About]
) -> None:
    _read_versions(session, space, numbers, found)
    for label in _said(session, _labels(), space, numbers):
        found[(space, label.since)].labels[label.name] = label.value
    for metric in _said(session, _metrics(), space, numbers):
        found[(space, metric.since)].metrics[metric.name] = float(metric.value)


def _read_versions(
    session: Session, space: str, numbers: Sequence[int], found: dict[_Key, _About]
) -> None:
    rows = session.execute(_touched(), {"space": space, "numbers": numbers})
    for number, version, name, error, budget, added, raw, remarks, bound, before in sorted(
        rows, key=lambda row: str(row.name)
    ):
        about = found[(space, number)]
        about.versions[name] = Version(version or 0)
        if error is not None:
            about.reports[name] = AdapterReport(
                error=error,
                budget=budget,
                bytes_added=added,
                raw_bytes=raw,
                notes=remarks,
                bound=bound,
                before=before,
            )


@cache
def _touched() -> "Select[Any]":
    named = (
        (TaskNameRow.space == TouchRow.space)
        & (TaskNameRow.task == TouchRow.task)
        & TaskNameRow.until.is_(None)
    )
    made = (
        (VersionRow.space == TouchRow.space)
        & (VersionRow.task == TouchRow.task)
        & (VersionRow.number == TouchRow.number)
    )
    absorbed = made & VersionRow.restored_from.is_(None)
    return (
        select(TouchRow.number, TouchRow.version, TaskNameRow.name)
        .add_columns(
            VersionRow.error,
            VersionRow.budget,
            VersionRow.added_bytes,
            VersionRow.raw_bytes,
            VersionRow.remarks,
        )
        .add_columns(VersionRow.bound, VersionRow.before)
        .outerjoin(
            TaskNameRow.table, named
        )  # every task has a name: an outer join alone keeps SQLite from beginning with the names
        .outerjoin(VersionRow.table, absorbed)
        .where(
            TouchRow.space == SPACE, TouchRow.number.in_(_NUMBERS), TouchRow.version.is_not(None)
        )
    )


def _said(
    session: Session, given: Select[int, int, str, str], space: str, numbers: Sequence[int]
) -> "list[Row[int, int, str, str]]":
    """Return the labels or metrics that commits gave, sorted.

    Asked to sort, a database might follow the key instead of the numbers.
    """
    return sorted(session.execute(given, {"space": space, "numbers": numbers}))


@cache
def _labels() -> Select[int, int, str, str]:
    return _given(LabelRow)


@cache
def _metrics() -> Select[int, int, str, str]:
    return _given(MetricRow)


def _given(row: type[LabelRow | MetricRow]) -> Select[int, int, str, str]:
    return select(row.since, row.task, row.name, row.value).where(
        row.space == SPACE, row.since.in_(_NUMBERS)
    )
