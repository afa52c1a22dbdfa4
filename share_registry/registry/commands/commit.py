"""Commit adapters: check, absorb, store the objects, publish one record for all of them.

Nothing reaches the log before every object is durable; a refusal at any step leaves the log as it
was.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.log import commit_at
from share_registry.catalog.queries.provenance import came_from
from share_registry.catalog.queries.resolution import resolve
from share_registry.errors import InvalidInputError, RefusedError, ShareRegistryError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.environment import environment_labels
from share_registry.format.records import AbsorbRecord, TaskVersionRef
from share_registry.names import CommitNumber, SpaceName, TaskName, Version
from share_registry.registry.arguments import check_distinct
from share_registry.registry.checkout.reports import with_modules
from share_registry.registry.commands.auto_refit import follow_up
from share_registry.registry.commands.commit_batch import CommitBatch, handed
from share_registry.registry.commands.commit_batch import prepared as prepared_adapters
from share_registry.registry.commands.duplicates import (
    commit_of_key,
    remark_unrecorded,
    same_version,
)
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis, check_shapes
from share_registry.registry.commands.notes import absorbed, note_for, rehearsed
from share_registry.registry.commands.preconditions import (
    CommitOptions,
    check_expected,
    check_name,
    check_options,
)
from share_registry.registry.commands.publish import (
    Build,
    Link,
    Published,
    Request,
    idempotency_key,
    publish,
)
from share_registry.registry.commands.spaces import create_space
from share_registry.registry.commands.targets import check_base, space_for
from share_registry.registry.context import Context, with_basis_size
from share_registry.registry.sync import replayed
from share_registry.values.commits import Commit
from share_registry.values.policy import ABSENT, overridden
from share_registry.values.task_version import TaskVersion

if TYPE_CHECKING:
    from share_registry.catalog.sql import Session

_LOG: Final = logging.getLogger(__name__)


def commit_sources(
    context: Context,
    sources: Sequence[tuple[str | None, Any]],
    space: str | None,
    options: CommitOptions,
) -> Commit:
    """Commit adapters as one commit, all or nothing.

    Args:
        context: The registry.
        sources: (task name or None, what `Registry.commit` takes) for each adapter.
        space: A space that exists, or None for the one of the adapters' base model (created on
            first use).
        options: See `Registry.commit`.

    Raises:
        InvalidInputError, NotFoundError, RefusedError, BudgetExceededError, ConflictError, CommitStateUnknownError, StoreError:
            nothing was committed (CommitStateUnknownError: not known).
    """
    context.require_writable()
    if not sources:
        raise InvalidInputError("there is no adapter to commit.", hint="Give at least one.")
    check_options(options)
    labels = environment_labels(context.outside) | dict(options.labels)
    check_distinct(labels, options.metrics)
    key = idempotency_key(context, options.idempotency_key)
    adapters = handed(sources, adapter_name=options.adapter_name, outside=context.outside)
    job = _CommitJob(handed=adapters, options=options, labels=labels, key=key)
    with context.catalog.kept():
        return _commit(context, job, space)


@dataclass(frozen=True, slots=True, kw_only=True)
class _CommitJob:
    """One call: what to absorb, and how."""

    handed: CommitBatch
    options: CommitOptions
    labels: Mapping[str, str]
    key: str

    @property
    def adapters(self) -> Mapping[TaskName, Adapter]:
        """What says of each adapter what it is."""
        return self.handed.heads


def _commit(context: Context, job: _CommitJob, space: str | None) -> Commit:
    options = job.options
    context.catch_up()
    with context.catalog.begin() as session:
        target = space_for(session, list(job.adapters.values()), space)
        remarks = {
            task: check_base(target, adapter, options.allow_base_mismatch)
            for task, adapter in job.adapters.items()
        }
        latest = _latest(session, target.name, job)
        earlier = _earlier(context, session, target.name, job, latest)
        if earlier is None:
            _check_tasks(session, target.name, job, latest)
        parents = _parents(
            session, target.name, [*options.derived_from, *_started_from(session, target.name, job)]
        )
    if earlier is not None:
        context.store.sync_log(target.name)  # its writer may have died before it was durable
        return _shown(context, Published(space=target.name, number=earlier, created=False))
    policy = overridden(target.policy, budget=options.budget, keep_original=options.keep_original)
    prepared, fitted = prepared_adapters(
        context, target.name, job.handed, policy, parents, dry_run=options.dry_run
    )
    note = note_for(prepared, options, job.labels, remarks)
    if options.dry_run:
        return rehearsed(context, target.name, prepared, options, note, fitted=fitted)
    if target.new:
        create_space(
            context,
            target.name,
            base_model=target.labels[0],
            base_revision=target.base_revision,
            exist_ok=True,
        )
    if fitted is not None:
        context.store.put(fitted.content, fitted.digest)
    added = {task: item.store(context.store) for task, item in prepared.items()}
    layouts = {item.layout_digest: item.adapter.layout for item in prepared.values()}
    request = Request(
        build=_builder(context, job, prepared, added, parents, fitted),
        key=job.key,
        note=note,
        layouts=layouts,
    )
    done = publish(context, target.name, request)
    if not done.created:
        _check_key(context, target.name, job)
    _LOG.info("committed %s/@c%d: %s", target.name, done.number, ", ".join(prepared))
    found = _reported(context, done, prepared, fitted)
    if done.created and policy.k == target.policy.k:
        follow_up(context, target.name, policy, fitted=fitted, committed=frozenset(prepared))
    return found


def _check_key(context: Context, space: SpaceName, job: _CommitJob) -> None:
    """Check that a commit found by its key, made while this one was prepared, is of the same adapters. Raises ConflictError."""
    with context.catalog.begin() as session:
        commit_of_key(session, space, job.key, job.adapters)


Latest = Mapping[TaskName, TaskVersion | None]
"""The newest version of every task of a job, None where there is none."""


def _latest(session: "Session", space: SpaceName, job: _CommitJob) -> Latest:
    return {task: lookups.latest_version(session, space, task) for task in job.adapters}


def _earlier(
    context: Context, session: "Session", space: SpaceName, job: _CommitJob, latest: Latest
) -> CommitNumber | None:
    """Return the commit that already says this.

    The one of the same key, or the latest of the tasks handed in unchanged. Raises ConflictError.
    """
    known, options = commit_of_key(session, space, job.key, job.adapters), job.options
    if known is not None or options.allow_duplicate:
        return known
    found = [
        same_version(
            latest[task],
            context.store,
            task,
            adapter,
            budget=options.budget,
            keep_original=options.keep_original,
        )
        for task, adapter in job.adapters.items()
    ]
    same = found[0]
    if same is None or {row.number if row is not None else None for row in found} != {same.number}:
        return None  # some are new, or they came by several commits
    for row in found:
        check_expected(row.task if row else "", row.version if row else ABSENT, options.expected)
    said = ("labels", "metrics", "message", "author", "derived_from")
    remark_unrecorded(space, same.number, {name: getattr(options, name) for name in said})
    return same.number


def _check_tasks(session: "Session", space: SpaceName, job: _CommitJob, latest: Latest) -> None:
    """Check what a new version of each task needs. Raises ConflictError or RefusedError."""
    for task, adapter in job.adapters.items():
        check_name(session, space, task)
        newest = latest[task]
        check_expected(task, newest.version if newest else ABSENT, job.options.expected)
        if (
            task in job.handed.derived
            and newest is not None
            and not came_from(session, space, task, adapter.source.location)
        ):
            raise RefusedError(
                f"task name {task!r}, derived from {adapter.source.location}, is taken by {newest.source_location}.",
                hint=f"Give task={task!r} to add a version to it, or another name.",
            )


def _started_from(session: "Session", space: SpaceName, job: _CommitJob) -> list[str]:
    """Return the version that the training of the one adapter started from, where it is of this space."""
    if len(job.adapters) != 1:
        return []
    parent = next(iter(job.adapters.values())).parent
    if parent is None or not parent.startswith(f"{space}/"):
        return []
    task, _, version = parent.partition("/")[2].partition("@v")
    return (
        [parent]
        if version.isdecimal()
        and lookups.version_row(session, space, task, int(version)) is not None
        else []
    )


def _parents(
    session: "Session", space: SpaceName, refs: Sequence[str]
) -> tuple[TaskVersionRef, ...]:
    found = set()
    for ref in refs:
        resolved = resolve(session, ref, space=space)
        if resolved.space != space or resolved.task is None or resolved.version is None:
            raise InvalidInputError(
                f"derived_from {ref!r} is not a task version of space {space!r}.",
                hint="Give references such as cola@v1.",
            )
        found.add((resolved.task, resolved.version))
    return tuple(TaskVersionRef(task=task, version=version) for task, version in sorted(found))


def _builder(
    context: Context,
    job: _CommitJob,
    prepared: Mapping[TaskName, EncodedAdapter],
    added: Mapping[TaskName, int],
    parents: tuple[TaskVersionRef, ...],
    fitted: NewBasis | None,
) -> Build:
    """Return what makes the record upon a head: every precondition is checked there again."""

    def build(session: "Session", link: Link) -> AbsorbRecord | CommitNumber:
        latest = _latest(session, link.space, job)
        earlier = _earlier(context, session, link.space, job, latest)
        if earlier is not None:
            return earlier
        _check_tasks(session, link.space, job, latest)
        tasks, known = [], lookups.module_shapes(session, link.space)
        for task, item in prepared.items():
            check_shapes(known, link.space, item.adapter.layout)
            newest = latest[task]
            tasks.append(
                absorbed(
                    task, Version((newest.version if newest else 0) + 1), item, added[task], parents
                )
            )
        return AbsorbRecord.model_validate(
            link.members() | {"tasks": tasks, "basis": fitted.digest if fitted else None}
        )

    return build


def _shown(context: Context, done: Published) -> Commit:
    """Return a commit as the catalog shows it, or, where the catalog lags behind, as the store does (spec COM-06)."""
    try:
        with context.catalog.begin() as session:
            return commit_at(session, done.space, done.number, created=done.created)
    except ShareRegistryError as error:
        _LOG.warning("the catalog does not show %s/@c%d yet: %s", done.space, done.number, error)
    with closing(replayed(context.store, None)) as catalog, catalog.begin() as session:
        return commit_at(session, done.space, done.number, created=done.created)


def _reported(
    context: Context,
    done: Published,
    prepared: Mapping[TaskName, EncodedAdapter],
    fitted: NewBasis | None,
) -> Commit:
    """Return the commit with the reports just made."""
    found = _shown(context, done)
    if not done.created:
        return with_basis_size(context, found)
    found = replace(found, basis=fitted.report if fitted is not None else None)
    if len(prepared) > 1:  # the report calls siblings by this commit's number
        return with_modules(context, found)
    made = {task: prepared[TaskName(task)].report for task in found.reports}
    return replace(
        found,
        reports={
            task: replace(made[task], bytes_added=report.bytes_added, notes=report.notes)
            for task, report in found.reports.items()
        },
    )
