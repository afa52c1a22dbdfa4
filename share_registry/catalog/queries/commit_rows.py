"""Commits as values: the rows of one page of the log, put together.

Everything else about the commits of a page is fetched in three more statements for each space and
500 commits.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, TypeAlias, TypeVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    Row,
    Select,
    bindparam,
    func,
    select,
    union,
)

from share_registry.catalog.queries.lookups import SPACE
from share_registry.catalog.sql import Session, pieces
from share_registry.catalog.tables import (
    CommitRow,
    LabelRow,
    MetricRow,
    ParentRow,
    TaskNameRow,
    TouchRow,
    VersionRow,
    names_task_of,
)
from share_registry.names import CommitNumber, Digest, SpaceName, Version
from share_registry.values.commits import Commit
from share_registry.values.cost_reports import AdapterReport, BasisReport

_T = TypeVar("_T")
# Space and commit number
_Key: TypeAlias = tuple[str, int]
# What a page of commits selects
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
_NUMBERS: Final = bindparam("numbers", expanding=True, type_=BigInteger)


@dataclass(slots=True)
class _About:
    versions: dict[str, Version] = field(default_factory=dict)
    reports: dict[str, AdapterReport] = field(default_factory=dict)
    # by the number of the task
    labels: dict[int, dict[str, str]] = field(default_factory=lambda: defaultdict(dict))
    metrics: dict[int, dict[str, float]] = field(default_factory=lambda: defaultdict(dict))


def commits_of(session: Session, rows: Sequence[Row[Any]], *, created: bool = True) -> list[Commit]:
    """Return commits in the order of their rows.

    Args:
        session: A transaction.
        rows: Rows of `COLUMNS`.
        created: What the commits shall say of themselves.
    """
    about: dict[_Key, _About] = defaultdict(_About)
    for space, numbers in _pages(rows):
        _read_about(session, space, numbers, about)
    return [_commit(row, about[(row.space, row.number)], created=created) for row in rows]


def annotations_of(
    session: Session, rows: Sequence[Row[Any]]
) -> list[list[tuple[dict[str, str], dict[str, float]]]]:
    """Return for each commit the labels and metrics that it gave, of each of its tasks."""
    about: dict[_Key, _About] = defaultdict(_About)
    for space, numbers in _pages(rows):
        _read_annotations(session, {"space": space, "numbers": numbers}, about)
    return [_by_task(about[(row.space, row.number)]) for row in rows]


def with_ancestry(session: Session, commits: Sequence[Commit]) -> list[Commit]:
    """Return commits that say what they build on: one more statement for each space and page."""
    ancestry: dict[_Key, set[CommitNumber]] = defaultdict(set)
    for space, numbers in _pages(commits):
        for number, before in session.execute(_ANCESTRY, {"space": space, "numbers": numbers}):
            ancestry[(space, number)].add(CommitNumber(before))
    return [
        replace(
            commit,
            builds_on=tuple(sorted(ancestry[(commit.space, commit.number)], reverse=True)),
        )
        for commit in commits
    ]


def _pages(rows: Sequence[Row[Any]] | Sequence[Commit]) -> Iterator[tuple[str, Sequence[int]]]:
    for space in dict.fromkeys(row.space for row in rows):
        for numbers in pieces([row.number for row in rows if row.space == space]):
            yield space, numbers


def _by_task(about: _About) -> list[tuple[dict[str, str], dict[str, float]]]:
    tasks = sorted(about.labels.keys() | about.metrics.keys())
    return [(about.labels.get(task, {}), about.metrics.get(task, {})) for task in tasks]


def _commit(row: Any, about: _About, *, created: bool) -> Commit:
    return Commit(
        number=CommitNumber(row.number),
        id=Digest(row.id),
        parent=Digest(row.parent),
        kind=row.kind,
        space=SpaceName(row.space),
        time=datetime.fromisoformat(row.time),
        key=row.key,
        author=row.author,
        message=row.message,
        detail=row.detail,
        refs={task: f"{row.space}/{task}@v{version}" for task, version in about.versions.items()},
        versions=about.versions,
        reports=about.reports,
        labels=_common(about.labels, about),
        metrics=_common(about.metrics, about),
        basis=None if row.basis is None else BasisReport(digest=Digest(row.basis), size_bytes=None),
        created=created,
    )


def _common(by_task: Mapping[int, Mapping[str, _T]], about: _About) -> dict[str, _T]:
    """Return what every task of a commit got alike."""
    if len(by_task) < len(about.versions):
        return {}
    first, *rest = by_task.values() or [{}]
    return {
        name: value
        for name, value in first.items()
        if all(name in each and each[name] == value for each in rest)
    }


def _read_about(
    session: Session, space: str, numbers: Sequence[int], about: dict[_Key, _About]
) -> None:
    asked = {"space": space, "numbers": numbers}
    for row in sorted(session.execute(_TOUCHED, asked), key=lambda row: str(row.name)):
        of_commit = about[(space, row.number)]
        of_commit.versions[row.name] = Version(row.version or 0)
        if row.error is not None:
            of_commit.reports[row.name] = AdapterReport(
                error=row.error,
                budget=row.budget,
                bytes_added=row.added_bytes,
                raw_bytes=row.raw_bytes,
                notes=row.remarks,
                bound=row.bound,
                before=row.before,
                untrained=row.norm == 0,
            )
    _read_annotations(session, asked, about)


def _read_annotations(
    session: Session, asked: Mapping[str, object], about: dict[_Key, _About]
) -> None:
    space = str(asked["space"])
    # sorted here: asked to sort, a database might follow the key instead of the numbers
    for since, task, name, value in sorted(session.execute(_LABELS, asked)):
        about[(space, since)].labels[task][name] = value
    for since, task, name, value in sorted(session.execute(_METRICS, asked)):
        about[(space, since)].metrics[task][name] = float(value)


def _select_touched() -> Select[Any]:
    absorbed = (
        (VersionRow.space == TouchRow.space)
        & (VersionRow.task == TouchRow.task)
        & (VersionRow.number == TouchRow.number)
        & VersionRow.restored_from.is_(None)
    )
    # every task has a name: an outer join alone keeps SQLite from beginning with the names
    return (
        select(TouchRow.number, TouchRow.version, TaskNameRow.name)
        .add_columns(VersionRow.error, VersionRow.budget, VersionRow.bound, VersionRow.before)
        .add_columns(VersionRow.added_bytes, VersionRow.raw_bytes, VersionRow.remarks)
        .add_columns(VersionRow.norm)
        .outerjoin(TaskNameRow.table, names_task_of(TouchRow))
        .outerjoin(VersionRow.table, absorbed)
        .where(TouchRow.space == SPACE, TouchRow.number.in_(_NUMBERS))
        .where(TouchRow.version.is_not(None))
    )


def _select_annotations(row: type[LabelRow | MetricRow]) -> Select[int, int, str, str]:
    return select(row.since, row.task, row.name, row.value).where(
        row.space == SPACE, row.since.in_(_NUMBERS)
    )


def _select_ancestry() -> CompoundSelect[int, int]:
    """Return what selects the commits that made versions, and those of their sources."""
    before = VersionRow.table.alias()
    same_task = (
        (before.c.space == VersionRow.space)
        & (before.c.task == VersionRow.task)
        & (before.c.version == func.coalesce(VersionRow.restored_from, VersionRow.version - 1))
    )
    is_child = (
        (ParentRow.space == VersionRow.space)
        & (ParentRow.task == VersionRow.task)
        & (ParentRow.version == VersionRow.version)
    )
    is_parent = (
        (before.c.space == ParentRow.space)
        & (before.c.task == ParentRow.parent_task)
        & (before.c.version == ParentRow.parent_version)
    )
    sources = select(VersionRow.number, before.c.number.label("before")).where(
        VersionRow.space == SPACE, VersionRow.number.in_(_NUMBERS)
    )
    return union(
        sources.join_from(VersionRow.table, before, same_task),
        sources.join_from(VersionRow.table, ParentRow.table, is_child).join(before, is_parent),
    )


_ANCESTRY: Final = _select_ancestry()
_TOUCHED: Final = _select_touched()
_LABELS: Final = _select_annotations(LabelRow)
_METRICS: Final = _select_annotations(MetricRow)
