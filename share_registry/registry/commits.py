"""Commits as values: the rows of one page of the log, put together.

A page is a query of (space, number); everything else about its commits is fetched in three more statements, however many there are.
"""

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import select
from sqlalchemy.orm import Session

from share_registry.catalog.models import CommitRow, LabelRow, MetricRow, TaskNameRow, TouchRow, VersionRow
from share_registry.names import CommitNumber, Digest, SpaceName, Version
from share_registry.registry.report import BasisReport, Report
from share_registry.registry.results import Commit

if TYPE_CHECKING:
    from sqlalchemy import Select, Subquery

    from share_registry.store.protocol import Store

_Key: TypeAlias = tuple[str, int]
"""Space and commit number."""
_COLUMNS: Final = (
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


@dataclass(slots=True)
class _About:
    """What a commit says of tasks."""

    versions: dict[str, Version] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def commits_of(session: Session, page: "Select[str, int]", *, created: bool = True) -> list[Commit]:
    """Return the commits of a page in its order.

    Args:
        session: A transaction.
        page: Selects space and number of commits, ordered and limited.
        created: What the commits shall say of themselves.
    """
    chosen = page.subquery("page")
    rows = session.execute(page.with_only_columns(*_COLUMNS)).all()
    about = _about(session, chosen) if rows else {}
    return [_commit(row, about[(row.space, row.number)], created=created) for row in rows]


def weighed(commit: Commit, store: "Store") -> Commit:
    """Return a commit that says how many bytes the basis takes that it brought."""
    if commit.basis is None:
        return commit
    return replace(commit, basis=replace(commit.basis, size_bytes=store.size(commit.basis.digest)))


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


def _about(session: Session, page: "Subquery") -> dict[_Key, _About]:
    found: dict[_Key, _About] = defaultdict(_About)
    _read_versions(session, page, found)
    for label in session.execute(_said(LabelRow, page)):
        found[(label.space, label.since)].labels[label.name] = label.value
    for metric in session.execute(_said(MetricRow, page)):
        found[(metric.space, metric.since)].metrics[metric.name] = float(metric.value)
    return found


def _read_versions(session: Session, page: "Subquery", found: dict[_Key, _About]) -> None:
    in_page = (TouchRow.space == page.c.space) & (TouchRow.number == page.c.number)
    named = (TaskNameRow.space == TouchRow.space) & (TaskNameRow.task == TouchRow.task) & TaskNameRow.until.is_(None)
    made = (VersionRow.space == TouchRow.space) & (VersionRow.task == TouchRow.task) & (VersionRow.number == TouchRow.number)
    absorbed = made & VersionRow.restored_from.is_(None)
    query = (
        select(TouchRow.space, TouchRow.number, TouchRow.version, TaskNameRow.name)
        .add_columns(VersionRow.error, VersionRow.budget, VersionRow.added_bytes, VersionRow.raw_bytes, VersionRow.remarks)
        .add_columns(VersionRow.bound, VersionRow.before)
        .join(page, in_page)
        .join(TaskNameRow.table, named)
        .outerjoin(VersionRow.table, absorbed)
        .where(TouchRow.version.is_not(None))
        .order_by(TaskNameRow.name)
    )
    for space, number, version, name, error, budget, added, raw, remarks, bound, before in session.execute(query):
        about = found[(space, number)]
        about.versions[name] = Version(version or 0)
        if error is not None:
            about.reports[name] = Report(error=error, budget=budget, bytes_added=added, raw_bytes=raw, notes=remarks, bound=bound, before=before)


def _said(row: type[LabelRow | MetricRow], page: "Subquery") -> "Select[str, int, str, str]":
    in_page = (row.space == page.c.space) & (row.since == page.c.number)
    return select(row.space, row.since, row.name, row.value).join(page, in_page).order_by(row.space, row.since, row.task, row.name)
