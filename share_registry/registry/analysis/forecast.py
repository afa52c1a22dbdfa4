"""What adapters would take at a budget.

Each alone, one after another against the earlier ones, and with a basis fitted to all of them.

The first two are coded as a commit would code them, and counted by entropy (what is written takes 2
to 5 % more); the third is estimated from the spectra of the stacks, relative to the first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import exp, log, sqrt
from typing import Final

import numpy as np
import torch
from torch import Tensor

from share_registry.algebra.absorb import absorb
from share_registry.algebra.batch import batches, energies
from share_registry.algebra.decode import decode_side
from share_registry.algebra.outcome import Candidate, CodedAdapter
from share_registry.algebra.rate_distortion import bits_per_element, gaussian_rows
from share_registry.algebra.rates import bits
from share_registry.algebra.search import predicted_step
from share_registry.algebra.spectrum import Stack, joint_saving
from share_registry.exchange.factor_pairs import factor_dtypes, factor_positions
from share_registry.format.symbols import entropy_bits
from share_registry.names import Side
from share_registry.registry.analysis.subjects import Progress
from share_registry.registry.checkout.factored import FactoredAdapter
from share_registry.registry.commands.prediction import FIRST, LATEST
from share_registry.stored import StoredModule, StoredSide
from share_registry.values.analyses import Forecast

Rows = tuple[Tensor, Tensor]
_LEARNING: Final = 0.5 / log(2)
"""Bits that every further symbol of a row costs a coder that has to learn its frequency (Miller and Madow, 1955): without it, narrow rows look smaller than they are."""
_SCALE_BITS: Final = 16.0


def forecasts(
    members: Sequence[FactoredAdapter],
    *,
    budgets: Sequence[float],
    before: Mapping[int, int],
    stacks: Sequence[Stack],
    progress: Progress,
) -> tuple[Forecast, ...]:
    """Forecast all adapters at some budgets.

    Args:
        members: The adapters, in the order in which they would be committed.
        budgets: Pooled relative errors of the scaled dW, above 0.
        before: Adapter -> the earlier one that it is nearest to, where it is near.
        stacks: Stacks of the modules and sides, all or a sample.
        progress: See `Progress`.
    """
    elements = sum(member.parameters for member in members)
    rows = [gaussian_rows(member.pairs) for member in members]
    found = []
    for number, budget in enumerate(budgets):
        told = partial(_tell, progress, number * len(members), len(budgets) * len(members))
        alone, shared = _one_after_another(members, budget, before, told)
        joint = alone * (1.0 - _joint_share(members, budget, stacks))
        bound = sum(
            bits_per_element(part, budget=budget) * float(part.widths.sum()) for part in rows
        )
        found.append(
            Forecast(
                budget=budget,
                alone=round(alone / 8),
                references=round(shared / 8),
                joint=round(joint / 8),
                bits_alone=alone / elements,
                bits_references=shared / elements,
                bits_joint=joint / elements,
                bits_bound=bound / elements,
            )
        )
    return tuple(found)


def _tell(progress: Progress, start: int, total: int, done: int) -> None:
    progress("coding", start + done, total)


@dataclass(slots=True, kw_only=True)
class _ForecastRows:
    """One adapter as it would be stored, by module name; decoded where something needs it."""

    member: FactoredAdapter
    modules: Mapping[str, StoredModule | None]
    sources: Sequence["_ForecastRows"]
    previous: "_ForecastRows | None"
    decoded: dict[str, Rows] = field(default_factory=dict)

    def rows(self, module: str) -> Rows | None:
        """Return the decoded float32 factors of a module, None where there is none of that name."""
        if module not in self.modules:
            return None
        if module not in self.decoded:
            self.decoded[module] = self._decode(module)
        return self.decoded[module]

    def _decode(self, module: str) -> Rows:
        stored = self.modules[module]
        if stored is None:
            pair = next(pair for pair in self.member.pairs if pair.module == module)
            return pair.a.float(), pair.b.float()
        before = self.previous.rows(module) if self.previous is not None else None
        return self._side(module, stored, Side.A, before), self._side(
            module, stored, Side.B, before
        )

    def _side(self, module: str, stored: StoredModule, side: Side, before: Rows | None) -> Tensor:
        found = stored.side(side)
        blocks = [_own(self.sources[term.source], module, side) for term in found.terms]
        return decode_side(
            found,
            previous=None if before is None else before[0 if side is Side.A else 1],
            blocks=blocks,
        )


def _one_after_another(
    members: Sequence[FactoredAdapter],
    budget: float,
    before: Mapping[int, int],
    step: Callable[[int], None],
) -> tuple[float, float]:
    """Return the bits of all adapters alone, and each with the references that it would find in a space of the earlier ones."""
    coded: list[_ForecastRows] = []
    alone = shared = 0.0
    for number, member in enumerate(members):
        step(number + 1)
        previous = coded[before[number]] if number in before else None
        plain, least, made = _code(member, budget, _candidates(coded, previous), previous)
        alone, shared = alone + plain, shared + least
        coded.append(made)
    return alone, shared


def _candidates(
    coded: Sequence[_ForecastRows], previous: _ForecastRows | None
) -> list[_ForecastRows]:
    """Return what a commit would try.

    The version before, what that refers to, the first and the latest.
    """
    near = [previous, *previous.sources] if previous is not None else []
    found: list[_ForecastRows] = []
    for one in [*near, *coded[:FIRST], *reversed(coded[-LATEST:])]:
        if not any(one is other for other in found):
            found.append(one)
    return found


def _code(
    member: FactoredAdapter,
    budget: float,
    candidates: Sequence[_ForecastRows],
    previous: _ForecastRows | None,
) -> tuple[float, float, _ForecastRows]:
    """Return the bits without references, the fewest bits, and the latter's value."""
    sizes: dict[bool, float] = {}

    def size(made: CodedAdapter) -> int:
        found = _bits(member, made)
        alone = not made.sources and not made.previous
        sizes[alone] = min(found, sizes.get(alone, found))
        return round(found / 8)

    made = absorb(
        member.pairs,
        budget=budget,
        dtypes=factor_dtypes(member.layout),
        candidates=[_candidate(number, one, member) for number, one in enumerate(candidates)],
        previous=[_fitting(previous.rows(pair.module), pair.a, pair.b) for pair in member.pairs]
        if previous is not None
        else None,
        factors=factor_positions(member.layout),
        size=size,
    )
    least = _bits(member, made)
    value = _ForecastRows(
        member=member,
        modules={
            pair.module: module for pair, module in zip(member.pairs, made.modules, strict=True)
        },
        sources=[candidates[number] for number in made.sources],
        previous=previous if made.previous else None,
    )
    return sizes.get(True, least), least, value


def _bits(member: FactoredAdapter, made: CodedAdapter) -> float:
    """Return the bits of an outcome; what is kept verbatim counts as it is."""
    return sum(
        _side_bits(module.a) + _side_bits(module.b)
        if module is not None
        else 8.0 * (pair.a.numel() * a.itemsize + pair.b.numel() * b.itemsize)
        for module, pair, (a, b) in zip(
            made.modules, member.pairs, factor_dtypes(member.layout), strict=True
        )
    )


def _side_bits(side: StoredSide) -> float:
    """Return the bits of own rows by their entropies and what learning them takes, of coefficients as Gaussian numbers, and of scales."""
    distinct = (np.diff(np.sort(side.own, axis=1), axis=1) != 0).sum()
    coefficients = [torch.from_numpy(term.coefficients).double() for term in side.terms]
    return (
        entropy_bits(side.own)
        + _LEARNING * float(distinct)
        + sum(C.numel() * float(bits(C.square().mean())) for C in coefficients)
        + _SCALE_BITS * len(side.scales)
    )


def _candidate(number: int, one: _ForecastRows, member: FactoredAdapter) -> Candidate:
    return Candidate(
        source=number,
        modules=[_of_shape(one.modules.get(pair.module), pair.a, pair.b) for pair in member.pairs],
    )


def _of_shape(module: StoredModule | None, a: Tensor, b: Tensor) -> StoredModule | None:
    fits = module is not None and (module.a.own.shape[1], module.b.own.shape[1]) == (
        a.shape[1],
        b.shape[1],
    )
    return module if fits else None


def _fitting(rows: Rows | None, a: Tensor, b: Tensor) -> Rows | None:
    return (
        rows if rows is not None and rows[0].shape == a.shape and rows[1].shape == b.shape else None
    )


def _own(one: _ForecastRows, module: str, side: Side) -> Tensor:
    stored = one.modules[module]
    assert stored is not None  # a term refers to it
    return torch.from_numpy(stored.side(side).own)


def _joint_share(
    members: Sequence[FactoredAdapter], budget: float, stacks: Sequence[Stack]
) -> float:
    """Return the share of the bits that a joint basis saves."""
    steps = [
        log(step) for step in (_relative_step(member, budget) for member in members) if step > 0.0
    ]
    if len(members) < 2 or not steps:
        return 0.0
    found = [joint_saving(stack, exp(sum(steps) / len(steps))) for stack in stacks]
    total = sum(whole for whole, _, _ in found)
    return sum(saved for _, saved, _ in found) / total if total > 0.0 else 0.0


def _relative_step(member: FactoredAdapter, budget: float) -> float:
    """Return the step that meets a budget, relative to the adapter's norm; 0 where it has none."""
    energy = energies(member.pairs)
    able = [position for position, value in enumerate(energy) if value > 0.0]
    if not able:
        return 0.0
    return predicted_step(
        list(batches(member.pairs, factor_dtypes(member.layout), able)),
        budget=budget,
        total=sum(energy),
    ) / sqrt(sum(energy))
