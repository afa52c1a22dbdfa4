"""Documents for programs: what verbs that read print with `--json`, under `/v1/`."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import Depends, FastAPI, Path, Query, Request

from share_registry.http.answers import JsonAnswer
from share_registry.ui.views.page import Site, labels_of
from share_registry.values.analyses import Retention
from share_registry.values.changes import Changes
from share_registry.values.checks import Diff, VerifyReport
from share_registry.values.commits import Commit
from share_registry.values.documents import document
from share_registry.values.lints import Lint
from share_registry.values.references import Alias, AliasMove, Tag
from share_registry.values.tasks import Lineage, SpaceSummary, Task

_MOST: Final = 1000
_T = TypeVar("_T")


async def _site(request: Request) -> Site:
    site: Site = request.app.state.site
    return site


_Site = Annotated[Site, Depends(_site)]
_Space = Annotated[str | None, Query(description="One space; all where it is left out.")]
_Limit = Annotated[int, Query(ge=1, le=_MOST, description="At most so many: a page.")]
_Label = Annotated[list[str] | None, Query(description="NAME=VALUE; may be repeated.")]
_When = Annotated[str | None, Query(description="A date, time, commit or tag.")]
_Ref = Annotated[str, Path(description="[space/]task[@selector][~n], or [space/]@selector.")]


async def spaces(site: _Site) -> JsonAnswer:
    """Every space, or the one that is served."""
    return await _light(site, site.spaces)


async def tasks(
    site: _Site,
    space: _Space = None,
    name: str | None = None,
    label: _Label = None,
    alias: str | None = None,
    where: Annotated[list[str] | None, Query(description="acc>0.8; may be repeated.")] = None,
    sort: str | None = None,
    at: _When = None,
    all_versions: bool = False,
    after: Annotated[str | None, Query(description="The last task of the page before.")] = None,
    limit: _Limit = 100,
) -> JsonAnswer:
    """The live tasks by name, each at its newest version; in pages."""
    list_tasks = partial(
        site.registry.tasks,
        space,
        name=name,
        labels=labels_of(label or ()),
        alias=alias,
        where=where or (),
        sort=sort,
        at=at,
        all_versions=all_versions,
        after=after,
        limit=limit,
    )
    return await _light(site, list_tasks)


async def log(
    site: _Site,
    space: _Space = None,
    task: str | None = None,
    kind: str | None = None,
    author: str | None = None,
    label: _Label = None,
    metric: str | None = None,
    since: str | None = None,
    until: str | None = None,
    before: Annotated[str | None, Query(description="The last commit of the page before.")] = None,
    limit: _Limit = 50,
) -> JsonAnswer:
    """Commits, newest first; in pages."""
    list_commits = partial(
        site.registry.log,
        space,
        task=task,
        kind=kind,
        author=author,
        labels=labels_of(label or ()),
        metric=metric,
        since=since,
        until=until,
        before=before,
        limit=limit,
    )
    return await _light(site, list_commits)


async def aliases(site: _Site, task: str | None = None) -> JsonAnswer:
    """The aliases of all tasks, or of one."""
    return await _light(site, partial(site.registry.aliases, task=task))


async def alias_history(site: _Site, task: str, alias: str, at: _When = None) -> JsonAnswer:
    """The moves of an alias, newest first; with `at` the one in force then."""
    return await _light(site, partial(site.registry.alias_history, task, alias, at=at))


async def tags(site: _Site) -> JsonAnswer:
    """The names of commits."""
    return await _light(site, site.registry.tags)


async def show(site: _Site, ref: _Ref) -> JsonAnswer:
    """The commit that a version or `@cN` stands for, with its full report."""
    return await _heavy(site, partial(site.registry.show, ref))


async def lineage(site: _Site, ref: _Ref) -> JsonAnswer:
    """Where a version came from."""
    return await _light(site, partial(site.registry.lineage, ref))


async def diff(site: _Site, a: str, b: str) -> JsonAnswer:
    """Two versions, or two states of a space, compared."""
    return await _heavy(site, partial(site.registry.diff, a, b))


async def changes(
    site: _Site, since: str, until: str | None = None, compare: bool = False
) -> JsonAnswer:
    """What changed between two moments, a row a task; with `compare` by how much."""
    return await _heavy(site, partial(site.registry.changes, since, until=until, compare=compare))


async def retention(site: _Site, space: str | None = None, metric: str | None = None) -> JsonAnswer:
    """The error, or a metric, of every task at every commit that changed one."""
    registry = site.registry if space is None else site.registry.space(space)
    return await _heavy(site, partial(registry.retention, metric=metric))


async def lint(
    site: _Site, ref: _Ref, target: str | None = None, profile: str = "native"
) -> JsonAnswer:
    """What servers refuse, misread or need of the export of a version."""
    return await _heavy(site, partial(site.registry.lint, ref, target=target, profile=profile))


async def verify(
    site: _Site, level: str = "quick", subset: str | None = None, shard: str | None = None
) -> JsonAnswer:
    """What is damaged: `quick` looks at chains and presence, `data` hashes every byte."""
    return await _heavy(site, partial(site.verify, level=level, subset=subset, shard=shard))


DOCUMENTS: Final[Mapping[str, tuple[Callable[..., Any], Any]]] = {
    "/v1/spaces": (spaces, list[SpaceSummary]),
    "/v1/tasks": (tasks, list[Task]),
    "/v1/log": (log, list[Commit]),
    "/v1/aliases": (aliases, list[Alias]),
    "/v1/alias-history": (alias_history, list[AliasMove]),
    "/v1/tags": (tags, list[Tag]),
    "/v1/show/{ref:path}": (show, Commit),
    "/v1/lineage/{ref:path}": (lineage, Lineage),
    "/v1/diff": (diff, Diff),
    "/v1/changes": (changes, Changes),
    "/v1/retention": (retention, Retention),
    "/v1/lint/{ref:path}": (lint, Lint),
    "/v1/verify": (verify, VerifyReport),
}


def add_documents(app: FastAPI) -> None:
    """Let an application answer with every document, and describe them."""
    for path, (endpoint, kind) in DOCUMENTS.items():
        described = {"model": kind, "description": "As `--json` prints it."}
        app.add_api_route(path, endpoint, responses={200: described})


async def _light(site: Site, work: Callable[[], object]) -> JsonAnswer:
    """Return a document that is soon made."""
    return await _answer(work, site.light)


async def _heavy(site: Site, work: Callable[[], object]) -> JsonAnswer:
    """Return a document that takes long to make: of these only a few are made at a time."""
    return await _answer(work, site.heavy)


async def _answer(work: Callable[[], object], limiter: CapacityLimiter) -> JsonAnswer:
    """Return a document that is made in a thread, never one of those that send files."""
    return await run_sync(lambda: JsonAnswer(document(work())), limiter=limiter)
