"""What adapters would take at a budget: alone, against earlier ones, and with a common basis.

The first two are coded as a commit would code them, and counted by entropy (what is written takes 2
to 5 % more); the third is estimated from the spectra of the stacks, relative to the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log, sqrt
from typing import Final

import numpy as np
import torch
from torch import Tensor

from share_registry.algebra.absorb import CodedAdapter, absorb
from share_registry.algebra.batch import batches, energies
from share_registry.algebra.comparison import Stack, joint_saving
from share_registry.algebra.decode import decode_side
from share_registry.algebra.error import FactorPair
from share_registry.algebra.rate_distortion import bits_per_element, gaussian_rows
from share_registry.algebra.rates import bits
from share_registry.algebra.step import predicted_step
from share_registry.exchange.tensors import factor_dtypes, factor_positions
from share_registry.format.symbols import entropy_bits
from share_registry.names import Side
from share_registry.registry.arguments import Progress
from share_registry.registry.checkout.factored import FactoredAdapter
from share_registry.registry.commands.coding import FIRST, LATEST
from share_registry.stored import StoredModule, StoredSide
from share_registry.values.analyses import Forecast

Rows = tuple[Tensor, Tensor]
# Bits that every further symbol of a row costs a coder that has to learn its frequency (Miller and
# Madow, 1955): without it, narrow rows look smaller than they are.
_LEARNING: Final = 0.5 / log(2)
_SCALE_BITS: Final = 16.0


@dataclass(slots=True, kw_only=True)
class _Coded:
    """One adapter as it would be stored, by module name; decoded where something needs it."""

    adapter: FactoredAdapter
    modules: Mapping[str, StoredModule | None]
    sources: Sequence["_Coded"]
    previous: "_Coded | None"
    decoded: dict[str, Rows] = field(default_factory=dict)

    def rows(self, module: str) -> Rows | None:
        """Return the decoded float32 factors of a module, None where there is none of that name."""
        if module in self.modules and module not in self.decoded:
            self.decoded[module] = self._decode(module)
        return self.decoded.get(module)

    def block(self, module: str, shape: Sequence[int]) -> StoredModule | None:
        """Return a module that another of this shape (in, out) may refer to."""
        stored = self.modules.get(module)
        if stored is None or (stored.a.own.shape[1], stored.b.own.shape[1]) != tuple(shape):
            return None
        return stored

    def own_rows(self, module: str, side: Side) -> Tensor:
        """Return the rows of a module that a term refers to."""
        stored = self.modules[module]
        assert stored is not None
        return torch.from_numpy(stored.side(side).own)

    def _decode(self, module: str) -> Rows:
        stored = self.modules[module]
        if stored is None:
            pair = next(pair for pair in self.adapter.pairs if pair.module == module)
            return pair.a.float(), pair.b.float()
        before = self.previous.rows(module) if self.previous is not None else None
        before_a, before_b = before or (None, None)
        a, b = (
            decode_side(
                stored.side(side),
                previous=earlier,
                blocks=[
                    self.sources[term.source].own_rows(module, side)
                    for term in stored.side(side).terms
                ],
            )
            for side, earlier in ((Side.A, before_a), (Side.B, before_b))
        )
        return a, b


def forecasts(
    adapters: Sequence[FactoredAdapter],
    *,
    budgets: Sequence[float],
    before: Mapping[int, int],
    stacks: Sequence[Stack],
    progress: Progress,
) -> tuple[Forecast, ...]:
    """Forecast all adapters at some budgets.

    Args:
        adapters: The adapters, in the order in which they would be committed.
        budgets: Pooled relative errors of the scaled dW, above 0.
        before: Adapter -> the earlier one that it is nearest to, where it is near.
        stacks: Stacks of the modules and sides, all or a sample.
        progress: See `Progress`.
    """
    elements = sum(adapter.parameters for adapter in adapters)
    rows = [gaussian_rows(adapter.pairs) for adapter in adapters]
    by_budget = []
    for number, budget in enumerate(budgets):
        start, total = number * len(adapters), len(budgets) * len(adapters)
        alone, shared = _code_in_turn(adapters, budget, before, progress, start, total)
        joint = alone * (1.0 - _joint_saving(adapters, budget, stacks))
        bound = sum(bits_per_element(*part, budget=budget) * float(part[1].sum()) for part in rows)
        by_budget.append(
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
    return tuple(by_budget)


def _code_in_turn(
    adapters: Sequence[FactoredAdapter],
    budget: float,
    before: Mapping[int, int],
    progress: Progress,
    start: int,
    total: int,
) -> tuple[float, float]:
    """Return the bits of all adapters alone, and with references to the earlier ones."""
    coded: list[_Coded] = []
    alone = shared = 0.0
    for number, adapter in enumerate(adapters):
        progress("coding", start + number + 1, total)
        previous = coded[before[number]] if number in before else None
        bits_alone, bits_shared, latest = _code(
            adapter, budget, _candidates(coded, previous), previous
        )
        alone, shared = alone + bits_alone, shared + bits_shared
        coded.append(latest)
    return alone, shared


def _candidates(coded: Sequence[_Coded], previous: _Coded | None) -> list[_Coded]:
    """Return what a commit would try.

    The version before, what that refers to, the first and the latest.
    """
    near = [previous, *previous.sources] if previous is not None else []
    each = [*near, *coded[:FIRST], *reversed(coded[-LATEST:])]
    return list({id(candidate): candidate for candidate in each}.values())


def _code(
    adapter: FactoredAdapter,
    budget: float,
    candidates: Sequence[_Coded],
    previous: _Coded | None,
) -> tuple[float, float, _Coded]:
    """Return the bits without references, the fewest bits, and the adapter coded in these."""
    dtypes, pairs = factor_dtypes(adapter.layout), adapter.pairs
    smallest: dict[bool, float] = {}

    def size(outcome: CodedAdapter) -> int:
        bits = _bits(outcome, pairs, dtypes)
        alone = not outcome.sources and not outcome.previous
        smallest[alone] = min(bits, smallest.get(alone, bits))
        return round(bits / 8)

    outcome = absorb(
        pairs,
        budget=budget,
        dtypes=dtypes,
        candidates=[
            [candidate.block(pair.module, (pair.a.shape[1], pair.b.shape[1])) for pair in pairs]
            for candidate in candidates
        ],
        previous=[_rows_of_shape(previous.rows(pair.module), pair) for pair in pairs]
        if previous is not None
        else None,
        factors=factor_positions(adapter.layout),
        size=size,
    )
    bits = _bits(outcome, pairs, dtypes)
    coded = _Coded(
        adapter=adapter,
        modules=dict(zip([pair.module for pair in pairs], outcome.modules, strict=True)),
        sources=[candidates[number] for number in outcome.sources],
        previous=previous if outcome.previous else None,
    )
    return smallest.get(True, bits), bits, coded


def _bits(
    outcome: CodedAdapter,
    pairs: Sequence[FactorPair],
    dtypes: Sequence[tuple[torch.dtype, torch.dtype]],
) -> float:
    """Return the bits of an outcome; what is kept verbatim counts as it is."""
    return sum(
        _side_bits(module.a) + _side_bits(module.b)
        if module is not None
        else 8.0 * (pair.a.numel() * a.itemsize + pair.b.numel() * b.itemsize)
        for module, pair, (a, b) in zip(outcome.modules, pairs, dtypes, strict=True)
    )


def _side_bits(side: StoredSide) -> float:
    """Return the bits of own rows, coefficients and scales.

    Own rows count by their entropies and what learning these takes, coefficients as Gaussian
    numbers.
    """
    distinct = (np.diff(np.sort(side.own, axis=1), axis=1) != 0).sum()
    coefficients = [torch.from_numpy(term.coefficients).double() for term in side.terms]
    return (
        entropy_bits(side.own)
        + _LEARNING * float(distinct)
        + sum(C.numel() * float(bits(C.square().mean())) for C in coefficients)
        + _SCALE_BITS * len(side.scales)
    )


def _rows_of_shape(rows: Rows | None, pair: FactorPair) -> Rows | None:
    fits = rows is not None and (rows[0].shape, rows[1].shape) == (pair.a.shape, pair.b.shape)
    return rows if fits else None


def _joint_saving(
    adapters: Sequence[FactoredAdapter], budget: float, stacks: Sequence[Stack]
) -> float:
    steps = (_relative_step(adapter, budget) for adapter in adapters)
    logs = [log(step) for step in steps if step > 0.0]
    if len(adapters) < 2 or not logs:
        return 0.0
    savings = [joint_saving(stack, exp(sum(logs) / len(logs))) for stack in stacks]
    total = sum(whole for whole, _, _ in savings)
    return sum(saved for _, saved, _ in savings) / total if total > 0.0 else 0.0


def _relative_step(adapter: FactoredAdapter, budget: float) -> float:
    """Return the step that meets a budget, relative to the adapter's norm; 0 where it has none."""
    energy = energies(adapter.pairs)
    able = [position for position, value in enumerate(energy) if value > 0.0]
    if not able:
        return 0.0
    parts = list(batches(adapter.pairs, factor_dtypes(adapter.layout), able))
    return predicted_step(parts, budget=budget, total=sum(energy)) / sqrt(sum(energy))
