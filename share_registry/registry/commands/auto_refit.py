"""The refit that nobody had to ask for: what follows a commit.

In the paper's protocol every other task is re-expressed in the basis of the commit. Otherwise a
basis for later commits is made once leave-one-out coded bytes say that it pays: a few tasks of a
sample are coded with a basis of the others and without it, and the mean saving times the number of
tasks must exceed the basis's own bytes.

What follows is a record of its own: the commit stands whatever becomes of it.
"""

import logging
from collections.abc import Sequence
from typing import Final

from share_registry.catalog.queries import lookups
from share_registry.errors import ShareRegistryError
from share_registry.exchange.tensors import move_to_device
from share_registry.format.records import Note
from share_registry.names import SpaceName, TaskName
from share_registry.registry.arguments import RefitOptions
from share_registry.registry.basis.fit import FitRule, stored_members
from share_registry.registry.checkout.checkout import read_task_note, rebuild
from share_registry.registry.commands.coding import References, code_within_budget
from share_registry.registry.commands.encode import NewBasis
from share_registry.registry.commands.refit import (
    fit_basis,
    live_versions,
    publish_basis,
    reexpress,
    rule_within_budget,
)
from share_registry.registry.context import Context
from share_registry.values.policy import Policy
from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
_FIRST_TRIAL: Final = 8
# Whether a basis would pay is looked at when there are 8, 16, 32, ... tasks, on at most this many
# of the latest: the price of a commit does not grow with their number.
_SAMPLE: Final = 32
# Tasks of the sample that are coded with and without a basis of the others
_HELD_OUT: Final = 4


def follow_up(
    context: Context,
    space: SpaceName,
    policy: Policy,
    *,
    basis: NewBasis | None,
    committed: frozenset[TaskName],
) -> None:
    """Make the refit that a commit calls for; the commit stands whether or not it succeeds.

    Args:
        context: The registry.
        space: The space.
        policy: Of the commit.
        basis: The basis of the commit, where it brought one.
        committed: Its tasks.
    """
    try:
        if policy.k and basis is not None:
            _reexpress_others(context, space, policy, basis, committed)
        elif policy.refit and policy.references and policy.budget > 0:
            _refit_where_it_pays(context, space, policy, len(committed))
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
    basis: NewBasis,
    committed: frozenset[TaskName],
) -> None:
    with context.catalog.begin() as session:
        rows = [row for row in live_versions(session, space) if row.task not in committed]
    options = RefitOptions(max_rank=policy.k, allow_loss=True)
    reexpressed = reexpress(context, rows, basis, options, policy)
    if reexpressed:
        publish_basis(
            context, space, basis, Note(message="refit after absorption"), rows, reexpressed
        )


def _refit_where_it_pays(
    context: Context, space: SpaceName, policy: Policy, new_tasks: int
) -> None:
    with context.catalog.begin() as session:
        tasks = lookups.live_tasks(session, space)
        # is the count at or past a power of two from 8 on that it was below before the commit?
        if tasks < _FIRST_TRIAL or tasks.bit_length() <= (tasks - new_tasks).bit_length():
            return
        sample = lookups.last_absorbed(session, space, _SAMPLE)
    rule = rule_within_budget(policy.budget, tasks=tasks)
    basis = fit_basis(context, space, stored_members(context, sample), rule)
    if basis is not None and (
        _mean_saving(context, space, sample, rule, policy) * tasks > len(basis.content)
    ):
        note = Note(message="leave-one-out saving times tasks exceeds the cost of a basis")
        publish_basis(context, space, basis, note)


def _mean_saving(
    context: Context,
    space: SpaceName,
    sample: Sequence[TaskVersion],
    rule: FitRule,
    policy: Policy,
) -> float:
    """Return the mean bytes that a basis of the others saves on one task of the sample."""
    held_out = sample[:: max(1, len(sample) // _HELD_OUT)][:_HELD_OUT]
    saved = 0
    for row in held_out:
        others = stored_members(context, [version for version in sample if version is not row])
        basis = fit_basis(context, space, others, rule)
        if basis is not None:
            alone = _coded_bytes(context, row, policy, None)
            saved += alone - _coded_bytes(context, row, policy, basis)
    return saved / len(held_out)


def _coded_bytes(context: Context, row: TaskVersion, policy: Policy, basis: NewBasis | None) -> int:
    """Return the bytes of a stored task coded once more against what it refers to, and a basis."""
    adapter = rebuild(context, row, read_task_note(context, row))
    bases = {basis.digest: basis.content} if basis is not None else {}
    sources = context.reader().open(row.adapter_digest).stored.sources
    coded = code_within_budget(
        context.reader().beside(bases),
        adapter,
        move_to_device(adapter.factor_pairs(), context.device),
        References(sources=(*bases, *sources)),
        policy,
    )
    return len(coded.objects[coded.digest])
