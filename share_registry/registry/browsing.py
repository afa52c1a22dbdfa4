"""What pages show beside the answers of verbs, each read in one transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from share_registry.catalog.queries import aliases, log as log_pages, lookups, task_histories
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.catalog.queries.retention_rows import metric_names, size_of_matrix
from share_registry.catalog.queries.task_pages import TaskQuery, tasks, unknown_names
from share_registry.errors import ShareRegistryError
from share_registry.names import SpaceName, TaskName, parse_reference
from share_registry.registry.context import Context, with_basis_size
from share_registry.values.commits import Commit
from share_registry.values.past_versions import Chronicle
from share_registry.values.references import Tag
from share_registry.values.tasks import SpaceSummary, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSpaces:
    """The spaces, as far as their newest state is known.

    Attributes:
        spaces: Those whose state is known.
        unknown: Why that of the others is not, by name.
        versions: How many versions each space has, those too that were removed since.
    """

    spaces: Sequence[SpaceSummary]
    unknown: Mapping[SpaceName, ShareRegistryError]
    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPast:
    """What became of a task.

    Attributes:
        space: Its space, as the last commit that is known left it.
        chronicle: Its versions and moves; none where the newest state of the space is not known.
        unknown: Why it is not.
    """

    space: SpaceSummary
    chronicle: Chronicle
    unknown: ShareRegistryError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixOutline:
    """What a retention matrix would have: its rows and columns, and the metrics to choose from."""

    tasks: int
    commits: int
    metrics: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """Tasks of a space, at one moment.

    Attributes:
        space: The space.
        tasks: The tasks that were asked for.
        lines: The last few versions of each by its name, oldest first.
    """

    space: SpaceSummary
    tasks: Sequence[Task]
    lines: Mapping[str, Sequence[Task]]


def names_of_spaces(context: Context) -> list[SpaceName]:
    """Return the names of all spaces, damaged ones too."""
    with context.reading() as session:
        return lookups.space_names(session)


def known_spaces(context: Context, scope: SpaceName | None) -> KnownSpaces:
    """Return every space whose newest state is known, and why that of the others is not.

    With a scope of that space alone.
    """
    with context.reading() as session:
        return KnownSpaces(
            spaces=[each for each in aliases.sound_spaces(session) if scope in (None, each.name)],
            unknown={
                name: error
                for name, error in lookups.unknown_newest(session).items()
                if scope in (None, name)
            },
            versions=task_histories.version_counts(session, scope),
        )


def known_tags(context: Context, space: SpaceName | None) -> list[Tag]:
    """Return the tags of a space, or of all whose newest state is known; as `Registry.tags`."""
    with context.reading() as session:
        if space is not None:
            return aliases.tags(session, space=space)
        unknown = lookups.unknown_newest(session)
        if not unknown:
            return aliases.tags(session)
        names = [name for name in lookups.space_names(session) if name not in unknown]
        return [tag for name in names for tag in aliases.tags(session, space=name)]


def why_no_task(
    context: Context,
    space: SpaceName | None,
    *,
    labels: Mapping[str, str],
    alias: str | None,
    where: str | Sequence[str],
) -> list[str]:
    """Return which of the labels, metrics and aliases asked for no version has, in sentences.

    Args:
        context: The registry.
        space: One space; None for all.
        labels, alias, where: As `Registry.tasks` was asked.
    """
    query = TaskQuery(space=space, labels=labels, alias=alias, where=where)
    with context.reading() as session:
        return [*unknown_names(session, query)]


def task_page(context: Context, query: TaskQuery, *, last: int) -> TaskPage:
    """Return tasks with their last few versions. Raises as `Registry.tasks`."""
    with context.reading() as session:
        summary = aliases.space_summary(session, str(query.space))
        listed = tasks(session, query)
        names = [task.name for task in listed]
        lines = task_histories.recent_versions(session, summary.name, names, last=last)
    return TaskPage(space=summary, tasks=listed, lines=lines)


def task_past(context: Context, space: str, asked: str, *, most: int) -> TaskPast:
    """Return what became of a task, live or dropped.

    Args:
        context: The registry.
        space: Its space.
        asked: The task, or a version of it. That version can be shown where the rest cannot.
        most: At most so many versions, the newest.

    Raises:
        NotFoundError: there is no such space or task.
        IntegrityError, FormatError: the newest state of the space is not known, and is asked for.
    """
    task = str(parse_reference(asked).task)
    with context.reading() as session:
        where = space_of(session, space)
        unknown = lookups.unknown_newest(session).get(where) if "@" in asked else None
        chronicle = (
            task_histories.chronicle_of(session, where, task, limit=most)
            if unknown is None
            else Chronicle(
                space=where, task=TaskName(task), live=True, versions=(), total=0, moves=()
            )
        )
        summary = aliases.space_as_known(session, where)
    return TaskPast(space=summary, chronicle=chronicle, unknown=unknown)


def lines_of_tasks(
    context: Context, tasks: Sequence[Task], *, last: int
) -> dict[tuple[str, str], Sequence[Task]]:
    """Return the last few versions of tasks by space and name, oldest first; dropped tasks too."""
    lines: dict[tuple[str, str], Sequence[Task]] = {}
    with context.reading() as session:
        for space, group in groupby(tasks, key=lambda task: task.space):
            names = [task.name for task in group]
            recent = task_histories.recent_versions(session, space, names, last=last)
            lines |= {(space, name): line for name, line in recent.items()}
    return lines


def commit_of(context: Context, ref: str, *, space: str | None = None) -> Commit:
    """Return a commit as the log knows it: no adapter of it is read. Raises NotFoundError."""
    with context.reading() as session:
        commit = log_pages.show(session, ref, space=space)
    return with_basis_size(context, commit)


def matrix_outline(context: Context, space: SpaceName) -> MatrixOutline:
    """Return what the retention matrix of a space would have, uncut."""
    with context.reading() as session:
        tasks, commits = size_of_matrix(session, space)
        metrics = metric_names(session, space)
    return MatrixOutline(tasks=tasks, commits=commits, metrics=metrics)
