"""Listing of tasks, now or as of any commit.

One state of each space, the newest version of each task that is live in it.

A page begins behind a name and is found along the names, some of them at a time: what it costs does
not depend on how many tasks or versions there are.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    false,
    func,
    select,
    true,
)

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.as_of import At, Then, as_of
from share_registry.catalog.queries.named_tasks import FoundTask, spaces_in_scope
from share_registry.catalog.sql import Session, clean, pieces
from share_registry.catalog.tables import (
    TEXT,
    AliasRow,
    CommitRow,
    LabelRow,
    MetricRow,
    TaskLifeRow,
    TaskNameRow,
    VersionRow,
    is_commit_of,
)
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.names import (
    CommitNumber,
    Selector,
    SpaceName,
    TaskName,
    Version,
    near_misses,
    parse_reference,
)
from share_registry.values.conditions import (
    COLUMNS,
    Condition,
    conditions_of,
    have_labels,
    is_pattern,
    numbers_of,
)
from share_registry.values.tasks import Task

# The versions of a task among which the newest is looked for
_VERSIONS: Final = VersionRow.table.alias()
# Tasks that are looked at together where the first did not give a page
_AT_ONCE: Final = 500
# Tasks to choose a page among; where more have a label, a page along the names is soon full
_FEW: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Which tasks are listed.

    Attributes:
        space: One space; None for all.
        labels: Only tasks whose newest version has all of these labels; values may be patterns.
        alias: Only tasks that have this alias.
        name: Only tasks whose present name fits this pattern (`*`, `?`, `[...]`).
        at: As of a commit, tag, date or time (where there are several spaces: of a date or time).
        where: Only those of which these conditions hold: `acc>0.8`, of metrics or `COLUMNS`.
        sort: By this metric or column instead of the name; with `-` the largest first.
        all_versions: Every version of each task, the newest first; conditions are of the version.
        limit: At most so many; None for all.
        after: Only tasks behind this one, or behind this name (`space/task` where no space is
            named): the last of a page gives the next page. A sorted page looks at all tasks.
    """

    space: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    name: str | None = None
    at: At | None = None
    where: str | Sequence[str] = ()
    sort: str | None = None
    all_versions: bool = False
    limit: int | None = None
    after: str | Task | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Behind which name of a space a page begins, or behind which version of that task."""

    name: str = ""
    version: int | None = None


_START: Final = _Place()


def tasks(session: Session, query: TaskQuery) -> list[Task]:
    """List the live tasks by space and name, each at its newest version.

    Raises:
        InvalidInputError, NotFoundError: the space or `at` leads nowhere, or `limit` or `after` is
            malformed.
    """
    query = replace(
        query, labels={clean(label): clean(value) for label, value in query.labels.items()}
    )
    conditions = conditions_of(query.where)
    spaces = spaces_in_scope(session, query.space)
    only = spaces[0] if len(spaces) == 1 else None
    then = as_of(session, only, query.at)
    if query.sort is not None:
        everything = [
            task
            for space in spaces
            for task in _page(session, space, then, query, conditions, _START, None)
        ]
        return _sorted(everything, query, only)[: query.limit]
    last_space, place = ("", _START) if query.after is None else _place(query.after, only)
    listed: list[Task] = []
    for space in (name for name in spaces if name >= last_space):
        left = None if query.limit is None else query.limit - len(listed)
        if left == 0:
            break
        after = place if space == last_space else _START
        listed += _page(session, space, then, query, conditions, after, left)
    return listed


def versions_of_task(
    session: Session,
    space: SpaceName,
    task: FoundTask,
    *,
    limit: int,
    until: int = lookups.EVER,
) -> list[Task]:
    """List the newest versions of a task up to one, live or dropped, the newest first."""
    rows = session.execute(
        select(VersionRow.table, CommitRow.time)
        .join(CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
        .where(VersionRow.space == space, VersionRow.task == task.task)
        .where(VersionRow.version <= until)
        .order_by(VersionRow.version.desc())
        .limit(limit)
    ).all()
    return _tasks(session, space, Then(), {task.task: task.name}, rows, of_version=True)


def total_of_task(session: Session, space: SpaceName, task: FoundTask) -> int:
    """Return how many versions a task has, those too that were removed since."""
    count = select(func.count()).where(VersionRow.space == space, VersionRow.task == task.task)
    return session.scalar(count) or 0


def unknown_names(session: Session, query: TaskQuery) -> Iterator[str]:
    """Yield which labels, metrics and aliases that were asked for no version has."""
    numbers = {condition.name for condition in conditions_of(query.where)} - COLUMNS.keys()
    asked: tuple[tuple[str, type[LabelRow | MetricRow | AliasRow], Iterable[str]], ...] = (
        ("label", LabelRow, query.labels),
        ("metric", MetricRow, sorted(numbers)),
        ("alias", AliasRow, [] if query.alias is None else [query.alias]),
    )
    for kind, row, names in asked:
        if not names:
            continue
        all_names = select(row.name).where(row.until.is_(None)).distinct()
        if query.space is not None:
            all_names = all_names.where(row.space == query.space)
        present = {*session.scalars(all_names), *(COLUMNS if row is MetricRow else ())}
        for name in names:
            if name not in present:
                yield f"no version has the {kind} {name!r}. {near_misses(name, sorted(present))}"


def _page(
    session: Session,
    space: str,
    then: Then,
    query: TaskQuery,
    conditions: Sequence[Condition],
    after: _Place,
    limit: int | None,
) -> list[Task]:
    pattern = "*" if query.name is None else query.name
    listed: list[Task] = []
    for batch in _names(session, space, then, query, after, limit):
        names = {task: name for task, name in batch if fnmatchcase(name, pattern)}
        listed += [
            task
            for task in _listed(session, space, then, query, names)
            if _fits(task, query, conditions) and _is_behind(task, after)
        ]
        if limit is not None and len(listed) >= limit:
            break
    return listed[:limit]


def _listed(
    session: Session, space: str, then: Then, query: TaskQuery, names: Mapping[int, str]
) -> list[Task]:
    """Return tasks at their newest versions, or every version of each, the newest first."""
    of_task = _of_task(VersionRow)
    if not query.all_versions:
        of_task &= VersionRow.version == _newest(then)
    elif then != Then():
        of_task &= VersionRow.number <= then.of(VersionRow.space)
    # that they are live was asked before, and may have changed since
    versions = (
        select(VersionRow.table, CommitRow.time)
        .select_from(TaskNameRow.table)
        .join(VersionRow.table, of_task)
        .join(CommitRow.table, is_commit_of(VersionRow, VersionRow.number))
        .where(TaskNameRow.space == space, TaskNameRow.until.is_(None))
    )
    rows = [
        row
        for piece in pieces(list(names))
        for row in session.execute(versions.where(TaskNameRow.task.in_(piece)))
    ]
    rows.sort(key=lambda row: (names[row.task], -row.version))
    return _tasks(session, space, then, names, rows, of_version=query.all_versions)


def _fits(task: Task, query: TaskQuery, conditions: Sequence[Condition]) -> bool:
    """Tell whether a version is as asked for, in what the statements do not ask."""
    if query.all_versions and query.alias is not None and query.alias not in task.aliases:
        return False
    numbers = numbers_of(task) if conditions else {}
    return have_labels(task.labels, query.labels) and all(
        condition.holds(numbers) for condition in conditions
    )


def _is_behind(task: Task, place: _Place) -> bool:
    """Tell whether a version stands behind a place: names go up, versions of a task down."""
    return task.name > place.name or (place.version is not None and task.version < place.version)


def _sorted(listed: Sequence[Task], query: TaskQuery, only: SpaceName | None) -> list[Task]:
    """Sort tasks by a number, then by name; those without it come last.

    Raises InvalidInputError, NotFoundError where `after` names none of them.
    """
    name = str(query.sort).removeprefix("-")
    sign = -1 if str(query.sort).startswith("-") else 1

    def key(task: Task) -> tuple[bool, float, str, str, int]:
        value = numbers_of(task).get(name)
        return value is None, sign * (value or 0.0), task.space, task.name, -task.version

    names = sorted({name for task in listed for name in numbers_of(task)})
    ensure(
        not listed or name in names,
        NotFoundError(f"no task has the metric {name!r}.", hint=near_misses(name, names)),
    )
    in_order = sorted(listed, key=key)
    if query.after is None:
        return in_order
    anchor = query.after if isinstance(query.after, Task) else _find(in_order, query.after, only)
    return [task for task in in_order if key(task) > key(anchor)]


def _find(listed: Sequence[Task], after: str, only: SpaceName | None) -> Task:
    space, place = _place(after, only)
    for task in listed:
        is_same = (task.space, task.name) == (space, place.name)
        if is_same and place.version in (None, task.version):
            return task
    raise NotFoundError(
        f"after {after!r}: no such task is in this list.",
        hint="Give the last task of the page before.",
    )


def _names(
    session: Session, space: str, then: Then, query: TaskQuery, place: _Place, limit: int | None
) -> Iterator[Sequence[Row[int, str]]]:
    """Yield the live tasks behind a name that have the labels and the alias, some at a time.

    Each comes with its name, in the order of names. They are looked up along all names, or among
    those that ever had a label or the alias, where these are few: by a sum of text, which no index
    has.
    """
    page = select(TaskNameRow.task, TaskNameRow.name).where(
        TaskNameRow.space == space, TaskNameRow.until.is_(None), _is_listed(then, query)
    )
    bearers, name = _few_bearers(session, space, query), TaskNameRow.name
    if bearers is not None:
        page, name = page.where(TaskNameRow.task.in_(bearers)), name.concat("")
    if place.version is not None:
        # the task of which the page before has some versions
        yield list(session.execute(page.where(name == place.name)))
    page = (
        page.where(name > bindparam("after", type_=TEXT))
        .order_by(name)
        .limit(bindparam("size", type_=BigInteger))
    )
    after, size = place.name, lookups.EVER if limit is None else limit
    while True:
        rows = list(session.execute(page, {"after": after, "size": size}))
        yield rows
        if len(rows) < size:
            return
        after, size = rows[-1].name, max(size, _AT_ONCE)


def _is_listed(then: Then, query: TaskQuery) -> ColumnElement[bool]:
    """Return whether a named task is live then and has the labels and the alias then.

    As a case it is asked of one name after another, until there are as many as asked for: a
    database would rather begin with everything that has the label.
    """
    conditions = [
        select(TaskLifeRow.task).where(_of_task(TaskLifeRow), then.within(TaskLifeRow)).exists()
    ]
    for name, value in _exact(query).items():
        label = select(LabelRow.task).where(_of_task(LabelRow), then.within(LabelRow))
        same = (LabelRow.name == name) & (LabelRow.value == value)
        conditions.append(label.where(same & (LabelRow.version == _newest(then))).exists())
    if query.alias is not None:
        alias = select(AliasRow.task).where(_of_task(AliasRow), then.within(AliasRow))
        conditions.append(alias.where(AliasRow.name == query.alias).exists())
    return case((and_(*conditions), true()), else_=false())


def _exact(query: TaskQuery) -> dict[str, str]:
    """Return the labels that statements ask for: whole values, of the newest version."""
    if query.all_versions:
        return {}
    return {name: value for name, value in query.labels.items() if not is_pattern(value)}


def _few_bearers(session: Session, space: str, query: TaskQuery) -> Select[int] | None:
    """Return what selects the tasks that ever had a label or the alias, where they are few."""
    candidates = [
        select(LabelRow.task).where(
            LabelRow.space == space, LabelRow.name == name, LabelRow.value == value
        )
        for name, value in _exact(query).items()
    ]
    if query.alias is not None:
        candidates.append(
            select(AliasRow.task).where(AliasRow.space == space, AliasRow.name == query.alias)
        )
    for bearers in candidates:
        if session.scalar(bearers.distinct().limit(1).offset(_FEW)) is None:
            return bearers
    return None


def _newest(then: Then) -> ColumnElement[int]:
    column = _VERSIONS.c
    of_task = (column.space == TaskNameRow.space) & (column.task == TaskNameRow.task)
    newest = select(func.max(column.version)).where(of_task)
    if then != Then():
        by_then = select(column.version).where(of_task, column.number <= then.of(column.space))
        newest = by_then.order_by(column.number.desc()).limit(1)
    return newest.correlate(TaskNameRow.table).scalar_subquery()


def _of_task(row: type[AliasRow | LabelRow | TaskLifeRow | VersionRow]) -> ColumnElement[bool]:
    return (row.space == TaskNameRow.space) & (row.task == TaskNameRow.task)


def _place(after: str | Task, space: str | None) -> tuple[str, _Place]:
    """Return space and place behind which a page begins. Raises InvalidInputError."""
    if isinstance(after, Task):
        return after.space, _Place(name=after.name, version=after.version)
    asked = parse_reference(after)
    place = asked.space if asked.space is not None else space
    if asked.task is None or place is None or space not in (None, place):
        raise InvalidInputError(
            f"after {after!r}: that is no task of {f'space {space}' if space else 'a space'}.",
            hint="Give the last task of the page before, such as base/cola.",
        )
    version = int(asked.value) if asked.selector is Selector.VERSION else None
    return place, _Place(name=asked.task, version=version)


def _tasks(
    session: Session,
    space: str,
    then: Then,
    names: Mapping[int, str],
    rows: Sequence[Row[Any]],
    *,
    of_version: bool,
) -> list[Task]:
    """Return rows of versions as tasks, with the aliases of the task or of the very version."""
    labels: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
    metrics: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    aliases: dict[int, dict[str, Version]] = defaultdict(dict)
    for piece in pieces(rows):
        for place, name, value in _annotations(session, LabelRow, space, piece, then):
            labels[place][name] = value
        for place, name, value in _annotations(session, MetricRow, space, piece, then):
            metrics[place][name] = float(value)
        query = select(AliasRow.task, AliasRow.name, AliasRow.version).where(
            (AliasRow.space == space) & AliasRow.task.in_([version.task for version in piece]),
            then.within(AliasRow),
        )
        for task, name, version in sorted(session.execute(query)):
            aliases[task][name] = Version(version)
    return [
        replace(
            bare_task(row, names[row.task]),
            labels=labels[row.task, row.version],
            metrics=metrics[row.task, row.version],
            aliases={
                alias: version
                for alias, version in aliases[row.task].items()
                if not of_version or version == row.version
            },
        )
        for row in rows
    ]


def bare_task(row: Row[Any], name: str) -> Task:
    """Return a row of a version, with its time, as a task; without labels, metrics and aliases."""
    return Task(
        name=TaskName(name),
        space=SpaceName(row.space),
        ref=f"{row.space}/{name}@v{row.version}",
        version=Version(row.version),
        number=CommitNumber(row.number),
        time=datetime.fromisoformat(row.time),
        error=row.error,
        bound=row.bound,
        removed=row.removed,
        budget=row.budget,
        raw_bytes=row.raw_bytes,
        bytes_added=row.added_bytes,
        labels={},
        metrics={},
        aliases={},
    )


def _annotations(
    session: Session,
    row: type[LabelRow | MetricRow],
    space: str,
    versions: Sequence[Row[Any]],
    then: Then,
) -> Iterator[tuple[tuple[int, int], str, str]]:
    """Yield (task, version), name and value of labels or metrics of some versions then, sorted.

    The database is led to them by the commits that made the versions. The outer join and the sum,
    which is no column, keep SQLite from any other way: each task with each version takes longer
    than all the rest. It may give those of other versions too, which are left out here.
    """
    of_version = (
        (row.space == VersionRow.space)
        & (row.task == VersionRow.task)
        & (row.version == VersionRow.version)
        & then.within(row)
    )
    query = (
        select(VersionRow.task, row.name, row.value, VersionRow.version)
        .select_from(VersionRow.table.outerjoin(row.table, of_version))
        .where(VersionRow.space == space)
        .where(VersionRow.number.in_([version.number for version in versions]))
        .where((VersionRow.task + 0).in_([version.task for version in versions]))
        .where(row.name.is_not(None))
    )
    places = {(version.task, version.version) for version in versions}
    for task, name, value, version in sorted(session.execute(query)):
        if (task, version) in places:
            yield (task, version), name, value
