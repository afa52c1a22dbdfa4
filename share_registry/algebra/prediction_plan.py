"""Decide, module by module, what an adapter is coded against.

Nothing, the previous version, rows of earlier adapters, or both of the last: whichever is estimated
to take the fewest bits at the step that was found without references. "Nothing" is always among
them, so a bad reference costs no bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.alignment import align
from share_registry.algebra.batch import Batch
from share_registry.algebra.quantise import Prediction, Rows, round_scales
from share_registry.algebra.reference import choose
from share_registry.names import Side
from share_registry.stored import StoredModule

# A previous version lengthens the chain that every read walks. It is used where it saves at least
# this share of the whole adapter.
_WORTH: Final = 0.03

Modules = Sequence[StoredModule | None]
Previous = Sequence[tuple[Tensor, Tensor] | None]


def plan_references(
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How one batch may be coded.

    Attributes:
        without: The batch without the previous version.
        price: Bits that takes, the distortion counted in.
        parts: The batch in parts, with the previous version where it pays.
        saved: Bits that saves.
    """

    without: Batch
    price: float
    parts: tuple[Batch, ...]
    saved: float


def _plan(batch: Batch, steps: Tensor, candidates: Sequence[Modules], previous: Previous) -> _Plan:
    without, price = _with_blocks(batch, steps, candidates)
    shapes = (batch.a.x.shape[1:], batch.b.x.shape[1:])
    earlier = [previous[position] if previous else None for position in batch.positions]
    fitting = [
        (index, pair)
        for index, pair in enumerate(earlier)
        if pair is not None and (pair[0].shape, pair[1].shape) == shapes
    ]
    parts, saved = [without], 0.0
    if fitting:
        indices = [index for index, _ in fitting]
        continued, continued_price = _with_blocks(
            _continue(_select(batch, indices), [pair for _, pair in fitting]),
            steps[indices],
            candidates,
        )
        gains = (price[indices] - continued_price).clamp_min(0)
        saved = float(gains.sum())
        paying = [rank for rank, gain in enumerate(gains.tolist()) if gain > 0.0]
        rest = sorted(set(range(len(earlier))) - {indices[rank] for rank in paying})
        parts = [
            _select(part, chosen)
            for part, chosen in ((continued, paying), (without, rest))
            if chosen
        ]
    return _Plan(without=without, price=float(price.sum()), parts=tuple(parts), saved=saved)


def _with_blocks(
    batch: Batch, steps: Tensor, candidates: Sequence[Modules]
) -> tuple[Batch, Tensor]:
    """Return the batch with the blocks that pay, and what each module then costs (n,) in bits.

    They come on top of the previous version where there is one.
    """
    unit = (steps / batch.weight)[:, None]
    sides, costs = {}, []
    for side, rows, partner in ((Side.A, batch.a, batch.b), (Side.B, batch.b, batch.a)):
        blocks = [
            tuple(_block(modules[position], side, rows.x) for position in batch.positions)
            for modules in candidates
        ]
        prediction, price = choose(rows.residual, round_scales(unit / partner.norms), blocks)
        sides[side] = replace(rows, prediction=prediction)
        costs.append(price)
    return replace(batch, a=sides[Side.A], b=sides[Side.B]), costs[0] + costs[1]


def _block(module: StoredModule | None, side: Side, x: Tensor) -> Tensor | None:
    """Return the own rows of a module where they are as wide as x (n, r, m), on its device."""
    if module is None:
        return None
    own = module.side(side).own
    if not len(own) or own.shape[1] != x.shape[-1]:
        return None
    return torch.from_numpy(own).to(x.device)


def _continue(batch: Batch, previous: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Return the modules of a batch in the gauge closest to their previous version."""
    p_a = torch.stack([pair[0] for pair in previous]).to(batch.a.x)
    p_b = torch.stack([pair[1] for pair in previous]).to(batch.b.x)
    x_a, x_b = align(batch.a.x, batch.b.x, p_a, p_b)
    return replace(
        batch, a=replace(batch.a, x=x_a, previous=p_a), b=replace(batch.b, x=x_b, previous=p_b)
    )


def _select(batch: Batch, indices: Sequence[int]) -> Batch:
    """Return some modules of a batch."""
    index = torch.tensor(indices, dtype=torch.int64, device="cpu")
    return Batch(
        positions=tuple(batch.positions[i] for i in indices),
        a=_select_rows(batch.a, index),
        b=_select_rows(batch.b, index),
        weight=batch.weight[index],
        energy=batch.energy[index],
        tail=(batch.tail[0][index], batch.tail[1][index]),
    )


def _select_rows(rows: Rows, index: Tensor) -> Rows:
    prediction = rows.prediction
    return replace(
        rows,
        x=rows.x[index],
        previous=None if rows.previous is None else rows.previous[index],
        prediction=None if prediction is None else _select_prediction(prediction, index),
    )


def _select_prediction(prediction: Prediction, index: Tensor) -> Prediction:
    chosen = index.tolist()
    return replace(
        prediction,
        blocks=tuple(tuple(block[i] for i in chosen) for block in prediction.blocks),
        coefficients=prediction.coefficients[index],
        exponents=prediction.exponents[index],
        used=prediction.used[index],
    )
