"""Commit adapters: check, absorb, store the objects, publish one record for all of them.

Nothing reaches the log before every object is durable; a refusal at any step leaves the log as it
was.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from share_registry.catalog import queries
from share_registry.catalog.task_version import TaskVersion
from share_registry.errors import Conflict, InvalidInput, Refused, ShareRegistryError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.environment import environment_labels
from share_registry.format.layout import Entry
from share_registry.format.records import Absorb, Absorbed, Note, TaskNote, TaskVersionRef, decimal
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, Version
from share_registry.registry.absorbing import Fitted, Prepared, check_shapes
from share_registry.registry.bulk import Handed, handed
from share_registry.registry.bulk import prepared as prepared_adapters
from share_registry.registry.commits import weighed
from share_registry.registry.doors import check_distinct
from share_registry.registry.earlier import (
    came_from,
    commit_of_key,
    remark_unrecorded,
    same_version,
)
from share_registry.registry.history import commit_at
from share_registry.registry.home import Home, replayed
from share_registry.registry.policy import ABSENT, overridden
from share_registry.registry.reports import with_modules
from share_registry.registry.resolve import resolve
from share_registry.registry.results import Commit
from share_registry.registry.share import follow_up
from share_registry.registry.spaces import check_base, create_space, space_for
from share_registry.registry.transaction import (
    Build,
    Link,
    Published,
    Request,
    idempotency_key,
    publish,
)

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_LOG: Final = logging.getLogger(__name__)
_SHOWN: Final = 80
"""Characters of what an error repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller says about a commit, apart from the adapters."""

    budget: float | None = None
    message: str = ""
    author: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    derived_from: Sequence[str] = ()
    keep_original: bool | None = None
    expected: int | None = None
    idempotency_key: str | None = None
    allow_base_mismatch: bool = False
    allow_duplicate: bool = False
    dry_run: bool = False


def commit_sources(
    home: Home,
    sources: Sequence[tuple[str | None, Any]],
    *,
    space: str | None,
    options: Options,
    adapter_name: str | None,
) -> Commit:
    """Absorb adapters as one commit, all or nothing.

    Args:
        home: The registry.
        sources: (task name or None, what `Registry.commit` takes) for each adapter.
        space: A space that exists, or None for the session's or the one of the adapters' base model
            (created on first use).
        options: See `Registry.commit`.
        adapter_name: Which adapter of a live model.

    Raises:
        InvalidInput, NotFound, Refused, BudgetExceeded, Conflict, CommitUnknown, StoreError:
            nothing was committed (CommitUnknown: not known).
    """
    home.require_writable()
    if not sources:
        raise InvalidInput("there is no adapter to commit.", hint="Give at least one.")
    check_options(options)
    labels = environment_labels(home.outside) | dict(options.labels)
    check_distinct(labels, options.metrics)
    key = idempotency_key(home, options.idempotency_key)
    job = _Job(
        handed=handed(sources, adapter_name=adapter_name, outside=home.outside),
        options=options,
        labels=labels,
        key=key,
    )
    with home.catalog.kept():
        return _commit(home, job, space)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """One call: what to absorb, and how."""

    handed: Handed
    options: Options
    labels: Mapping[str, str]
    key: str

    @property
    def adapters(self) -> Mapping[TaskName, Adapter]:
        """What says of each adapter what it is."""
        return self.handed.heads


def _commit(home: Home, job: _Job, space: str | None) -> Commit:
    options = job.options
    home.catch_up()
    with home.catalog.begin() as session:
        target = space_for(
            session, list(job.adapters.values()), space if space is not None else home.default_space
        )
        remarks = {
            task: check_base(target, adapter, options.allow_base_mismatch)
            for task, adapter in job.adapters.items()
        }
        latest = _latest(session, target.name, job)
        earlier = _earlier(home, session, target.name, job, latest)
        if earlier is None:
            _check_tasks(session, target.name, job, latest)
        parents = _parents(
            session, target.name, [*options.derived_from, *_started_from(session, target.name, job)]
        )
    if earlier is not None:
        home.store.sync_log(target.name)  # its writer may have died before it was durable
        return _shown(home, Published(space=target.name, number=earlier, created=False))
    policy = overridden(target.policy, budget=options.budget, keep_original=options.keep_original)
    prepared, fitted = prepared_adapters(
        home, target.name, job.handed, policy, parents, dry_run=options.dry_run
    )
    note = note_for(prepared, options, job.labels, remarks)
    if options.dry_run:
        return rehearsed(home, target.name, prepared, options, note, fitted=fitted)
    if target.new:
        create_space(
            home,
            target.name,
            base_model=target.labels[0],
            base_revision=target.base_revision,
            exist_ok=True,
        )
    if fitted is not None:
        home.store.put(fitted.content, fitted.digest)
    added = {task: item.store(home.store) for task, item in prepared.items()}
    layouts = {item.layout_digest: item.adapter.layout for item in prepared.values()}
    request = Request(
        build=_builder(home, job, prepared, added, parents, fitted),
        key=job.key,
        note=note,
        layouts=layouts,
    )
    done = publish(home, target.name, request)
    if not done.created:
        _check_key(home, target.name, job)
    _LOG.info("committed %s/@c%d: %s", target.name, done.number, ", ".join(prepared))
    found = _reported(home, done, prepared, fitted)
    if done.created and policy.k == target.policy.k:
        follow_up(home, target.name, policy, fitted=fitted, committed=frozenset(prepared))
    return found


def _check_key(home: Home, space: SpaceName, job: _Job) -> None:
    """Check that a commit found by its key, made while this one was prepared, is of the same adapters. Raises Conflict."""
    with home.catalog.begin() as session:
        commit_of_key(session, space, job.key, job.adapters)


def check_options(options: Options) -> None:
    """Check what a caller says. Raises InvalidInput."""
    check_labels(options.labels)
    check_metrics(options.metrics)
    if options.author is not None and len(options.author) > 256:
        raise InvalidInput("author has more than 256 characters.", hint="Shorten it.")
    if len(options.message) > 16_384:
        raise InvalidInput(
            "message has more than 16384 characters.",
            hint="Shorten it, or keep the text in a file of the adapter's directory.",
        )


def check_labels(labels: Mapping[str, str]) -> None:
    """Check label names and values. Raises InvalidInput."""
    for name, value in labels.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, str)
            or not 1 <= len(name) <= 128
            or len(value) > 4096
        ):
            raise InvalidInput(
                f"label {_short(name)}={_short(value)} is not a short name and a text.",
                hint="Names have at most 128 characters, values 4096.",
            )


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number past float64
        return False


def check_metrics(metrics: Mapping[str, float]) -> None:
    """Check metric names and values. Raises InvalidInput."""
    for name, value in metrics.items():
        number = (
            isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        )
        if not isinstance(name, str) or not 1 <= len(name) <= 128 or not number:
            raise InvalidInput(
                f"metric {_short(name)}={_short(value)} is not a short name and a finite number.",
                hint="Names have at most 128 characters.",
            )


Latest = Mapping[TaskName, TaskVersion | None]
"""The newest version of every task of a job, None where there is none."""


def _latest(session: "Session", space: SpaceName, job: _Job) -> Latest:
    return {task: queries.latest_version(session, space, task) for task in job.adapters}


def _earlier(
    home: Home, session: "Session", space: SpaceName, job: _Job, latest: Latest
) -> CommitNumber | None:
    """Return the commit that already says this.

    The one of the same key, or the latest of the tasks handed in unchanged. Raises Conflict.
    """
    known, options = commit_of_key(session, space, job.key, job.adapters), job.options
    if known is not None or options.allow_duplicate:
        return known
    found = [
        same_version(
            latest[task],
            home.store,
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


def _check_tasks(session: "Session", space: SpaceName, job: _Job, latest: Latest) -> None:
    """Check what a new version of each task needs. Raises Conflict or Refused."""
    for task, adapter in job.adapters.items():
        check_name(session, space, task)
        newest = latest[task]
        check_expected(task, newest.version if newest else ABSENT, job.options.expected)
        if (
            task in job.handed.derived
            and newest is not None
            and not came_from(session, space, task, adapter.source.location)
        ):
            raise Refused(
                f"task name {task!r}, derived from {adapter.source.location}, is taken by {newest.source_location}.",
                hint=f"Give task={task!r} to add a version to it, or another name.",
            )


def check_name(session: "Session", space: SpaceName, task: TaskName) -> None:
    """Check that a task has not got another name meanwhile. Raises Refused."""
    now = queries.current_name(session, space, task)
    if now is not None and now != task:
        raise Refused(
            f"task {space}/{task} was renamed to {now!r}; a name is never given to another task.",
            hint=f"Commit to {now!r}, or pick a new name.",
        )


def check_expected(task: str, latest: int, expected: int | None) -> None:
    """Check that a task is at the version that was expected; 0 for absent. Raises Conflict."""
    if expected is not None and expected != latest:
        found = f"at v{latest}" if latest else "absent"
        wanted = f"v{expected}" if expected else "absent"
        raise Conflict(
            f"task {task!r} is {found}, expected {wanted}.",
            hint="Look at what came in between (`log`), then commit upon it.",
        )


def _started_from(session: "Session", space: SpaceName, job: _Job) -> list[str]:
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
        and queries.version_row(session, space, task, int(version)) is not None
        else []
    )


def _parents(
    session: "Session", space: SpaceName, refs: Sequence[str]
) -> tuple[TaskVersionRef, ...]:
    found = set()
    for ref in refs:
        resolved = resolve(session, ref, space=space)
        if resolved.space != space or resolved.task is None or resolved.version is None:
            raise InvalidInput(
                f"derived_from {ref!r} is not a task version of space {space!r}.",
                hint="Give references such as cola@v1.",
            )
        found.add((resolved.task, resolved.version))
    return tuple(TaskVersionRef(task=task, version=version) for task, version in sorted(found))


def note_for(
    prepared: Mapping[TaskName, Prepared],
    options: Options,
    labels: Mapping[str, str],
    remarks: Mapping[TaskName, tuple[str, ...]],
) -> Note:
    """Return the note of a commit.

    What the caller said, with the labels of its environment, and of every task its files and
    remarks.
    """
    tasks = [
        TaskNote(
            task=task,
            labels=entries(labels),
            metrics=entries({name: repr(float(value)) for name, value in options.metrics.items()}),
            source=item.adapter.source,
            config=item.config,
            attachments=list(item.attachments),
            original=list(item.original),
            remarks=[*remarks[task], *item.remarks],
        )
        for task, item in prepared.items()
    ]
    return Note(author=options.author or None, message=options.message or None, tasks=tasks)


def entries(values: Mapping[str, str]) -> list[Entry]:
    """Return names and values as sorted entries."""
    return [Entry(name=name, value=value) for name, value in sorted(values.items())]


def _builder(
    home: Home,
    job: _Job,
    prepared: Mapping[TaskName, Prepared],
    added: Mapping[TaskName, int],
    parents: tuple[TaskVersionRef, ...],
    fitted: Fitted | None,
) -> Build:
    """Return what makes the record upon a head: every precondition is checked there again."""

    def build(session: "Session", link: Link) -> Absorb | CommitNumber:
        latest = _latest(session, link.space, job)
        earlier = _earlier(home, session, link.space, job, latest)
        if earlier is not None:
            return earlier
        _check_tasks(session, link.space, job, latest)
        tasks, known = [], queries.module_shapes(session, link.space)
        for task, item in prepared.items():
            check_shapes(known, link.space, item.adapter.layout)
            newest = latest[task]
            tasks.append(
                absorbed(
                    task, Version((newest.version if newest else 0) + 1), item, added[task], parents
                )
            )
        return Absorb.model_validate(
            link.members() | {"tasks": tasks, "basis": fitted.digest if fitted else None}
        )

    return build


def absorbed(
    task: TaskName, version: Version, item: Prepared, added: int, parents: Sequence[TaskVersionRef]
) -> Absorbed:
    """Return what a record says of an adapter that becomes a version."""
    return Absorbed(
        task=task,
        version=version,
        adapter=item.adapter_digest,
        layout=item.layout_digest,
        tensors=item.tensors_digest,
        source=item.adapter.source_digest,
        budget=None if item.budget is None else decimal(item.budget),
        error=decimal(item.error),
        norm=decimal(item.norm),
        raw_bytes=item.adapter.raw_bytes,
        added_bytes=added,
        derived_from=list(parents),
    )


def _shown(home: Home, done: Published) -> Commit:
    """Return a commit as the catalog shows it, or, where the catalog lags behind, as the store does (spec COM-06)."""
    try:
        with home.catalog.begin() as session:
            return commit_at(session, done.space, done.number, created=done.created)
    except ShareRegistryError as error:
        _LOG.warning("the catalog does not show %s/@c%d yet: %s", done.space, done.number, error)
    with closing(replayed(home.store, None)) as catalog, catalog.begin() as session:
        return commit_at(session, done.space, done.number, created=done.created)


def _reported(
    home: Home, done: Published, prepared: Mapping[TaskName, Prepared], fitted: Fitted | None
) -> Commit:
    """Return the commit with the reports just made."""
    found = _shown(home, done)
    if not done.created:
        return weighed(found, home.store)
    found = replace(found, basis=fitted.report if fitted is not None else None)
    if len(prepared) > 1:  # the report calls siblings by this commit's number
        return with_modules(home, found)
    made = {task: prepared[TaskName(task)].report for task in found.reports}
    return replace(
        found,
        reports={
            task: replace(made[task], bytes_added=report.bytes_added, notes=report.notes)
            for task, report in found.reports.items()
        },
    )


def rehearsed(
    home: Home,
    space: SpaceName,
    prepared: Mapping[TaskName, Prepared],
    options: Options,
    note: Note,
    *,
    kind: str = "absorb",
    fitted: Fitted | None = None,
) -> Commit:
    """Return what a commit would be: no id, and `created` is False."""
    told: set[Digest] = set()
    added = {}
    for task, item in prepared.items():
        added[task] = sum(
            len(content)
            for digest, content in item.objects.items()
            if digest not in told and not home.store.has(digest)
        )
        told |= item.objects.keys()
    with home.catalog.begin() as session:
        known = queries.head(session, space)
        versions: dict[str, Version] = {}
        for task in prepared:
            latest = queries.latest_version(session, space, task) if known else None
            versions[task] = Version((latest.version if latest else 0) + 1)
    return Commit(
        number=CommitNumber((known.number if known else 1) + 1),
        id=Digest(""),
        parent=known.id if known else Digest(""),
        kind=kind,
        space=space,
        time=home.outside.now(),
        key="",
        author=options.author,
        message=options.message,
        refs={task: f"{space}/{task}@v{version}" for task, version in versions.items()},
        versions=versions,
        reports={
            task: replace(item.report, bytes_added=added[task], notes=tuple(note.of(task).remarks))
            for task, item in prepared.items()
        },
        labels=dict(options.labels),
        metrics=dict(options.metrics),
        detail="dry run: nothing was written",
        basis=fitted.report if fitted is not None else None,
        created=False,
    )
