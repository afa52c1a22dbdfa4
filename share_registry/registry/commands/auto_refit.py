"""Make the refit that follows a commit, where nobody had to ask for one.

In the paper's protocol every other task is re-expressed in the basis of the commit. Otherwise a
basis for later commits is made once leave-one-out coded bytes say that it pays: a few tasks of a
sample are coded with a basis of the others and without it, and the mean saving times the number of
tasks must exceed the basis's own bytes. It is a record of its own: the commit stands whatever
becomes of it.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from share_registry.catalog.queries import lookups, version_lookups
from share_registry.errors import ShareRegistryError
from share_registry.format.notes import Note
from share_registry.names import SpaceName, TaskName
from share_registry.registry.arguments import RefitOptions
from share_registry.registry.commands.encode import NewBasis
from share_registry.registry.commands.new_basis import (
    SAMPLE,
    fit_sample,
    judge,
    rule_within_budget,
    serialize_basis,
)
from share_registry.registry.commands.refit import live_versions, publish_basis, reexpress
from share_registry.registry.context import Context
from share_registry.registry.stored_config import described_versions
from share_registry.values.policy import Policy

_LOG: Final = logging.getLogger(__name__)
# Whether a basis would pay is looked at when there are 8, 16, 32, ... tasks.
_FIRST_TRIAL: Final = 8


def refit_after_commit(
    context: Context,
    space: SpaceName,
    policy: Policy,
    author: str | None,
    *,
    basis: NewBasis | None,
    committed: frozenset[TaskName],
) -> bool:
    """Make the refit that a commit calls for; the commit stands whether or not it succeeds.

    Return whether one was made.
    """
    with apart_from_commit(space):
        if policy.k and basis is not None:
            return _reexpress_others(context, space, policy, author, basis, committed)
        if policy.refit and policy.shares and policy.budget > 0:
            return _refit_where_it_pays(context, space, policy, author, len(committed))
    return False


@contextmanager
def apart_from_commit(space: SpaceName) -> Iterator[None]:
    """Warn of what fails: the commit is published, and must not look as if it were not."""
    try:
        yield
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
) -> bool:
    with context.catalog.begin() as session:
        rows = [row for row in live_versions(session, space) if row.task not in committed]
    rows = described_versions(context, rows)
    options = RefitOptions(max_rank=policy.k, allow_loss=True)
    reexpressed = reexpress(context, rows, basis, options, policy)
    if reexpressed:
        note = Note(author=author, message="refit after absorption")
        publish_basis(context, space, basis, note, rows, reexpressed)
    return bool(reexpressed)


def _refit_where_it_pays(
    context: Context, space: SpaceName, policy: Policy, author: str | None, new_tasks: int
) -> bool:
    with context.catalog.begin() as session:
        tasks = lookups.live_tasks(session, space)
        # is the count at or past a power of two from 8 on that it was below before the commit?
        if tasks < _FIRST_TRIAL or tasks.bit_length() <= (tasks - new_tasks).bit_length():
            return False
        sample = version_lookups.last_absorbed(session, space, SAMPLE)
    sample = described_versions(context, sample)
    rule = rule_within_budget(policy.budget, tasks=tasks)
    fitted = fit_sample(context, sample, rule)
    if not fitted.basis.modules:
        return False
    basis = serialize_basis(fitted, space)
    if judge(context, sample, fitted, policy).saved_bytes * tasks <= len(basis.content):
        return False
    message = "leave-one-out saving times tasks exceeds the cost of a basis"
    publish_basis(context, space, basis, Note(author=author, message=message))
    return True
