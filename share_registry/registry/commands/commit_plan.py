"""What a commit is to do: where it goes, which adapters get a version, whether it is made already.

Found out upon the head before anything is encoded; `next_versions` and `unlike_shapes` are asked
again upon the head that the record is published to.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.catalog.queries.resolution import resolve
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, RefusedError, ensure
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.export_files import digest_of_tensors
from share_registry.exchange.grown_vocabulary import shape_remarks
from share_registry.exchange.key_layouts import layout_remarks, may_have_another_name
from share_registry.format.layout import UnlikeShape
from share_registry.format.records import TaskVersionRef
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
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.commands.commit_batch import (
    AdapterBatch,
)
from share_registry.registry.commands.preconditions import (
    commit_of_key,
    commit_of_unchanged,
    is_unchanged,
    next_version,
)
from share_registry.registry.commands.spaces import (
    CommitTarget,
    check_base,
    find_target,
    labels_known,
)
from share_registry.registry.commands.statements import check_shapes
from share_registry.registry.context import Context
from share_registry.registry.evidence import require_policy, require_recorded
from share_registry.values.task_version import TaskVersion


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


def plan_commit(
    context: Context, session: Session, request: CommitRequest, space: str | None
) -> CommitPlan:
    """Find out what a commit is to do. Raises as `commit_sources`."""
    batch, options = request.batch, request.options
    target = find_target(session, context.store, batch.adapters.values(), space)
    if not target.new:
        require_policy(context, session, target.name, target.policy)
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
        versions = next_versions(context, session, target.name, batch, request)
        earlier = versions if isinstance(versions, int) else None
    if earlier is None:
        present = lookups.module_shapes(session, target.name)
        layouts = {task: adapter.layout for task, adapter in batch.adapters.items()}
        for task, unlike in check_shapes(session, target.name, layouts, present=present).items():
            remarks[task] = (*remarks[task], *shape_remarks(unlike))
        for task, said in _other_names(present.keys(), batch).items():
            remarks[task] = (*remarks[task], *said)
    return CommitPlan(
        target=target,
        remarks=remarks,
        batch=batch,
        unchanged=unchanged,
        earlier=earlier,
        parents=parents,
    )


def _other_names(present: Collection[str], batch: AdapterBatch) -> dict[TaskName, list[str]]:
    """Return what is worth saying of adapters whose modules the space has under other names."""
    modules = {
        task: {factor.module for factor in adapter.layout.factors}
        for task, adapter in batch.adapters.items()
    }
    return {
        task: layout_remarks(own, present)
        for task, own in modules.items()
        if may_have_another_name(own)
    }


def next_versions(
    context: Context,
    session: Session,
    space: SpaceName,
    batch: AdapterBatch,
    request: CommitRequest,
) -> dict[TaskName, Version] | CommitNumber:
    """Return the version that each task gets, or the earlier commit that already says all this.

    Raises ConflictError, RefusedError where the head allows neither.
    """
    latest = {task: version_lookups.latest_version(session, space, task) for task in batch.adapters}
    if not request.options.allow_duplicate:
        earlier = commit_of_unchanged(
            context.store, space, batch.adapters, latest, request.options, request.each
        )
        if earlier is not None:
            require_recorded(context, filter(None, latest.values()), session=session)
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
            and not version_lookups.came_from(session, space, task, location)
        ):
            raise RefusedError(
                f"task name {task!r}, derived from {location}, is taken by "
                f"{newest.source_location or newest.ref}.",
                hint=f"Give task={task!r} to add a version to it, or another name.",
            )
    return versions


def unlike_shapes(
    session: Session, space: SpaceName, batch: AdapterBatch
) -> dict[TaskName, list[UnlikeShape]]:
    """Return the modules of adapters that a space has in another shape. See `check_shapes`."""
    layouts = {task: adapter.layout for task, adapter in batch.adapters.items()}
    return check_shapes(session, space, layouts)


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
    latest = {task: version_lookups.latest_version(session, space, task) for task in batch.adapters}
    unchanged = {
        task: version
        for task, version in latest.items()
        if version is not None
        and is_unchanged(context.store, task, version, batch.adapters[task], request.each[task])
    }
    require_recorded(context, unchanged.values(), session=session)
    if len(unchanged) == len(latest):
        return batch, unchanged
    return batch.without(unchanged), unchanged


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
    same = version_lookups.versions_of_content(
        session,
        [space],
        source=adapter.source_digest,
        tensors=content or "",
        task=None if is_new else task,
    )
    same = [row for row in same if row.removed is None]
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
        if version.isdecimal() and version_lookups.version_row(session, space, task, int(version)):
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
