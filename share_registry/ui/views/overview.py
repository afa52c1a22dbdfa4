"""What there is: the spaces, and the tasks of one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from starlette.requests import Request

from share_registry.catalog.queries.task_pages import TaskQuery
from share_registry.registry.browsing import known_spaces, task_page
from share_registry.ui.addresses import space_path, with_query
from share_registry.ui.views.page import Page, Site, asked_for, labels_of
from share_registry.values.tasks import SpaceSummary

_TASKS: Final = 50
# Versions of a task that its line has
_POINTS: Final = 24
_LATEST: Final = 8
_WILD: Final = "*?["


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tasks of a space are shown, as typed; None for what was left empty.

    Attributes:
        name: Part of a name, or a pattern.
        label: NAME=VALUE.
        where: A condition, such as acc>0.8.
        sort: A number, with `-` the largest first.
        at: A date, time, commit or tag.
        after: The last task of the page before.
    """

    name: str | None
    label: str | None
    alias: str | None
    where: str | None
    sort: str | None
    at: str | None
    after: str | None

    def query(self, space: str) -> TaskQuery:
        """Return what lists a page, and one task more. Raises InvalidInputError."""
        name = self.name
        if name is not None and not any(letter in name for letter in _WILD):
            name = f"*{name}*"
        return TaskQuery(
            space=space,
            name=name,
            labels=labels_of(filter(None, [self.label])),
            alias=self.alias,
            where=self.where or (),
            sort=self.sort,
            at=self.at,
            after=self.after,
            limit=_TASKS + 1,
        )

    @property
    def narrows(self) -> bool:
        """Whether not all live tasks of now are asked for."""
        return any((self.name, self.label, self.alias, self.where, self.at))

    def path(self, space: str, **changed: str | None) -> str:
        """Return the path of another selection, from its first page on."""
        return with_query(space_path(space), **asdict(self) | {"after": None} | changed)

    def sorted_path(self, space: str, by: str) -> str:
        """Return the path of the same, sorted by a number, or the other way round."""
        return self.path(space, sort=f"-{by}" if self.sort == by else by)

    def order(self, by: str | None) -> str:
        """Return how a column is sorted, as ARIA says it."""
        if by is None:
            return "none" if self.sort else "ascending"
        return {by: "ascending", f"-{by}": "descending"}.get(self.sort or "", "none")


def show_spaces(site: Site, _: Request) -> Page:
    """Show every space, and what was committed last to those whose newest state is known.

    Where the site is of one space, that alone.
    """
    registry = site.registry
    summaries = known_spaces(registry.context, registry.scope)
    scopes = [space.name for space in summaries.spaces] if summaries.unknown else [None]
    commits = [commit for scope in scopes for commit in registry.log(scope, limit=_LATEST)]
    commits.sort(key=lambda commit: commit.time, reverse=True)
    return Page(
        template="spaces.html",
        title="Spaces",
        members={
            "spaces": summaries.spaces,
            "versions": summaries.versions,
            "unknown": {
                name: site.told(error, asked=space_path(name))
                for name, error in sorted(summaries.unknown.items())
            },
            "commits": commits[:_LATEST],
        },
    )


def show_space(site: Site, request: Request) -> Page:
    """Show the tasks of a space, one page of them."""
    asked = asked_for(Selection, request)
    page = task_page(site.registry.context, asked.query(request.path_params["space"]), last=_POINTS)
    space, listed = page.space, page.tasks
    more = asked.path(space.name, after=listed[-2].ref) if len(listed) > _TASKS else ""
    return Page(
        template="space.html",
        title=space.name,
        members={
            "space": space,
            "facts": facts_of(space),
            "asked": asked,
            "tasks": listed[:_TASKS],
            "lines": page.lines,
            "metrics": sorted({name for task in listed for name in task.metrics}),
            "more": more,
        },
    )


def facts_of(space: SpaceSummary) -> Mapping[str, str]:
    """Return what a space does by default, of what is not as usual."""
    revision = f" at {space.base_revision}" if space.base_revision else ""
    facts = {
        "base model": f"{space.base_model}{revision}",
        "also called": ", ".join(space.base_labels),
        "originals": "kept" if space.keep_original else "",
        "references": "" if space.references else "none to earlier adapters",
        "required checks": ", ".join(space.require),
        "basis": "" if space.k is None else f"k {space.k}, refitted at every commit",
    }
    return {name: text for name, text in facts.items() if text}
