"""Prepare adapters for commits, and publish them later, maybe in another process.

Coding is nearly all of what a commit takes, and needs nobody else: it reads the space as it was
after a stated commit, and writes objects that no record names yet. Publishing names them, one
record for many adapters, and checks again upon the head all that a commit checks. So any number of
processes may prepare, and one publishes.

What is prepared can be lost without harm, and grow stale: an object that it needs may be removed
before a record names it. Then the adapter is coded again from where it was read.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from share_registry import kinds
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.as_of import At, number_at
from share_registry.catalog.sql import Session
from share_registry.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    RefusedError,
    ensure,
)
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.places import at_path, is_directory, is_place
from share_registry.names import CommitNumber, Digest, SpaceName, TaskName, first_and_more
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.commands.commit import Encoded, commit_request
from share_registry.registry.commands.commit_batch import AdapterBatch, load_adapters
from share_registry.registry.commands.commit_plan import (
    CommitPlan,
    CommitRequest,
    plan_commit,
    within_space,
)
from share_registry.registry.commands.dependents import closure, may_need
from share_registry.registry.commands.encode import EncodedAdapter, check_adapter, encode_adapter
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.preconditions import check_options, check_texts
from share_registry.registry.commands.publish import idempotency_key
from share_registry.registry.context import Context
from share_registry.values.commits import Commit
from share_registry.values.cost_reports import AdapterReport
from share_registry.values.policy import Policy, overridden
from share_registry.values.sheet import Sheet, Shown


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prepared(Shown):
    """An adapter that is coded and whose objects are stored, in no commit yet.

    It can be pickled, be published by another process, and be lost: `gc` removes objects that
    nothing names.

    Attributes:
        space: The space it is for; created when it is published, where it is new.
        task: The task.
        at: The commit after which the space's adapters were referred to; None for a new space.
        source: Where it is read again if need be: its place, or the adapter itself.
        is_derived: Whether the task is named after the source.
        content: Digest of the tensors as they were read.
        encoded: What is stored.
        needs: The objects that a record may only name where they are there.
        options: How it was asked to be kept, and what is said of it.
    """

    derived = ("report", "source_digest")
    space: SpaceName
    task: TaskName
    at: CommitNumber | None
    source: Any = field(repr=False)
    is_derived: bool
    content: Digest
    encoded: EncodedAdapter = field(repr=False)
    needs: tuple[Digest, ...] = field(repr=False)
    options: CommitOptions = field(repr=False)

    @property
    def report(self) -> AdapterReport:
        """What it costs, and its measured error."""
        return replace(self.encoded.report, bytes_added=self.encoded.added_bytes)

    @property
    def source_digest(self) -> Digest:
        """sha256 of what was read; equal for equal adapters."""
        return self.encoded.adapter.source_digest

    @override
    def sheet(self) -> Sheet:
        at = "" if self.at is None else f" as of c{self.at}"
        return Sheet(title=f"{self.space}/{self.task} prepared{at}: {self.report}")


_PREPARED: Final = "what `prepare` returned"
_several: Final = kinds.several(
    kinds.of(Prepared, _PREPARED, "Call registry.prepare(adapter)."),
    _PREPARED,
    "Give what registry.prepare(adapter) returned, or a list of that.",
)


def check_prepared(name: str, value: Any) -> list[Prepared]:
    """Return prepared adapters; a single one may stand alone. Raises InvalidInputError."""
    return [value] if isinstance(value, Prepared) else _several(name, value)


@one_thread()
def prepare_source(
    context: Context,
    source: Any,
    task: str | None,
    space: str | None,
    options: CommitOptions,
    *,
    at: At | None = None,
) -> Prepared:
    """Read, check and code an adapter and store its objects; see `Registry.prepare`."""
    context.require_writable()
    labels = check_options(options, context.outside)
    sources, space = within_space([(task, source)], space)
    with context.catalog.keep_connection():
        batch = load_adapters(
            sources,
            adapter_name=options.adapter_name,
            format=options.format,
            outside=context.outside,
        )
        ((name, adapter),) = batch.adapters.items()
        # whether the task has it already is for whoever publishes it
        request = CommitRequest.of(batch, replace(options, allow_duplicate=True))
        context.catch_up()
        with context.catalog.begin() as session:
            plan = plan_commit(context, session, request, space)
            number = _number(session, plan, at)
        policy = _policy_of(plan, options)
        checks = check_adapter(context, policy, name, adapter)
        encoded = encode_adapter(
            context,
            plan.target.name,
            name,
            adapter if policy.keep_original else replace(adapter, original={}),
            policy=policy,
            parents=plan.parents[name],
            at=number,
        )
        encoded = encoded.annotated(labels, options.metrics).passed(checks)
        return Prepared(
            space=plan.target.name,
            task=name,
            at=number,
            source=_read_again(context, source, adapter),
            is_derived=name in batch.derived,
            content=request.contents[name],
            encoded=encoded if options.dry_run else encoded.store(context.store),
            needs=(*encoded.objects, *encoded.needs),
            options=options,
        )


@one_thread()
@tells_of_interrupts
def publish_prepared(
    context: Context, prepared: Sequence[Prepared], options: CommitOptions, *, refit: bool = True
) -> Commit:
    """Publish prepared adapters as one commit, all or nothing; see `Registry.publish`.

    Args:
        context: The registry.
        prepared: The adapters.
        options: What is said of the commit.
        refit: Whether to make the refit that it calls for.
    """
    context.require_writable()
    check_texts(options)
    options = replace(options, idempotency_key=idempotency_key(context, options.idempotency_key))
    by_task = _by_task(prepared, options)
    space = prepared[0].space
    batch = AdapterBatch(
        adapters={
            # one that lies in memory has its files with it
            task: item.source if isinstance(item.source, Adapter) else item.encoded.adapter
            for task, item in by_task.items()
        },
        directories={},
        derived=frozenset(task for task, item in by_task.items() if item.is_derived),
        outside=context.outside,
    )
    request = CommitRequest(
        batch=batch,
        contents={task: item.content for task, item in by_task.items()},
        options=options,
        each={task: item.options for task, item in by_task.items()},
    )

    def encode(plan: CommitPlan, _: Policy) -> Encoded:
        return {
            task: _present(context, by_task[task], plan).encoded for task in plan.batch.adapters
        }, None

    with context.catalog.keep_connection():
        context.catch_up()
        with context.catalog.begin() as session:
            is_there = lookups.space_row(session, space) is not None
        named = space if is_there else None
        return commit_request(context, request, named, encode, refit=refit)


def _number(session: Session, plan: CommitPlan, at: At | None) -> CommitNumber | None:
    """Return the commit that a moment means, by default the head; None in a new space."""
    head = lookups.head(session, plan.target.name)
    if head is not None:
        return head.number if at is None else number_at(session, plan.target.name, at)
    ensure(
        at is None,
        NotFoundError(
            f"space {plan.target.name!r} does not exist yet, so it was never at {at}.",
            hint="Leave out at=.",
        ),
    )
    return None


def _policy_of(plan: CommitPlan, options: CommitOptions) -> Policy:
    policy = overridden(
        plan.target.policy, budget=options.budget, keep_original=options.keep_original
    )
    ensure(
        not policy.k,
        RefusedError(
            f"the policy of space {plan.target.name!r} fits a basis to every commit: nothing can "
            "be coded before it.",
            hint="Commit the adapters with commit or commit_many.",
        ),
    )
    return policy


def _read_again(context: Context, source: Any, adapter: Adapter) -> Any:
    """Return what an adapter can be read again from, in any directory."""
    if is_directory(source):
        return at_path(source, os.fspath(context.outside.absolute(Path(source))))
    return at_path(source, os.fspath(source)) if is_place(source) else adapter


def _by_task(prepared: Sequence[Prepared], options: CommitOptions) -> dict[TaskName, Prepared]:
    ensure(
        prepared,
        InvalidInputError("there is nothing to publish.", hint="Give what prepare returned."),
    )
    spaces = sorted({item.space for item in prepared})
    ensure(
        len(spaces) == 1,
        InvalidInputError(
            f"the adapters were prepared for several spaces: {first_and_more(spaces)}.",
            hint="Publish them space by space.",
        ),
    )
    by_task = {item.task: item for item in prepared}
    if len(by_task) < len(prepared):
        tasks = [item.task for item in prepared]
        twice = next(task for task in tasks if tasks.count(task) > 1)
        raise InvalidInputError(
            f"task {twice!r} is among the prepared adapters more than once.",
            hint="A commit makes one version of a task: publish them one after another.",
        )
    ensure(
        options.expected is None or len(prepared) == 1,
        InvalidInputError(
            f"expected version {options.expected} is given for {len(prepared)} tasks.",
            hint="Publish the task alone, or leave it out.",
        ),
    )
    return by_task


def _present(context: Context, prepared: Prepared, plan: CommitPlan) -> Prepared:
    """Return an adapter whose objects are there: it is coded again where some are not."""
    space = plan.target.name
    if (
        space == prepared.space
        and not context.store.missing(prepared.needs)
        and _may_need(context, prepared, plan.target.policy)
        and {*plan.target.policy.require} <= {each.name for each in prepared.encoded.note.checks}
    ):
        return prepared
    again = prepare_source(
        context,
        prepared.source,
        prepared.task,
        None if plan.target.new else space,
        prepared.options,
    )
    ensure(
        again.source_digest == prepared.source_digest,
        ConflictError(
            f"the adapter of task {prepared.task!r} changed since it was prepared, and objects "
            "that it needs are not there any more, or may not be needed by more versions.",
            hint="Prepare it again.",
        ),
    )
    return again


def _may_need(context: Context, prepared: Prepared, policy: Policy) -> bool:
    """Tell whether an adapter may still be published with what it refers to (spec COM-13)."""
    if policy.max_dependents is None:
        return True
    needed = closure(context.reader(), prepared.encoded.needs)
    with context.catalog.begin() as session:
        return may_need(session, prepared.space, prepared.task, needed, policy.max_dependents)
