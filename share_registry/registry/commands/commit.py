"""Commit adapters: load, check, encode, publish, report, and make the refit that follows.

Nothing reaches the log before every object is durable, and a refusal at any step leaves the log as
it was. What is checked before the adapters are encoded is checked again upon the head that the
record is published to.

A refit that nobody had to ask for may follow. In the paper's protocol every other task is
re-expressed in the basis of the commit. Otherwise a basis for later commits is made once
leave-one-out coded bytes say that it pays: a few tasks of a sample are coded with a basis of the
others and without it, and the mean saving times the number of tasks must exceed the basis's own
bytes. It is a record of its own: the commit stands whatever becomes of it.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, RefusedError, ShareRegistryError, ensure
from share_registry.exchange.adapter import Adapter, head_of
from share_registry.exchange.export_files import digest_of_tensors
from share_registry.exchange.grown_vocabulary import shape_remarks
from share_registry.format.layout import UnlikeShape
from share_registry.format.records import AbsorbRecord, Note, TaskVersionRef
from share_registry.names import (
    CommitNumber,
    Digest,
    SpaceName,
    TaskName,
    Version,
    is_reserved,
    is_slip,
    split_task,
)
from share_registry.outside.files import Outside
from share_registry.registry.arguments import CommitOptions, RefitOptions
from share_registry.registry.basis.members import stored_members
from share_registry.registry.checkout.reports import with_modules
from share_registry.registry.commands.commit_batch import (
    AdapterBatch,
    encode_adapters,
    load_adapters,
)
from share_registry.registry.commands.encode import (
    EncodedAdapter,
    NewBasis,
    check_shapes,
    note_for,
    preview_commit,
    record_entry,
    required_features,
)
from share_registry.registry.commands.new_basis import (
    SAMPLE,
    fit_basis,
    judge,
    rule_within_budget,
)
from share_registry.registry.commands.preconditions import (
    check_options,
    check_unchanged,
    commit_of_key,
    commit_of_unchanged,
    is_unchanged,
    next_version,
    warn_left_out,
    with_unchanged,
)
from share_registry.registry.commands.publish import Place, idempotency_key, publish, read_commit
from share_registry.registry.commands.refit import live_versions, publish_basis, reexpress
from share_registry.registry.commands.spaces import (
    CommitTarget,
    check_base,
    create_space,
    find_target,
    first_target,
    labels_known,
)
from share_registry.registry.context import Context
from share_registry.registry.stored_config import described_versions
from share_registry.values.commits import Commit
from share_registry.values.policy import Policy, overridden
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
# Whether a basis would pay is looked at when there are 8, 16, 32, ... tasks.
_FIRST_TRIAL: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What a commit is to do.

    Attributes:
        target: The space it goes to.
        remarks: What is worth knowing of the base model that each task names, and of its source.
        batch: The adapters that get a version.
        unchanged: The versions of those that get none.
        earlier: The commit that already says all this.
        parents: What the adapters are derived from.
    """

    target: CommitTarget
    remarks: Mapping[TaskName, tuple[str, ...]]
    batch: AdapterBatch
    unchanged: Mapping[TaskName, TaskVersion]
    earlier: CommitNumber | None
    parents: list[TaskVersionRef]


@one_thread()
def commit_sources(
    context: Context,
    sources: Sequence[tuple[str | None, Any]],
    space: str | None,
    options: CommitOptions,
) -> Commit:
    """Commit adapters as one commit, all or nothing.

    Args:
        context: The registry.
        sources: (`[space/]task` or None, what `Registry.commit` takes) for each adapter.
        space: A space that exists, where the tasks name none, or None for the one of the adapters'
            base model (created on first use).
        options: See `Registry.commit`.

    Raises:
        InvalidInputError, NotFoundError, RefusedError, BudgetExceededError, ConflictError,
            StoreError: nothing was committed.
        CommitStateUnknownError: whether it was committed is not known.
    """
    context.require_writable()
    ensure(sources, InvalidInputError("there is no adapter to commit.", hint="Give at least one."))
    sources, space = _within_space(sources, space)
    labels = check_options(options, context.outside)
    options = replace(options, idempotency_key=idempotency_key(context, options.idempotency_key))
    with context.catalog.keep_connection():
        # nobody else holds what is read: a commit gives up the parts that it has used
        return _commit(
            context,
            load_adapters(sources, adapter_name=options.adapter_name, outside=context.outside),
            space,
            options,
            labels,
        )


def check_first(
    sources: Sequence[tuple[str | None, Any]],
    space: str | None,
    *,
    adapter_name: str | None,
    outside: Outside,
) -> None:
    """Check that adapters can be the first of a registry that is not there yet.

    Raises what their commit raises before anything is encoded.
    """
    sources, space = _within_space(sources, space)
    batch = load_adapters(sources, adapter_name=adapter_name, outside=outside)
    first_target(batch.adapters.values(), space)


def _within_space(
    sources: Sequence[tuple[str | None, Any]], space: str | None
) -> tuple[list[tuple[str | None, Any]], str | None]:
    """Return tasks without their space, and the one that `space/task` names, else `space`.

    Raises InvalidInputError where there are several.
    """
    named: set[str | None] = set()
    plain: list[tuple[str | None, Any]] = []
    for task, source in sources:
        if isinstance(task, str) and "/" in task:
            of_task, task = split_task(task)
            named.add(of_task)
        plain.append((task, source))
    ensure(
        len(named) <= 1,
        InvalidInputError(
            f"the tasks name several spaces: {', '.join(sorted(map(str, named)))}.",
            hint="Commit them space by space.",
        ),
    )
    return plain, next(iter(named), space)


def _commit(
    context: Context,
    batch: AdapterBatch,
    space: str | None,
    options: CommitOptions,
    labels: dict[str, str],
) -> Commit:
    asked = {task: head_of(each) for task, each in batch.adapters.items()}
    contents = {
        task: digest_of_tensors(each) for task, each in batch.adapters.items() if each.tensors
    }
    context.catch_up()
    with context.catalog.begin() as session:
        plan = _plan(context, session, batch, space, options, contents)
    target = plan.target
    if plan.earlier is not None:
        # its writer may have died before it was durable
        context.store.sync_log(target.name)
        commit = read_commit(context, target.name, plan.earlier, created=False)
        return with_unchanged(commit, plan.unchanged)

    policy = overridden(target.policy, budget=options.budget, keep_original=options.keep_original)
    plan = replace(plan, batch=plan.batch.kept_for(policy))
    batch = plan.batch
    encoded, basis = encode_adapters(
        context, target.name, batch, policy, plan.parents, dry_run=options.dry_run
    )
    note = note_for(context, encoded, options, labels, plan.remarks)
    if options.dry_run:
        preview = preview_commit(
            context,
            target.name,
            encoded,
            note,
            kind="absorb",
            labels=options.labels,
            metrics=options.metrics,
            basis=basis,
        )
        return with_unchanged(preview, plan.unchanged)

    if target.new:
        create_space(
            context,
            target.name,
            base_model=target.labels[0],
            base_revision=target.base_revision,
            exist_ok=True,
            author=options.author,
        )
    if basis is not None:
        context.store.put(basis.content, basis.digest)
    stored = {task: item.store(context.store) for task, item in encoded.items()}
    warn_left_out(target.name, plan.unchanged, options)

    def build(session: Session, place: Place) -> AbsorbRecord | CommitNumber:
        check_unchanged(session, target.name, plan.unchanged)
        versions = _next_versions(context, session, target.name, batch, options)
        if isinstance(versions, int):
            return versions
        members = {
            "requires": required_features(_unlike_shapes(session, target.name, batch)),
            "tasks": [
                record_entry(task, versions[task], item, plan.parents)
                for task, item in stored.items()
            ],
            "basis": basis.digest if basis is not None else None,
        }
        return AbsorbRecord.model_validate(place | members)

    commit = publish(
        context,
        target.name,
        build,
        key=options.idempotency_key,
        note=note,
        layouts={item.layout_digest: item.adapter.layout for item in stored.values()},
        adapters=asked,
    )
    commit = with_unchanged(commit, plan.unchanged)
    if not commit.created:
        return commit
    _LOG.info("committed %s/@c%d: %s", target.name, commit.number, ", ".join(stored))
    commit = _report(context, commit, stored, basis)
    if policy.k == target.policy.k:
        _follow_up(
            context, target.name, policy, note.author, basis=basis, committed=frozenset(stored)
        )
    return commit


def _plan(
    context: Context,
    session: Session,
    batch: AdapterBatch,
    space: str | None,
    options: CommitOptions,
    contents: Mapping[TaskName, Digest],
) -> _Plan:
    """Find out what a commit is to do. Raises as `commit_sources`."""
    target = find_target(session, context.store, batch.adapters.values(), space)
    parents = _find_parents(session, target.name, batch, options)
    is_known = labels_known(session, context.store, target)
    remarks = {
        task: (
            *check_base(
                target, adapter, is_known=is_known, allow_mismatch=options.allow_base_mismatch
            ),
            *_remarks_on_task(session, target.name, task, adapter, contents.get(task), parents),
        )
        for task, adapter in batch.adapters.items()
    }
    earlier = commit_of_key(session, target.name, str(options.idempotency_key), batch.adapters)
    unchanged: dict[TaskName, TaskVersion] = {}
    if earlier is None:
        batch, unchanged = _without_unchanged(context, session, target.name, batch, options)
        versions = _next_versions(context, session, target.name, batch, options)
        earlier = versions if isinstance(versions, int) else None
    if earlier is None:
        for task, unlike in _unlike_shapes(session, target.name, batch).items():
            remarks[task] = (*remarks[task], *shape_remarks(unlike))
    return _Plan(
        target=target,
        remarks=remarks,
        batch=batch,
        unchanged=unchanged,
        earlier=earlier,
        parents=parents,
    )


def _without_unchanged(
    context: Context,
    session: Session,
    space: SpaceName,
    batch: AdapterBatch,
    options: CommitOptions,
) -> tuple[AdapterBatch, dict[TaskName, TaskVersion]]:
    """Return the adapters that get a version, and the versions of the others, given unchanged.

    Where all are unchanged, all stay: the commit that has them is returned for them.
    """
    if options.allow_duplicate:
        return batch, {}
    latest = {task: lookups.latest_version(session, space, task) for task in batch.adapters}
    unchanged = {
        task: version
        for task, version in latest.items()
        if version is not None
        and is_unchanged(context.store, task, version, batch.adapters[task], options)
    }
    if len(unchanged) == len(latest):
        return batch, unchanged
    return batch.without(unchanged), unchanged


def _next_versions(
    context: Context,
    session: Session,
    space: SpaceName,
    batch: AdapterBatch,
    options: CommitOptions,
) -> dict[TaskName, Version] | CommitNumber:
    """Return the version that each task gets, or the earlier commit that already says all this.

    Raises ConflictError, RefusedError where the head allows neither.
    """
    latest = {task: lookups.latest_version(session, space, task) for task in batch.adapters}
    if not options.allow_duplicate:
        earlier = commit_of_unchanged(context.store, space, batch.adapters, latest, options)
        if earlier is not None:
            return earlier
    versions = {}
    for task, adapter in batch.adapters.items():
        newest, location = latest[task], adapter.source.location
        versions[task] = next_version(session, space, task, newest, expected=options.expected)
        if (
            newest is not None
            and task in batch.derived
            and not lookups.came_from(session, space, task, location)
        ):
            raise RefusedError(
                f"task name {task!r}, derived from {location}, is taken by "
                f"{newest.source_location}.",
                hint=f"Give task={task!r} to add a version to it, or another name.",
            )
    return versions


def _unlike_shapes(
    session: Session, space: SpaceName, batch: AdapterBatch
) -> dict[TaskName, list[UnlikeShape]]:
    layouts = {task: adapter.layout for task, adapter in batch.adapters.items()}
    return check_shapes(session, space, layouts)


def _remarks_on_task(
    session: Session,
    space: SpaceName,
    task: TaskName,
    adapter: Adapter,
    content: Digest | None,
    parents: Sequence[TaskVersionRef],
) -> Iterator[str]:
    """Yield what shows that a version is there already, or that a new task's name is a slip."""
    is_new = lookups.current_name(session, space, task) is None
    same = lookups.versions_of_content(
        session,
        [space],
        source=adapter.source_digest,
        tensors=content or "",
        task=None if is_new else task,
    )
    if same:
        exported = ", as exported" if same[0].source_digest != adapter.source_digest else ""
        version = f"{same[0].task}@v{same[0].version}" if is_new else f"v{same[0].version}"
        yield f"{'new task; ' * is_new}the same adapter as {version}{exported}."
    if not is_new:
        return
    tasks = dict.fromkeys([*(row.task for row in same), *(str(parent.task) for parent in parents)])
    if meant := [name for name in tasks if is_slip(task, name)]:
        yield f"{task} is a new task: did you mean {' or '.join(meant)}?"
    if is_reserved(task):
        yield (
            f"{task} is a new task, whose name reads as a version, a commit, a date or a digest: "
            f"as a reference it means the task, behind @ something else."
        )


def _find_parents(
    session: Session, space: SpaceName, batch: AdapterBatch, options: CommitOptions
) -> list[TaskVersionRef]:
    """Return what the adapters are declared to be derived from, by task and version.

    With it, for a single adapter, the version of this space that its training started from.
    """
    refs = list(options.derived_from)
    started_from = [adapter.parent for adapter in batch.adapters.values()]
    if len(started_from) == 1 and (started_from[0] or "").startswith(f"{space}/"):
        task, _, version = str(started_from[0]).partition("/")[2].partition("@v")
        if version.isdecimal() and lookups.version_row(session, space, task, int(version)):
            refs.append(str(started_from[0]))
    versions = set()
    for ref in refs:
        resolved = resolve(session, ref, space=space)
        if resolved.space != space or resolved.task is None or resolved.version is None:
            raise InvalidInputError(
                f"derived_from {ref!r} is not a task version of space {space!r}.",
                hint="Give references such as cola@v1.",
            )
        versions.add((resolved.task, resolved.version))
    return [TaskVersionRef(task=task, version=version) for task, version in sorted(versions)]


def _report(
    context: Context,
    commit: Commit,
    encoded: dict[TaskName, EncodedAdapter],
    basis: NewBasis | None,
) -> Commit:
    commit = replace(commit, basis=basis.report if basis is not None else None)
    if len(encoded) > 1:
        # the report calls siblings by this commit's number
        return with_modules(context, commit)
    return replace(
        commit,
        reports={
            task: replace(
                encoded[TaskName(task)].report, bytes_added=report.bytes_added, notes=report.notes
            )
            for task, report in commit.reports.items()
        },
    )


def _follow_up(
    context: Context,
    space: SpaceName,
    policy: Policy,
    author: str | None,
    *,
    basis: NewBasis | None,
    committed: frozenset[TaskName],
) -> None:
    """Make the refit that a commit calls for; the commit stands whether or not it succeeds."""
    try:
        if policy.k and basis is not None:
            _reexpress_others(context, space, policy, author, basis, committed)
        elif policy.refit and policy.references and policy.budget > 0:
            _refit_where_it_pays(context, space, policy, author, len(committed))
    # the commit is published: whatever fails now must not look as if it were not
    except Exception as error:  # noqa: BLE001
        _LOG.warning(
            "space %s: the refit that was to follow was not made: %s",
            space,
            error,
            exc_info=not isinstance(error, ShareRegistryError),
        )


def _reexpress_others(
    context: Context,
    space: SpaceName,
    policy: Policy,
    author: str | None,
    basis: NewBasis,
    committed: frozenset[TaskName],
) -> None:
    with context.catalog.begin() as session:
        rows = [row for row in live_versions(session, space) if row.task not in committed]
    rows = described_versions(context, rows)
    options = RefitOptions(max_rank=policy.k, allow_loss=True)
    reexpressed = reexpress(context, rows, basis, options, policy)
    if reexpressed:
        note = Note(author=author, message="refit after absorption")
        publish_basis(context, space, basis, note, rows, reexpressed)


def _refit_where_it_pays(
    context: Context, space: SpaceName, policy: Policy, author: str | None, new_tasks: int
) -> None:
    with context.catalog.begin() as session:
        tasks = lookups.live_tasks(session, space)
        # is the count at or past a power of two from 8 on that it was below before the commit?
        if tasks < _FIRST_TRIAL or tasks.bit_length() <= (tasks - new_tasks).bit_length():
            return
        sample = lookups.last_absorbed(session, space, SAMPLE)
    sample = described_versions(context, sample)
    rule = rule_within_budget(policy.budget, tasks=tasks)
    basis = fit_basis(context, space, stored_members(context, sample), rule)
    if basis is not None and (
        judge(context, space, sample, rule, policy).saved_bytes * tasks > len(basis.content)
    ):
        publish_basis(
            context,
            space,
            basis,
            Note(
                author=author,
                message="leave-one-out saving times tasks exceeds the cost of a basis",
            ),
        )
