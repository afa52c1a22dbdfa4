"""Sharing as commits are made.

A basis fitted to several adapters at once, the paper's protocol, and the refit that nobody had to
ask for.

What follows a commit is a record of its own: the commit is made whatever becomes of it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from share_registry.catalog.queries import lookups
from share_registry.errors import ShareRegistryError
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.factor_pairs import move_to_device
from share_registry.format.adapter_object import encode
from share_registry.format.records import Note
from share_registry.names import SpaceName, TaskName
from share_registry.registry.basis.fit import FitRule, fit, member_in_hand, stored_members
from share_registry.registry.checkout.checkout import read_task_note, rebuild
from share_registry.registry.commands.encode import NewBasis, coded
from share_registry.registry.commands.preconditions import RefitOptions
from share_registry.registry.commands.prediction import ChosenReferences
from share_registry.registry.commands.reexpress import re_expressed
from share_registry.registry.commands.refit import (
    FINE,
    live_versions,
    publish_basis,
    sealed_basis,
)
from share_registry.values.policy import Policy

if TYPE_CHECKING:
    from share_registry.registry.context import Context
    from share_registry.values.task_version import TaskVersion

_LOG: Final = logging.getLogger(__name__)
_FEWEST: Final = 3
"""Adapters of one commit from which on a basis may pay.

Two share nothing that one cannot refer to in the other.
"""
_FIRST_TRIAL: Final = 8
_SAMPLE: Final = 32
"""Whether a basis would pay is looked at when there are 8, 16, 32, ... tasks, on at most this many of the latest: the price of a commit does not grow with their number."""
_HELD_OUT: Final = 4
"""Tasks of the sample that are coded with and without a basis of the others."""
_SHARE_OF_BUDGET: Final = 0.25


def fitted_to(
    context: "Context",
    space: SpaceName,
    heads: Mapping[TaskName, Adapter],
    whole: Callable[[TaskName], Adapter],
    some: Sequence[TaskName],
    policy: Policy,
) -> NewBasis | None:
    """Return a basis fitted to the adapters of one commit, and, in the paper's protocol, to the tasks that are there; None where there is nothing to fit.

    Args:
        context: The registry.
        space: Where they go.
        heads: All of them.
        whole: Gives one with its tensors.
        some: Those that stand for all where a basis is a matter of bytes; the paper's protocol
            takes all.
        policy: Which of the two, and how.
    """
    if policy.k:
        with context.catalog.begin() as session:
            rows = [row for row in live_versions(session, space) if row.task not in heads]
        fresh = [member_in_hand(task, whole(task)) for task in sorted(heads)]
        return sealed_basis(
            fit(
                [*stored_members(context, rows), *fresh],
                FitRule(max_rank=policy.k, precision=FINE),
                device=context.device,
            ),
            space,
        )
    if len(some) < _FEWEST or not policy.references or policy.budget == 0:
        return None
    tasks = len(heads) if len(some) < len(heads) else 0
    made = fit(
        [member_in_hand(task, whole(task)) for task in some],
        FitRule(tasks=tasks, budget=policy.budget, precision=_SHARE_OF_BUDGET * policy.budget),
        device=context.device,
    )
    return sealed_basis(made, space) if made.basis.modules else None


def follow_up(
    context: "Context",
    space: SpaceName,
    policy: Policy,
    *,
    fitted: NewBasis | None,
    committed: frozenset[TaskName],
) -> None:
    """Make the refit that a commit calls for; the commit stands whether or not it succeeds."""
    try:
        if policy.k and fitted is not None:
            _re_express(context, space, policy, fitted, committed)
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


def _re_express(
    context: "Context",
    space: SpaceName,
    policy: Policy,
    fitted: NewBasis,
    committed: frozenset[TaskName],
) -> None:
    """Re-express every other task in the basis of the commit, as the paper does at every absorption."""
    with context.catalog.begin() as session:
        rows = [row for row in live_versions(session, space) if row.task not in committed]
    moved = re_expressed(
        context, rows, fitted, RefitOptions(max_rank=policy.k, allow_loss=True), policy
    )
    if moved:
        publish_basis(context, space, fitted, moved, Note(message="refit after absorption"))


def _refit_where_it_pays(context: "Context", space: SpaceName, policy: Policy, new: int) -> None:
    """Make a basis for later commits where leave-one-out coded saving times the tasks seen exceeds its cost."""
    with context.catalog.begin() as session:
        tasks = lookups.live_tasks(session, space)
        if not _due(tasks, new):
            return
        sample = lookups.last_absorbed(session, space, _SAMPLE)
    rule = FitRule(tasks=tasks, budget=policy.budget, precision=_SHARE_OF_BUDGET * policy.budget)
    made = fit(stored_members(context, sample), rule, device=context.device)
    if not made.basis.modules:
        return
    fitted = sealed_basis(made, space)
    if _saving(context, space, sample, rule, policy) * tasks > len(fitted.content):
        publish_basis(
            context,
            space,
            fitted,
            (),
            Note(message="leave-one-out saving times tasks exceeds the cost of a basis"),
        )


def _saving(
    context: "Context",
    space: SpaceName,
    sample: "Sequence[TaskVersion]",
    rule: FitRule,
    policy: Policy,
) -> float:
    """Return the mean number of bytes that a basis fitted to the others saves on one task of the sample, coded with and without it."""
    held_out = sample[:: max(1, len(sample) // _HELD_OUT)][:_HELD_OUT]
    saved = 0
    for row in held_out:
        made = fit(
            stored_members(context, [other for other in sample if other is not row]),
            rule,
            device=context.device,
        )
        if made.basis.modules:
            basis = sealed_basis(made, space)
            saved += _coded_bytes(context, row, policy, None) - _coded_bytes(
                context, row, policy, basis
            )
    return saved / len(held_out)


def _coded_bytes(
    context: "Context", row: "TaskVersion", policy: Policy, basis: NewBasis | None
) -> int:
    """Return the bytes of a stored task coded once more against what it refers to, and a basis."""
    adapter = rebuild(context, row, read_task_note(context, row))
    reader = context.reader().beside({basis.digest: basis.content} if basis else {})
    known = context.reader().open(row.adapter_digest).stored.sources
    pairs = adapter.factor_pairs()
    found = coded(
        reader,
        adapter,
        move_to_device(pairs, context.device),
        ChosenReferences(sources=(*([basis.digest] if basis else []), *known)),
        policy,
    )
    return len(found.content if found.content is not None else encode(found.stored, adapter.layout))


def _due(tasks: int, new: int) -> bool:
    """Tell whether the last `new` tasks took the count to or past a power of two from 8 on."""
    return tasks >= _FIRST_TRIAL and tasks.bit_length() > (tasks - new).bit_length()
