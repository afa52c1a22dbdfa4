"""The half of the facade that is about what tasks share.

The basis, merging, and what there is to know of both. Each function is a method of `Registry`.

As there: no logic, imports inside.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from share_registry.registry.doors import Ref, reference
from share_registry.registry.results import Commit

if TYPE_CHECKING:
    from datetime import date, datetime

    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.basis import Basis
    from share_registry.registry.insight_results import Analysis, Retention, Similar
    from share_registry.registry.registry import Registry


def refit(
    self: "Registry",
    space: str | None = None,
    *,
    max_rank: int | None = None,
    energy: float | None = None,
    weighting: str = "unit",
    budget: float | None = None,
    allow_loss: bool = False,
    message: str = "",
    author: str | None = None,
    dry_run: bool = False,
) -> Commit:
    """Fit a basis to the live tasks of a space; later commits may refer to it.

    Stored tasks stay as they are unless told otherwise.

    Equal to the SVD of all energy-weighted factors stacked, from the Grams of the rows in use and
    the tasks' coefficients: no adapter is formed.

    Args:
        space: The space; the session's where None.
        max_rank: At most this many directions per module and side.
        energy: As few directions as capture this share of the energy, 0 to 1. Without either, as
            many as save coded bytes.
        weighting: "unit": every task counts alike. "energy": by the square of its norm.
        budget: Re-express every task in the basis whose error stays within this, measured against
            the source or, where that is gone, by its bound.
        allow_loss: Re-express every task as coefficients over the basis alone, whatever error that
            makes; it is recorded.
        message, author: Why, and who (self-declared).
        dry_run: Measure and report, write nothing.

    Raises:
        InvalidInput, NotFound: malformed arguments, no such space, no tasks.
        Refused: no direction saves bytes, so that there is no basis worth having.
        Conflict: a task got a new version meanwhile.
    """
    from share_registry.registry.refit import Wanted
    from share_registry.registry.refit import refit as made

    wanted = Wanted(
        max_rank=max_rank, energy=energy, weighting=weighting, budget=budget, allow_loss=allow_loss
    )
    return made(self.home, space, wanted, message=message, author=author, dry_run=dry_run)


def basis(
    self: "Registry", space: str | None = None, *, at: "str | date | datetime | int | None" = None
) -> "Basis":
    """Return the basis that commits to a space are coded with, now or `at` a commit or moment.

    Orthonormal rows per module and side. Raises NotFound.
    """
    from share_registry.registry.basis import basis as found

    return found(self.home, space, at=at)


def merge(
    self: "Registry",
    parents: Mapping[str, float],
    *,
    task: str,
    space: str | None = None,
    method: str = "linear",
    density: float | None = None,
    seed: int | None = None,
    budget: float | None = None,
    message: str = "",
    author: str | None = None,
    labels: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    expected: int | None = None,
    idempotency_key: str | None = None,
    dry_run: bool = False,
) -> Commit:
    """Merge task versions into a version of a task; the parents stand in its lineage.

    Args:
        parents: References of task versions of one space, with their weights.
        task: The task it becomes a version of.
        space: Space of references that name none.
        method: "linear": the weighted sum of dW, exactly. "ties", "dare": in the basis that all
            parents share (KnOTS), with `density` and, for dare, `seed`.
        density: Share of the entries that are kept; ties and dare.
        seed: Of the random choice; dare.
        budget: Largest error of what is stored against the merged dW; the space's policy where
            None.
        message, author, labels, metrics, expected, idempotency_key, dry_run: As in `commit`.

    Raises:
        InvalidInput, NotFound, Refused, BudgetExceeded, Conflict: nothing was committed.
    """
    from share_registry.registry.commit import Options
    from share_registry.registry.merge import merge as made

    options = Options(
        budget=budget,
        message=message,
        author=author,
        labels=labels or {},
        metrics=metrics or {},
        expected=expected,
        idempotency_key=idempotency_key,
        dry_run=dry_run,
    )
    return made(
        self.home,
        parents,
        task=task,
        space=space,
        method=method,
        density=density,
        seed=seed,
        options=options,
    )


def retention(
    self: "Registry", space: str | None = None, *, metric: str | None = None
) -> "Retention":
    """Return the forgetting matrix.

    The error (or a recorded `metric`) of every task at every commit that changed one. Raises
    NotFound.
    """
    from share_registry.registry.retention import retention as found

    return found(self.home, space, metric=metric)


def analyze(
    self: "Registry", space: str | None = None, *, budgets: Sequence[float] = (0.01, 0.05, 0.1, 0.3)
) -> "Analysis":
    """Return what the live tasks of a space share, what that saves at several budgets, and a verdict in words. See `share_registry.analyze`."""
    from share_registry.registry.analyze import analyze_space

    return analyze_space(self.home, space, budgets=budgets)


def similar(
    self: "Registry",
    adapter: "Ref | os.PathLike[str] | Adapter | Any",
    *,
    space: str | None = None,
    limit: int = 10,
) -> "Similar":
    """Return the tasks nearest to an adapter by dW.

    A PEFT directory, an `Adapter`, a live model, or a reference. Raises NotFound, InvalidInput.
    """
    from share_registry.registry.results import Resolved
    from share_registry.registry.similar import similar as found

    return found(
        self.home,
        reference(adapter) if isinstance(adapter, Commit | Resolved) else adapter,
        space=space,
        limit=limit,
    )
