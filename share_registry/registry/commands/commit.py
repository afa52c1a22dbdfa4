"""Commit adapters: load, check, encode, publish, report.

Nothing reaches the log before every object is durable, and a refusal at any step leaves the log as
it was. What is checked before the adapters are encoded is checked again upon the head that the
record is published to. Adapters may have been encoded before (`prepare`): a commit is the same in
all but that step.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from share_registry.algebra.threads import one_thread
from share_registry.catalog.sql import Session
from share_registry.errors import InvalidInputError, ensure
from share_registry.exchange.adapter import head_of
from share_registry.format.notes import Note
from share_registry.format.records import AbsorbRecord
from share_registry.names import (
    CommitNumber,
    TaskName,
)
from share_registry.outside.files import Outside
from share_registry.registry.admission import require_checked
from share_registry.registry.arguments import CommitOptions
from share_registry.registry.checkout.reports import with_modules
from share_registry.registry.commands.auto_refit import refit_after_commit
from share_registry.registry.commands.commit_batch import (
    encode_adapters,
    load_adapters,
)
from share_registry.registry.commands.commit_plan import (
    CommitPlan,
    CommitRequest,
    next_versions,
    plan_commit,
    unlike_shapes,
    within_space,
)
from share_registry.registry.commands.dependents import check_dependents
from share_registry.registry.commands.encode import EncodedAdapter, NewBasis
from share_registry.registry.commands.heal import heal_unchanged
from share_registry.registry.commands.interrupts import tells_of_interrupts
from share_registry.registry.commands.preconditions import (
    check_options,
    check_unchanged,
    warn_left_out,
    with_unchanged,
)
from share_registry.registry.commands.publish import Place, idempotency_key, publish, read_commit
from share_registry.registry.commands.spaces import (
    CommitTarget,
    create_space,
    first_target,
)
from share_registry.registry.commands.statements import (
    count_added,
    note_for,
    preview_commit,
    record_entry,
    required_features,
)
from share_registry.registry.context import Context
from share_registry.values.commits import Commit
from share_registry.values.policy import Policy, overridden

_LOG: Final = logging.getLogger(__name__)

# The adapters of a plan, encoded, and a basis that was made for them
Encoded = tuple[dict[TaskName, EncodedAdapter], NewBasis | None]


@tells_of_interrupts
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
                load_adapters(
                    sources,
                    adapter_name=options.adapter_name,
                    format=options.format,
                    outside=context.outside,
                ),
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
    format: str | None,
    outside: Outside,
) -> None:
    """Check that adapters can be the first of a registry that is not there yet.

    Raises what their commit raises before anything is encoded.
    """
    sources, space = within_space(sources, space)
    batch = load_adapters(sources, adapter_name=adapter_name, format=format, outside=outside)
    first_target(batch.adapters.values(), space)


def commit_request(
    context: Context,
    request: CommitRequest,
    space: str | None,
    encode: Callable[[CommitPlan, Policy], Encoded],
    *,
    refit: bool = True,
) -> Commit:
    """Plan a commit, have its adapters encoded, and publish it. Raises as `commit_sources`.

    Args:
        context: The registry.
        request: What is asked for; its idempotency key is set.
        space: A space that exists; None for the one of the adapters' base model.
        encode: Returns the adapters of the plan, encoded under a policy.
        refit: Whether to make the refit that it calls for.
    """
    options = request.options
    context.catch_up()
    with context.catalog.begin() as session:
        plan = plan_commit(context, session, request, space)
    target = plan.target
    if plan.unchanged:
        heal_unchanged(context, plan, request)
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
    require_checked(policy.require, {task: item.note.checks for task, item in encoded.items()})
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
    if refit and commit.created and policy.k == target.policy.k:
        refit_after_commit(
            context, target.name, policy, note.author, basis=basis, committed=frozenset(encoded)
        )
    return commit


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
        versions = next_versions(context, session, target.name, plan.batch, request)
        if isinstance(versions, int):
            return versions
        check_dependents(session, context.reader(), target.name, target.policy, stored)
        members = {
            "requires": required_features(
                stored.values(), unlike_shapes(session, target.name, plan.batch)
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
        needs={digest for item in stored.values() for digest in item.needs},
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
