"""What a space does by default: the error budget, keeping originals, using references."""

from dataclasses import dataclass, fields, replace
from typing import Final

from typing_extensions import override

from share_registry import kinds
from share_registry.errors import InvalidInputError
from share_registry.kinds import shown
from share_registry.look.units import typed_percent
from share_registry.names import NAME
from share_registry.values.sheet import Sheet, Shown
from share_registry.values.text_table import NOTHING

# Pooled relative error of scaled dW; measured in docs/budget.md
DEFAULT_BUDGET: Final = 0.025
MAX_BUDGET: Final = 0.9
UNIT: Final = "unit"
# How a refit weighs tasks: all alike, or each by the square of its norm
ENERGY: Final = "energy"
# `expected=ABSENT`: the task or alias must not be there yet
ABSENT: Final = 0
_MOST_CHECKS: Final = 16
# Whole numbers of a policy, and the least that each may be
_LEAST: Final = {"pseudo_rank": 1, "k": 1, "phi": 0, "max_dependents": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy(Shown):
    """Defaults of a space.

    Attributes:
        budget: Largest pooled relative Frobenius error of scaled dW; 0 keeps every bit.
        keep_original: Also keep the committed files as they are, for `checkout(exact=True)`.
        references: Whether adapters may be coded against earlier versions, earlier adapters and the
            space's basis.
        refit: Whether a basis is fitted without being asked for, once it is seen to pay for itself.
        pseudo_rank: Keep at most this many directions of every module (p of the paper); within the
            budget, or the commit is refused.
        k: The paper's protocol: a basis of k directions per module and side, refitted at every
            commit of an adapter, every task kept as coefficients alone. Its loss is recorded, no
            budget limits it. See `Policy.share`.
        phi: Directions that training in the subspace adds beside the basis, where the training says
            nothing else.
        max_dependents: How many versions at most cannot be decoded without the object of another
            one; None for any number. Versions then refer to earlier ones of their task alone, and
            now and then one is stored on its own.
        require: Names of checks that every adapter must pass. What each runs is said where it is
            committed: `Registry.open(checks=...)`.
    """

    budget: float = DEFAULT_BUDGET
    keep_original: bool = False
    references: bool = True
    refit: bool = True
    pseudo_rank: int | None = None
    k: int | None = None
    phi: int = 0
    max_dependents: int | None = None
    require: tuple[str, ...] = ()

    @override
    def sheet(self) -> Sheet:
        members = {field.name: getattr(self, field.name) for field in fields(self)}
        members |= {"budget": typed_percent(self.budget), "require": ", ".join(self.require)}
        return Sheet(facts=tuple((name, _said(value)) for name, value in members.items()))

    def __post_init__(self) -> None:
        check_budget(self.budget)
        object.__setattr__(self, "require", _check_names(self.require))
        for name in ("keep_original", "references", "refit"):
            kinds.flag(name, getattr(self, name))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or not least <= value <= 0xFFFF):
                raise InvalidInputError(
                    f"{name} {shown(value)} is not a whole number from {least} to 65535.",
                    hint="Leave it out for no limit; where no version may need another, give "
                    "references=False."
                    if name == "max_dependents"
                    else "The paper takes k = 32, p = 8, phi = 2 for GLUE.",
                )
        if self.k is not None and self.max_dependents is not None:
            raise InvalidInputError(
                f"max_dependents {self.max_dependents} is given with k {self.k}: every task needs "
                "the basis.",
                hint="Give one of them.",
            )
        if self.k is not None and self.pseudo_rank is not None and self.pseudo_rank > self.k:
            raise InvalidInputError(
                f"pseudo_rank {self.pseudo_rank} is more than the {self.k} directions "
                "of the basis.",
                hint="p is at most k.",
            )

    @property
    def shares(self) -> bool:
        """Whether versions may refer to adapters of other tasks, and to bases."""
        return self.references and self.max_dependents is None

    @classmethod
    def share(cls, *, k: int, p: int | None = None, phi: int = 0) -> "Policy":
        """Return the protocol of the paper, exactly (arXiv 2602.06043).

        Fixed k, a refit at every commit of an adapter, coefficients only, loss allowed and
        recorded.

        Args:
            k: Directions of the basis per module and side.
            p: Pseudo-rank: directions kept of every task; None for the adapter's own rank.
            phi: Directions that training adds beside the basis.
        """
        return cls(k=k, pseudo_rank=p, phi=phi)


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOTHING if value in (None, "") else str(value)


def _check_names(names: object) -> tuple[str, ...]:
    """Return names of checks, sorted. Raises InvalidInputError."""
    if (
        not isinstance(names, list | tuple)
        or len(names) > _MOST_CHECKS
        or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names)
    ):
        raise InvalidInputError(
            f"require {shown(names)} is not a list of at most {_MOST_CHECKS} names of checks.",
            hint="A name is such as modelscan: 1 to 64 of a-z 0-9 . _ -. A registry names checks; "
            "what they run, each says who commits.",
        )
    return tuple(sorted({*names}))


def check_budget(budget: float) -> float:
    """Return the budget if it is a number in [0, 0.9]. Raises InvalidInputError."""
    if (
        isinstance(budget, bool)
        or not isinstance(budget, int | float)
        or not 0 <= budget <= MAX_BUDGET
    ):
        raise InvalidInputError(
            f"budget {shown(budget)} is not a number from 0 to {MAX_BUDGET}.",
            hint="It is a relative error: 0.05 allows 5 %, 0 keeps every bit.",
        )
    return float(budget)


def overridden(policy: Policy, *, budget: float | None, keep_original: bool | None) -> Policy:
    """Return the policy with what one call asks for.

    A budget also limits what the paper's protocol would lose without one. Raises InvalidInputError.
    """
    if budget is not None:
        policy = replace(policy, budget=check_budget(budget), k=None)
    return policy if keep_original is None else replace(policy, keep_original=keep_original)
