"""What a space does by default: the error budget, keeping originals, using references."""

import math
from dataclasses import dataclass, replace
from typing import Final

from share_registry.errors import InvalidInput

DEFAULT_BUDGET: Final = 0.025
"""Pooled relative error of scaled dW; measured in docs/budget.md."""
MAX_BUDGET: Final = 0.9
ABSENT: Final = 0
"""`expected=ABSENT`: the task or alias must not be there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Defaults of a space.

    Attributes:
        budget: Largest pooled relative Frobenius error of scaled dW; 0 keeps every bit.
        keep_original: Keep the files handed in beside what is absorbed, for `checkout(exact=True)`.
        references: Whether adapters may be coded against earlier versions and earlier adapters.
    """

    budget: float = DEFAULT_BUDGET
    keep_original: bool = False
    references: bool = True

    def __post_init__(self) -> None:
        check_budget(self.budget)


def check_budget(budget: float) -> float:
    """Return the budget if it is a number in [0, 0.9]. Raises InvalidInput."""
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not math.isfinite(budget) or not 0 <= budget <= MAX_BUDGET:
        raise InvalidInput(
            f"budget {budget!r} is not a number from 0 to {MAX_BUDGET}.",
            hint="It is a relative error: 0.05 allows 5 %, 0 keeps every bit.",
        )
    return float(budget)


def overridden(policy: Policy, *, budget: float | None, keep_original: bool | None) -> Policy:
    """Return the policy with what one call asks for. Raises InvalidInput."""
    if budget is not None:
        policy = replace(policy, budget=check_budget(budget))
    return policy if keep_original is None else replace(policy, keep_original=keep_original)
