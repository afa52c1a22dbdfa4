"""A task with its versions, and a commit."""

from itertools import islice
from typing import Final

from starlette.requests import Request

from share_registry.errors import InvalidInputError, NotFoundError, ShareRegistryError, ensure
from share_registry.look.lineage_graph import lineage_graph
from share_registry.look.module_map import bits_map, error_map
from share_registry.look.timeline import timeline
from share_registry.names import SpaceName, parse_reference
from share_registry.registry.browsing import commit_of, task_past
from share_registry.ui.addresses import version_path
from share_registry.ui.views.page import Page, Site
from share_registry.values.commits import Commit, Log
from share_registry.values.loading import snippets
from share_registry.values.past_versions import Chronicle, PastVersion

_VERSIONS: Final = 100
# Commits about a task that its time line is drawn from
_EVENTS: Final = 400
_ANCESTORS: Final = 60
# Versions of a commit that its page lists
_REFS: Final = 300


def show_task(site: Site, request: Request) -> Page:
    """Show one version of a task, and what became of the task."""
    task = _task_of(request)
    past = task_past(
        site.registry.context,
        request.path_params["space"],
        request.path_params["task"],
        most=_VERSIONS,
    )
    space, history, unknown = past.space, past.chronicle, past.unknown
    ref = f"{space.name}/{request.path_params['task']}"
    if not history.live and "@" not in ref and history.versions:
        # a dropped task has no version of now
        ref = history.versions[0].task.ref
    commit, reason = _with_report(site, ref)
    ref = commit.ref
    lineage = site.registry.lineage(ref)
    log = (
        Log(commits=())
        if unknown
        else site.registry.log(task=f"{space.name}/{task}", limit=_EVENTS)
    )
    has_modules = commit.report is not None and bool(commit.report.modules)
    return Page(
        template="task.html",
        title=ref,
        members={
            "space": space,
            "history": history,
            "most": _VERSIONS,
            "commit": commit,
            "reason": reason or (site.told(unknown, asked=ref) if unknown else None),
            "shown": _shown(history, ref),
            "timeline": timeline(log, link=version_path),
            "graph": lineage_graph(lineage, link=version_path),
            "maps": [bits_map(commit.report), error_map(commit.report)]
            if has_modules and commit.report
            else [],
            "lineage": lineage.nodes[:_ANCESTORS],
            "more_ancestors": max(len(lineage.nodes) - _ANCESTORS, 0),
            "snippets": snippets(commit, base_model=space.base_model),
        },
    )


def asked_version(site: Site, request: Request) -> tuple[SpaceName, str]:
    """Return the space that a path names, and the version, as `space/task@vN`."""
    _task_of(request)
    version = site.registry.resolve("{space}/{task}".format_map(request.path_params))
    return version.space, version.ref


def show_commit(site: Site, request: Request) -> Page:
    """Show one commit, as the log knows it: no adapter of it is read."""
    space = SpaceName(request.path_params["space"])
    commit = commit_of(site.registry.context, f"{space}/@{request.path_params['commit']}")
    title = f"{space}/@c{commit.number}"
    return Page(
        template="commit.html",
        title=title,
        members={
            "space": space,
            "commit": commit,
            "refs": dict(islice(commit.refs.items(), _REFS)),
            "more": max(len(commit.refs) - _REFS, 0),
        },
    )


def _task_of(request: Request) -> str:
    """Return the task that a path names, with a version or without. Raises InvalidInputError."""
    text = request.path_params["task"]
    asked = parse_reference(text)
    ensure(
        asked.task is not None and asked.space is None,
        InvalidInputError(f"{text!r} names no task.", hint="Write task or task@v3."),
    )
    return str(asked.task)


def _with_report(site: Site, ref: str) -> tuple[Commit, ShareRegistryError | None]:
    """Return a commit with its modules, or without them and why they cannot be read."""
    try:
        return site.registry.show(ref), None
    except (InvalidInputError, NotFoundError):
        # what was asked for is not there, unless it is an object of it that is gone
        return commit_of(site.registry.context, ref, space=site.registry.scope), None
    except ShareRegistryError as error:
        commit = commit_of(site.registry.context, ref, space=site.registry.scope)
        return commit, site.told(error, asked=ref)


def _shown(history: Chronicle, ref: str) -> PastVersion | None:
    """Return the version of a reference out of a history, None where it is older than those."""
    return next((past for past in history.versions if past.task.ref == ref), None)
