"""Verbs that read: a transaction on a catalog that follows the store, and one question to `history`."""

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING

from share_registry.catalog.queries import space_names
from share_registry.errors import Refused
from share_registry.registry import history, listing
from share_registry.registry import lineage as ancestry
from share_registry.registry.commits import weighed
from share_registry.registry.replay import forgotten, rebuild_catalog
from share_registry.registry.resolve import resolve, space_of
from share_registry.registry.results import (
    Alias,
    AliasMove,
    Commit,
    Lineage,
    Log,
    Resolved,
    SpaceSummary,
    Tag,
    Task,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from share_registry.registry.home import Home

At = str | int | date | None
"""A moment: a date or time, a commit number, or what may stand behind `@`."""


def spaces(home: "Home") -> list[SpaceSummary]:
    """See `Registry.spaces`."""
    with home.reading() as session:
        return history.spaces(session)


def space_summary(home: "Home", name: str) -> SpaceSummary:
    """Return one space. Raises InvalidInput, NotFound."""
    with home.reading() as session:
        where = space_of(session, name)
        return next(found for found in history.spaces(session) if found.name == where)


def log(
    home: "Home",
    space: str | None,
    *,
    task: str | None,
    kind: str | None,
    author: str | None,
    since: str | date | None,
    until: str | date | None,
    limit: int | None,
    before: int | str | Commit | Resolved | None,
) -> Log:
    """See `Registry.log`."""
    if isinstance(before, Commit | Resolved):
        # the commit itself: what it speaks of may have been made by an earlier one
        before = f"{before.space}/@c{before.number}"
    with home.reading() as session:
        where = _asked(home, space) if before is None else _asked_or_only(home, session, space)
        found = history.log(
            session,
            space=where,
            task=task,
            kind=kind,
            author=author,
            since=since,
            until=until,
            limit=limit,
            before=before,
        )
    return Log(commits=tuple(weighed(commit, home.store) for commit in found))


def show(home: "Home", ref: str, *, space: str | None) -> Commit:
    """See `Registry.show`."""
    with home.reading() as session:
        asked = resolve(session, ref, space=_asked(home, space))
        found = history.commit_at(session, asked.space, asked.number)
    if not found.reports and found.basis is None:
        return found
    from share_registry.registry.reports import with_modules

    return with_modules(home, found, asked.task)


def resolve_reference(home: "Home", ref: str, *, space: str | None) -> Resolved:
    """See `Registry.resolve`."""
    with home.reading() as session:
        return resolve(session, ref, space=_asked(home, space))


def tasks(
    home: "Home",
    space: str | None,
    *,
    labels: Mapping[str, str] | None,
    alias: str | None,
    name: str | None,
    at: At,
    limit: int | None,
    after: str | Task | None,
) -> list[Task]:
    """See `Registry.tasks`."""
    last = f"{after.space}/{after.name}" if isinstance(after, Task) else after
    with home.reading() as session:
        where = (
            _asked(home, space)
            if at is None and after is None
            else _asked_or_only(home, session, space)
        )
        return listing.tasks(
            session,
            space=where,
            labels=labels,
            alias=alias,
            name=name,
            at=_moment(at),
            limit=limit,
            after=last,
        )


def lineage(home: "Home", ref: str, *, space: str | None) -> Lineage:
    """See `Registry.lineage`."""
    with home.reading() as session:
        return ancestry.lineage(session, ref, space=_asked(home, space))


def aliases(home: "Home", space: str | None, *, task: str | None) -> list[Alias]:
    """See `Registry.aliases`."""
    with home.reading() as session:
        return history.aliases(session, space=_asked(home, space), task=task)


def alias_history(
    home: "Home", task: str, alias: str, *, space: str | None, at: At
) -> list[AliasMove]:
    """See `Registry.alias_history`."""
    with home.reading() as session:
        return history.alias_history(
            session, task, alias, space=_asked(home, space), at=_moment(at)
        )


def tags(home: "Home", space: str | None) -> list[Tag]:
    """See `Registry.tags`."""
    with home.reading() as session:
        return history.tags(session, space=_asked(home, space))


def rebuild(home: "Home", *, accept_loss: bool) -> int:
    """See `Registry.rebuild`."""
    home.require_writable()
    with home.locked():
        lost = forgotten(home.store, home.catalog)
        if lost and not accept_loss:
            raise Refused(
                f"the catalog knows commits that are not in the store: {', '.join(lost)}.",
                hint="Bring the records back from a copy of the store, or rebuild with accept_loss=True and forget them.",
            )
        rebuild_catalog(home.store, home.catalog)
    with home.reading() as session:
        return sum(space.commits for space in history.spaces(session))


def _asked(home: "Home", space: str | None) -> str | None:
    return space if space is not None else home.default_space


def _asked_or_only(home: "Home", session: "Session", space: str | None) -> str | None:
    """Return the only space where none is asked: a commit number means something there."""
    asked = _asked(home, space)
    names = space_names(session) if asked is None else ()
    return names[0] if len(names) == 1 else asked


def _moment(at: At) -> str | date | None:
    return f"c{at}" if isinstance(at, int) else at
