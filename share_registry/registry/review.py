"""A report of a space or of a version: everything that there is to see of it, read at once."""

from collections.abc import Sequence
from typing import Final

from share_registry import __version__
from share_registry.catalog.queries import aliases as alias_pages, log as log_pages
from share_registry.catalog.queries.lineage import lineage
from share_registry.catalog.queries.log import LogQuery
from share_registry.catalog.queries.named_tasks import find_task, space_of
from share_registry.catalog.queries.task_histories import recent_versions
from share_registry.catalog.queries.task_pages import (
    TaskQuery,
    tasks,
    total_of_task,
    versions_of_task,
)
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, NotFoundError
from share_registry.names import SpaceName
from share_registry.registry.analysis.analyze import version_spectra
from share_registry.registry.audit.retention import retention
from share_registry.registry.audit.verify import verify
from share_registry.registry.checkout.reports import with_modules
from share_registry.registry.context import Context, with_basis_size
from share_registry.registry.evidence import resolve_recorded
from share_registry.registry.stored_config import UndescribedError
from share_registry.values.analyses import Spectrum
from share_registry.values.commits import Commit, Log
from share_registry.values.report_page import ReportPage
from share_registry.values.report_sections import (
    ReportOrigin,
    SpaceMaterial,
    VersionMaterial,
    space_page,
    version_page,
)

# The newest of each
_MOST_TASKS: Final = 200
_MOST_VERSIONS: Final = 200
_MOST_POINTS: Final = 24
_MOST_COMMITS: Final = 100
_MOST_EVENTS: Final = 1000


def report(context: Context, ref: str | None, *, space: str | None) -> ReportPage:
    """Return the report of a version, or of a space where there is no reference.

    Args:
        context: The registry.
        ref: The version.
        space: The space that is meant; None for the only one.

    Raises:
        InvalidInputError: the reference is malformed, or of a whole space.
        NotFoundError, RefusedError: it leads to no version, or there are several spaces.
        IntegrityError: stored bytes are not what was committed.
    """
    if ref is None:
        return _space_report(context, space)
    return _version_report(context, ref, space)


def _version_report(context: Context, ref: str, space: str | None) -> ReportPage:
    resolved = resolve_recorded(context, ref, space=space)
    task, version = resolved.task, resolved.version
    if task is None or version is None:
        raise InvalidInputError(
            f"{ref!r} is a state of a space, not a version of a task.",
            hint="Name a version, such as cola@v3; for a space name no reference.",
        )
    where = resolved.space
    with context.reading() as session:
        commit = log_pages.show(session, resolved.ref)
        history = log_pages.log(session, LogQuery(space=where, task=task, limit=_MOST_EVENTS))
        place = find_task(session, where, task)
        versions = versions_of_task(session, where, place, limit=_MOST_VERSIONS)
        total = total_of_task(session, where, place)
        kept = versions_of_task(session, where, place, limit=1, until=version)[0]
        summary = alias_pages.space_summary(session, where)
        ancestors = lineage(session, resolved.ref)
        origin = _origin(context, session, where)
    commit = with_modules(context, commit, commit.about)
    return version_page(
        VersionMaterial(
            commit=commit,
            space=summary,
            kept=kept,
            versions=versions,
            total=total,
            history=Log(commits=tuple(history)),
            log=_with_sizes(context, history[:_MOST_COMMITS]),
            lineage=ancestors,
            spectra=_spectra(context, resolved.ref),
        ),
        origin,
    )


def _spectra(context: Context, ref: str) -> tuple[Spectrum, ...]:
    """Return the spectra of a version; none where its config is gone."""
    try:
        return version_spectra(context, ref)
    except (NotFoundError, UndescribedError):
        return ()


def _space_report(context: Context, space: str | None) -> ReportPage:
    with context.reading() as session:
        where = space_of(session, space)
        origin = _origin(context, session, where)
        newest = TaskQuery(space=where, sort="-commit", limit=_MOST_TASKS)
        listed = tasks(session, newest)
        names = [task.name for task in listed]
        versions = recent_versions(session, where, names, last=_MOST_POINTS)
        summary = alias_pages.space_summary(session, where)
        standing = alias_pages.aliases(session, space=where)
        tags = alias_pages.tags(session, space=where)
        log = log_pages.log(session, LogQuery(space=where, limit=_MOST_COMMITS))
    matrix = retention(context, where)
    verified = verify(context, "quick")
    return space_page(
        SpaceMaterial(
            space=summary,
            tasks=listed,
            versions=versions,
            aliases=standing,
            tags=tags,
            log=_with_sizes(context, log),
            retention=matrix,
            verified=verified,
        ),
        origin,
    )


def _origin(context: Context, session: Session, space: SpaceName) -> ReportOrigin:
    head = log_pages.log(session, LogQuery(space=space, limit=1))[0]
    return ReportOrigin(release=__version__, store=context.store.identity, head=head)


def _with_sizes(context: Context, commits: Sequence[Commit]) -> Log:
    return Log(commits=tuple(with_basis_size(context, commit) for commit in commits))
