"""What was when: the log, what was live on a date, what changed since."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from starlette.requests import Request

from share_registry.registry.browsing import known_tags, lines_of_tasks
from share_registry.registry.registry import Registry
from share_registry.ui.addresses import space_path, with_query
from share_registry.ui.views.page import Page, Site, asked_for, labels_of, text_of
from share_registry.values.commits import KINDS
from share_registry.values.tasks import Task

_COMMITS: Final = 50
_TASKS: Final = 100
# Rows of changes
_CHANGES: Final = 300
# What is shown where nobody says since when
_LATELY: Final = "7d"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitSelection:
    """Which commits are shown, as typed; None for what was left empty.

    Attributes:
        label: NAME=VALUE.
        metric: Such as acc>0.8.
        since, until: Dates or times.
        before: The last commit of the page before.
    """

    task: str | None
    kind: str | None
    author: str | None
    label: str | None
    metric: str | None
    since: str | None
    until: str | None
    before: str | None

    @property
    def narrows(self) -> bool:
        """Whether not all commits are asked for."""
        return any(asdict(replace(self, before=None)).values())

    def path(self, place: str, *, before: str | None) -> str:
        """Return the path of another page of the same."""
        return with_query(place, **asdict(self) | {"before": before})


def show_log(site: Site, request: Request) -> Page:
    """Show commits of a space or of all, the newest first, one page of them."""
    space = request.path_params.get("space")
    summary = None if space is None else site.registry.space(space).summary
    asked = asked_for(CommitSelection, request)
    log = site.registry.log(
        space,
        task=asked.task,
        kind=asked.kind,
        author=asked.author,
        labels=labels_of(filter(None, [asked.label])),
        metric=asked.metric,
        since=asked.since,
        until=asked.until,
        before=asked.before,
        limit=_COMMITS + 1,
    )
    commits = log.commits[:_COMMITS]
    place = "/log" if space is None else f"{space_path(space)}/log"
    more = ""
    if len(log) > _COMMITS:
        more = asked.path(place, before=f"{commits[-1].space}/@c{commits[-1].number}")
    return Page(
        template="log.html",
        title="Log" if space is None else f"Log of {space}",
        members={
            "space": summary,
            "place": place,
            "asked": asked,
            "kinds": KINDS,
            "commits": commits,
            "first": asked.path(place, before=None),
            "more": more,
        },
    )


def show_live(site: Site, request: Request) -> Page:
    """Show what was live at a moment, and what stands in its place now."""
    at, after, space = (text_of(request, name) for name in ("at", "after", "space"))
    scope = site.registry if space is None else site.registry.space(space)
    listed = [] if at is None else scope.tasks(at=at, after=after, limit=_TASKS + 1)
    tasks = listed[:_TASKS]
    more = ""
    if len(listed) > _TASKS:
        more = with_query("/live", at=at, space=space, after=tasks[-1].ref)
    return Page(
        template="live.html",
        title=f"Live on {at}" if at else "Live on a date",
        members={
            "at": at,
            "space": space,
            "after": after,
            "spaces": site.space_names(),
            "tags": known_tags(scope.context, scope.scope) if at is None else [],
            "tasks": tasks,
            "now": _newest(site.registry, tasks),
            "more": more,
        },
    )


def show_changes(site: Site, request: Request) -> Page:
    """Show what changed between two moments, a row a task."""
    since, until, space = (text_of(request, name) for name in ("since", "until", "space"))
    scope = site.registry if space is None else site.registry.space(space)
    changes = scope.changes(since or _LATELY, until=until, compare=False)
    return Page(
        template="changes.html",
        title="Changes",
        members={
            "since": since or _LATELY,
            "until": until,
            "space": space,
            "spaces": site.space_names(),
            "changes": changes,
            "most": _CHANGES,
        },
    )


def _newest(registry: Registry, tasks: Sequence[Task]) -> Mapping[tuple[str, str], Task]:
    """Return the newest versions of tasks by space and name; those that were dropped since too."""
    lines = lines_of_tasks(registry.context, tasks, last=1)
    return {task: line[-1] for task, line in lines.items()}
