"""A task with its versions, and a commit."""

from typing import Final

from starlette.requests import Request

from share_registry.catalog.queries import log as log_pages
from share_registry.catalog.queries.task_histories import chronicle_of
from share_registry.errors import InvalidInputError, NotFoundError, ShareRegistryError, ensure
from share_registry.names import SpaceName, parse_reference
from share_registry.ui.views.loading import snippets
from share_registry.ui.views.page import Page, Site
from share_registry.values.commits import Commit
from share_registry.values.past_versions import Chronicle, PastVersion

_VERSIONS: Final = 100
_ANCESTORS: Final = 60


def show_task(site: Site, request: Request) -> Page:
    """Show one version of a task, and what became of the task."""
    space = site.registry.space(request.path_params["space"])
    text = request.path_params["task"]
    asked = parse_reference(text)
    ensure(
        asked.task is not None and asked.space is None,
        InvalidInputError(f"{text!r} names no task.", hint="Write task or task@v3."),
    )
    with site.registry.context.reading() as session:
        history = chronicle_of(session, space.name, str(asked.task), limit=_VERSIONS)
    ref = f"{space.name}/{text}"
    if not history.live and "@" not in text and history.versions:
        # a dropped task has no version of now
        ref = history.versions[0].task.ref
    commit, reason = _with_report(site, ref)
    ref = commit.ref
    lineage = site.registry.lineage(ref)
    return Page(
        template="task.html",
        title=ref,
        members={
            "space": space.summary,
            "history": history,
            "commit": commit,
            "reason": reason,
            "shown": _shown(history, ref),
            "lineage": lineage.nodes[:_ANCESTORS],
            "more_ancestors": max(len(lineage.nodes) - _ANCESTORS, 0),
            "snippets": snippets(commit, base_model=space.summary.base_model),
        },
    )


def show_commit(site: Site, request: Request) -> Page:
    """Show one commit."""
    space = SpaceName(request.path_params["space"])
    commit, reason = _with_report(site, f"{space}/@{request.path_params['commit']}")
    title = f"{space}/@c{commit.number}"
    return Page(
        template="commit.html",
        title=title,
        members={"space": space, "commit": commit, "reason": reason},
    )


def _with_report(site: Site, ref: str) -> tuple[Commit, ShareRegistryError | None]:
    """Return a commit with its modules, or without them and why they cannot be read."""
    try:
        return site.registry.show(ref), None
    except (InvalidInputError, NotFoundError):
        # what was asked for is not there, unless it is an object of it that is gone
        with site.registry.context.reading() as session:
            return log_pages.show(session, ref, space=site.registry.scope), None
    except ShareRegistryError as error:
        with site.registry.context.reading() as session:
            return log_pages.show(session, ref, space=site.registry.scope), error


def _shown(history: Chronicle, ref: str) -> PastVersion | None:
    """Return the version of a reference out of a history, None where it is older than those."""
    return next((past for past in history.versions if past.task.ref == ref), None)
