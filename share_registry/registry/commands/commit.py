"""Commit adapters: load, check, encode, publish, report.

Nothing reaches the log before every object is durable, and a refusal at any step leaves the log as
it was. What is checked before the adapters are encoded is checked again upon the head that the
record is published to. Adapters may have been encoded before (`prepare`): a commit is the same in
all but that step.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, RefusedError, ensure
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
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.checkout.reports import with_modules
from share_registry.registry.commands.auto_refit import refit_after_commit
from share_registry.registry.commands.commit_batch import (
    AdapterBatch,
    encode_adapters,
    load_adapters,
)
from share_registry.registry.commands.encode import (
    EncodedAdapter,
    NewBasis,
    check_shapes,
    count_added,
    note_for,
    preview_commit,
    record_entry,
    required_features,
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
from share_registry.registry.commands.spaces import (
    CommitTarget,
    check_base,
    create_space,
    find_target,
    first_target,
    labels_known,
)
from share_registry.registry.context import Context
from share_registry.values.commits import Commit
from share_registry.values.policy import Policy, overridden
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)

# The adapters of a plan, encoded, and a basis that was made for them
Encoded = tuple[dict[TaskName, EncodedAdapter], NewBasis | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """What a commit is asked for.

    Attributes:
        batch: The adapters.
        contents: Digests of the tensors of those that have them in memory.
        options: What is said of the commit.
        each: What is said of each adapter: how it is kept, and what it is derived from.
    """

    batch: AdapterBatch
    contents: Mapping[TaskName, Digest]
    options: CommitOptions
    each: Mapping[TaskName, CommitOptions]

    @classmethod
    def of(cls, batch: AdapterBatch, options: CommitOptions) -> "CommitRequest":
        """Return the request that says the same of every adapter."""
        return cls(
            batch=batch,
            contents={
                task: digest_of_tensors(adapter)
                for task, adapter in batch.adapters.items()
                if adapter.tensors
            },
            options=options,
            each=dict.fromkeys(batch.adapters, options),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPlan:
    """What a commit is to do.

    Attributes:
        target: The space it goes to.
        remarks: What is worth knowing of the base model that each task names, and of its source.
        batch: The adapters that get a version.
        unchanged: The versions of those that get none.
        earlier: The commit that already says all this.
        parents: What each adapter is derived from.
    """

    target: CommitTarget
    remarks: Mapping[TaskName, tuple[str, ...]]
    batch: AdapterBatch
    unchanged: Mapping[TaskName, TaskVersion]
    earlier: CommitNumber | None
    parents: Mapping[TaskName, list[TaskVersionRef]]


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
    sources, space = within_space(sources, space)
    labels = check_options(options, context.outside)
    options = replace(options, idempotency_key=idempotency_key(context, options.idempotency_key))

    def encode(plan: CommitPlan, policy: Policy) -> Encoded:
        encoded, basis = encode_adapters(
            context,
            plan.target.name,
            plan.batch,
            policy,
            plan.parents,
            dry_run=options.dry_run,
        )
        annotated = {
            task: item.annotated(labels, options.metrics) for task, item in encoded.items()
        }
        return annotated, basis

    with context.catalog.keep_connection():
        # nobody else holds what is read: a commit gives up the parts that it has used
        return commit_request(
            context,
            CommitRequest.of(
                load_adapters(sources, adapter_name=options.adapter_name, outside=context.outside),
                options,
            ),
            space,
            encode,
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
    sources, space = within_space(sources, space)
    batch = load_adapters(sources, adapter_name=adapter_name, outside=outside)
    first_target(batch.adapters.values(), space)


def within_space(
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


def commit_request(
    context: Context,
    request: CommitRequest,
    space: str | None,
    encode: Callable[[CommitPlan, Policy], Encoded],
) -> Commit:
    """Plan a commit, have its adapters encoded, and publish it. Raises as `commit_sources`.

    Args:
        context: The registry.
        request: What is asked for; its idempotency key is set.
        space: A space that exists; None for the one of the adapters' base model.
        encode: Returns the adapters of the plan, encoded under a policy.
    """
    options = request.options
    context.catch_up()
    with context.catalog.begin() as session:
        plan = plan_commit(context, session, request, space)
    target = plan.target
    if plan.earlier is not None:
        # its writer may have died before it was durable
        context.store.sync_log(target.name)
        commit = read_commit(context, target.name, plan.earlier, created=False)
        return with_unchanged(commit, plan.unchanged)

    policy = _policy_of(target, request)
    request = replace(request, batch=request.batch.kept_for(policy))
    plan = replace(plan, batch=plan.batch.kept_for(policy))
    encoded, basis = encode(plan, policy)
    # spec REC-08: a record lists its tasks by name
    encoded = dict(sorted(encoded.items()))
    note = note_for(context, encoded, options, plan.remarks)
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

    commit = _publish_encoded(context, request, plan, (encoded, basis), note)
    if commit.created and policy.k == target.policy.k:
        refit_after_commit(
            context, target.name, policy, note.author, basis=basis, committed=frozenset(encoded)
        )
    return commit


def plan_commit(
    context: Context, session: Session, request: CommitRequest, space: str | None
) -> CommitPlan:
    """Find out what a commit is to do. Raises as `commit_sources`."""
    batch, options = request.batch, request.options
    target = find_target(session, context.store, batch.adapters.values(), space)
    parents = {
        task: _find_parents(session, target.name, adapter, request.each[task])
        for task, adapter in batch.adapters.items()
    }
    is_known = labels_known(session, context.store, target)
    remarks = {
        task: (
            *check_base(
                target,
                adapter,
                is_known=is_known,
                allow_mismatch=request.each[task].allow_base_mismatch,
            ),
            *_remarks_on_task(
                session, target.name, task, adapter, request.contents.get(task), parents[task]
            ),
        )
        for task, adapter in batch.adapters.items()
    }
    earlier = commit_of_key(session, target.name, str(options.idempotency_key), batch.adapters)
    unchanged: dict[TaskName, TaskVersion] = {}
    if earlier is None:
        batch, unchanged = _without_unchanged(context, session, target.name, batch, request)
        versions = _next_versions(context, session, target.name, batch, request)
        earlier = versions if isinstance(versions, int) else None
    if earlier is None:
        for task, unlike in _unlike_shapes(session, target.name, batch).items():
            remarks[task] = (*remarks[task], *shape_remarks(unlike))
    return CommitPlan(
        target=target,
        remarks=remarks,
        batch=batch,
        unchanged=unchanged,
        earlier=earlier,
        parents=parents,
    )


def _publish_encoded(
    context: Context,
    request: CommitRequest,
    plan: CommitPlan,
    encoded: Encoded,
    note: Note,
) -> Commit:
    """Store the objects and publish the record that names them."""
    target, options = plan.target, request.options
    adapters, basis = encoded
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
    stored = {task: item.store(context.store) for task, item in adapters.items()}
    with context.catalog.begin() as session:
        stored = count_added(session, stored)
    warn_left_out(target.name, plan.unchanged, request.each)

    def build(session: Session, place: Place) -> AbsorbRecord | CommitNumber:
        check_unchanged(session, target.name, plan.unchanged)
        versions = _next_versions(context, session, target.name, plan.batch, request)
        if isinstance(versions, int):
            return versions
        members = {
            "requires": required_features(
                stored.values(), _unlike_shapes(session, target.name, plan.batch)
            ),
            "tasks": [
                record_entry(task, versions[task], item, plan.parents[task])
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
        adapters={task: head_of(adapter) for task, adapter in request.batch.adapters.items()},
    )
    commit = with_unchanged(commit, plan.unchanged)
    if not commit.created:
        return commit
    _LOG.info("committed %s/@c%d: %s", target.name, commit.number, ", ".join(stored))
    return _report(context, commit, stored, basis)


def _policy_of(target: CommitTarget, request: CommitRequest) -> Policy:
    """Return what a commit is made under: what is asked for where all adapters ask alike."""
    asked = {(each.budget, each.keep_original) for each in request.each.values()}
    budget, keep_original = asked.pop() if len(asked) == 1 else (None, None)
    return overridden(target.policy, budget=budget, keep_original=keep_original)


def _without_unchanged(
    context: Context,
    session: Session,
    space: SpaceName,
    batch: AdapterBatch,
    request: CommitRequest,
) -> tuple[AdapterBatch, dict[TaskName, TaskVersion]]:
    """Return the adapters that get a version, and the versions of the others, given unchanged.

    Where all are unchanged, all stay: the commit that has them is returned for them.
    """
    if request.options.allow_duplicate:
        return batch, {}
    latest = {task: lookups.latest_version(session, space, task) for task in batch.adapters}
    unchanged = {
        task: version
        for task, version in latest.items()
        if version is not None
        and is_unchanged(context.store, task, version, batch.adapters[task], request.each[task])
    }
    if len(unchanged) == len(latest):
        return batch, unchanged
    return batch.without(unchanged), unchanged


def _next_versions(
    context: Context,
    session: Session,
    space: SpaceName,
    batch: AdapterBatch,
    request: CommitRequest,
) -> dict[TaskName, Version] | CommitNumber:
    """Return the version that each task gets, or the earlier commit that already says all this.

    Raises ConflictError, RefusedError where the head allows neither.
    """
    latest = {task: lookups.latest_version(session, space, task) for task in batch.adapters}
    if not request.options.allow_duplicate:
        earlier = commit_of_unchanged(
            context.store, space, batch.adapters, latest, request.options, request.each
        )
        if earlier is not None:
            return earlier
    versions = {}
    for task, adapter in batch.adapters.items():
        newest, location = latest[task], adapter.source.location
        versions[task] = next_version(
            session, space, task, newest, expected=request.options.expected
        )
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
    session: Session, space: SpaceName, adapter: Adapter, options: CommitOptions
) -> list[TaskVersionRef]:
    """Return what an adapter is declared to be derived from, by task and version.

    With it the version of this space that its training started from.
    """
    refs = list(options.derived_from)
    started_from = adapter.parent or ""
    if started_from.startswith(f"{space}/"):
        task, _, version = started_from.partition("/")[2].partition("@v")
        if version.isdecimal() and lookups.version_row(session, space, task, int(version)):
            refs.append(started_from)
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
    fresh = {item.digest for item in encoded.values()} | ({basis.digest} if basis else set())
    if any(fresh & {*item.sources} for item in encoded.values()):
        # the report calls them by this commit's number
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
