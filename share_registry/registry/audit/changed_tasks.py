"""What changed between two moments, one row a task."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from typing import Final, TypeAlias

from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups, task_pages
from share_registry.catalog.queries.as_of import instant, is_time, last_commit_by, number_at
from share_registry.catalog.queries.authors import TaskCommits, commits_by_task
from share_registry.catalog.queries.named_tasks import spaces_in_scope
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, ShareRegistryError, ensure
from share_registry.names import CommitNumber, SpaceName, TaskName
from share_registry.registry.arguments import Progress
from share_registry.registry.audit.diff import relative_to_first
from share_registry.registry.checkout.checkout import checkout
from share_registry.registry.context import Context
from share_registry.times import or_ago
from share_registry.values.changes import Changes, TaskChange
from share_registry.values.tasks import Task

# A commit, tag, date or time, or how long ago: `7d`
Moment: TypeAlias = str | date
_LATEST: Final = "latest"


@one_thread()
def changes(
    context: Context,
    since: Moment,
    *,
    until: Moment | None,
    space: str | None,
    compare: bool,
    progress: Progress,
) -> Changes:
    """Return what changed of each task; see `Registry.changes`."""
    now = context.outside.now()
    first = or_ago(since, now)
    last = None if until is None or until == _LATEST else or_ago(until, now)
    rows: list[TaskChange] = []
    unchanged = 0
    with context.reading() as session:
        for name in spaces_in_scope(session, space):
            changed, same = _of_space(session, name, first, last, is_alone=space is not None)
            rows += changed
            unchanged += same
    if compare:
        rows = [
            _compared(context, row, progress, done, len(rows))
            for done, row in enumerate(rows, start=1)
        ]
    return Changes(
        since=str(since),
        until=_LATEST if last is None else str(until),
        tasks=tuple(rows),
        unchanged=unchanged,
    )


def _of_space(
    session: Session, space: SpaceName, first: Moment, last: Moment | None, *, is_alone: bool
) -> tuple[list[TaskChange], int]:
    """Return the changes of one space, and how many tasks have none."""
    lookups.require_newest(session, space)
    begin = _number(session, space, first, is_alone=is_alone, is_end=False)
    if last is None:
        head = lookups.head(session, space)
        end = CommitNumber(head.number if head else 0)
    else:
        end = _number(session, space, last, is_alone=is_alone, is_end=True)
    ensure(
        begin <= end,
        InvalidInputError(
            f"c{end} of space {space}, up to which changes are asked for, is before c{begin}.",
            hint="Give the earlier moment first.",
        ),
    )
    before, after = (_tasks(session, space, number) for number in (begin, end))
    commits = commits_by_task(session, space, begin, end)
    rows = [*_rows(space, before, after, commits)]
    return rows, len(after) - sum(row.after is not None for row in rows)


def _number(
    session: Session, space: SpaceName, moment: Moment, *, is_alone: bool, is_end: bool
) -> CommitNumber:
    """Return the last commit of a space by a moment; 0 where the space begins later.

    A date is its end, or its beginning.
    """
    if is_time(moment):
        time = instant(moment, end=is_end)
        return last_commit_by(session, space, time, strictly=not is_end)
    ensure(
        is_alone,
        InvalidInputError(
            f"{str(moment)!r} is a commit of one space, and none is named.",
            hint="Name the space, or give a date, a time or a length such as 7d.",
        ),
    )
    return number_at(session, space, moment)


def _tasks(session: Session, space: SpaceName, number: CommitNumber) -> dict[TaskName, Task]:
    if not number:
        return {}
    query = task_pages.TaskQuery(space=space, at=f"c{number}")
    return {task.name: task for task in task_pages.tasks(session, query)}


def _rows(
    space: SpaceName,
    before: Mapping[TaskName, Task],
    after: Mapping[TaskName, Task],
    commits: Mapping[TaskName, TaskCommits],
) -> Iterator[TaskChange]:
    for name in sorted(commits):
        then, now = before.get(name), after.get(name)
        if then is None and now is None:
            # it came and went in between
            continue
        aliases = {
            alias: (_version_of(then, alias), _version_of(now, alias))
            for alias in sorted({*(then.aliases if then else ()), *(now.aliases if now else ())})
        }
        yield TaskChange(
            task=f"{space}/{name}",
            status=_status(then, now),
            before=then.ref if then else None,
            after=now.ref if now else None,
            aliases={alias: move for alias, move in aliases.items() if move[0] != move[1]},
            commits=commits[name].count,
            authors=tuple(commits[name].authors),
            time=commits[name].last,
        )


def _version_of(task: Task | None, alias: str) -> int | None:
    return None if task is None else task.aliases.get(alias)


def _status(then: Task | None, now: Task | None) -> str:
    if then is None:
        return "new"
    if now is None:
        return "dropped"
    return "same" if then.version == now.version else "changed"


def _compared(
    context: Context, row: TaskChange, progress: Progress, done: int, total: int
) -> TaskChange:
    """Return a row with the change of dW, where both versions can be read."""
    progress("tasks", done, total)
    if row.status == "same":
        return replace(row, change=0.0)
    if row.before is None or row.after is None:
        return row
    try:
        before, after = (checkout(context, ref, space=None) for ref in (row.before, row.after))
    except ShareRegistryError:
        # it was expired since, or is damaged: verify says so
        return row
    return replace(row, change=relative_to_first(before, after, refs=(row.before, row.after)))
