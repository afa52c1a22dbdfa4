"""Decide, module by module, what an adapter is coded against.

Nothing, the previous version, or rows of earlier adapters.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.alignment import aligned
from share_registry.algebra.batch import Batch
from share_registry.algebra.quantise import Prediction, Rows, coarse
from share_registry.algebra.reference import Choice, choose
from share_registry.names import Side
from share_registry.stored import StoredModule

_WORTH: Final = 0.03
"""A previous version lengthens the chain that every read walks.

It is used where it saves at least this share of the whole adapter.
"""

Modules = Sequence[StoredModule | None]
Previous = Sequence[tuple[Tensor, Tensor] | None]


def planned(
    batches: Sequence[Batch],
    steps: Sequence[Tensor],
    *,
    candidates: Sequence[Modules],
    previous: Previous,
) -> list[Batch]:
    """Return the modules again, each with the references that cost it least at these steps.

    Args:
        batches: Modules in the balanced gauge, without references.
        steps: The step of each module (n,), per batch, as found without references.
        candidates: Stored modules of earlier adapters, by the caller's positions.
        previous: Decoded float32 factors of the previous version, by the caller's positions; empty
            where there is none.
    """
    plans = [
        _plan(batch, step, candidates, previous) for batch, step in zip(batches, steps, strict=True)
    ]
    if sum(plan.saved for plan in plans) < _WORTH * sum(plan.price for plan in plans):
        return [plan.without for plan in plans]
    return [part for plan in plans for part in plan.parts]


def refers(batch: Batch) -> bool:
    """Tell whether anything in the batch is coded against something."""
    return any(
        rows.previous is not None or rows.prediction is not None for rows in (batch.a, batch.b)
    )


def select(batch: Batch, indices: Sequence[int]) -> Batch:
    """Return some modules of a batch."""
    index = torch.tensor(indices, dtype=torch.int64, device="cpu")
    return Batch(
        positions=tuple(batch.positions[i] for i in indices),
        a=_select_rows(batch.a, index),
        b=_select_rows(batch.b, index),
        weight=batch.weight[index],
        energy=batch.energy[index],
        tail=None if batch.tail is None else (batch.tail[0][index], batch.tail[1][index]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One batch without the previous version, at what price in bits (distortion counted in), and in parts with it, saving how much."""

    without: Batch
    price: float
    parts: tuple[Batch, ...]
    saved: float


def _plan(batch: Batch, steps: Tensor, candidates: Sequence[Modules], previous: Previous) -> _Plan:
    without, price = _with_blocks(batch, steps, candidates)
    have = [
        index
        for index, position in enumerate(batch.positions)
        if previous and _fits(batch, previous[position])
    ]
    if not have:
        return _Plan(without=without, price=float(price.sum()), parts=(without,), saved=0.0)
    continued, price_continued = _with_blocks(
        _continued(batch, have, previous), steps[have], candidates
    )
    saved = (price[have] - price_continued).clamp_min(0)
    taken = [rank for rank, value in enumerate(saved.tolist()) if value > 0.0]
    rest = sorted(set(range(len(batch.positions))) - {have[rank] for rank in taken})
    parts = [select(continued, taken)] if taken else []
    if rest:
        parts.append(select(without, rest))
    return _Plan(
        without=without, price=float(price.sum()), parts=tuple(parts), saved=float(saved.sum())
    )


def _with_blocks(
    batch: Batch, steps: Tensor, candidates: Sequence[Modules]
) -> tuple[Batch, Tensor]:
    """Return the batch with the blocks that pay, on top of the previous version where there is one, and what each module then costs."""
    a, b = (
        _choose(batch, batch.a, batch.b, steps, candidates, Side.A),
        _choose(batch, batch.b, batch.a, steps, candidates, Side.B),
    )
    return replace(
        batch,
        a=replace(batch.a, prediction=a.prediction),
        b=replace(batch.b, prediction=b.prediction),
    ), a.cost + b.cost


def _choose(
    batch: Batch, rows: Rows, other: Rows, steps: Tensor, candidates: Sequence[Modules], side: Side
) -> Choice:
    blocks = [
        tuple(_block(modules[position], side, rows.x) for position in batch.positions)
        for modules in candidates
    ]
    return choose(rows.wanted, _scales(batch, other, steps), blocks)


def _block(module: StoredModule | None, side: Side, x: Tensor) -> Tensor | None:
    """Return the own rows of a module where they are as wide as x (n, r, m), on its device."""
    if (
        module is None
        or module.side(side).own.shape[1] != x.shape[-1]
        or not len(module.side(side).own)
    ):
        return None
    return torch.from_numpy(module.side(side).own).to(x.device)


def _scales(batch: Batch, other: Rows, steps: Tensor) -> Tensor:
    return coarse((steps / batch.weight)[:, None] / other.norms)


def _fits(batch: Batch, factors: tuple[Tensor, Tensor] | None) -> bool:
    return (
        factors is not None
        and factors[0].shape == batch.a.x.shape[1:]
        and factors[1].shape == batch.b.x.shape[1:]
    )


def _continued(batch: Batch, have: Sequence[int], previous: Previous) -> Batch:
    """Return the modules that have a previous version in the gauge closest to it."""
    part = select(batch, have)
    pairs = [previous[batch.positions[index]] for index in have]
    p_a = torch.stack([pair[0] for pair in pairs if pair is not None]).to(part.a.x)
    p_b = torch.stack([pair[1] for pair in pairs if pair is not None]).to(part.b.x)
    x_a, x_b = aligned(part.a.x, part.b.x, p_a, p_b)
    return replace(
        part, a=replace(part.a, x=x_a, previous=p_a), b=replace(part.b, x=x_b, previous=p_b)
    )


def _select_rows(rows: Rows, index: Tensor) -> Rows:
    return Rows(
        x=rows.x[index],
        previous=None if rows.previous is None else rows.previous[index],
        prediction=None if rows.prediction is None else _select_prediction(rows.prediction, index),
        dtype=rows.dtype,
    )


def _select_prediction(prediction: Prediction, index: Tensor) -> Prediction:
    blocks: tuple[tuple[Tensor | None, ...], ...] = tuple(
        tuple(block[i] for i in index.tolist()) for block in prediction.blocks
    )
    return replace(
        prediction,
        blocks=blocks,
        coefficients=prediction.coefficients[index],
        exponents=prediction.exponents[index],
        used=prediction.used[index],
    )
