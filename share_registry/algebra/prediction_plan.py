"""Decide, module by module, what an adapter is coded against.

Nothing, the previous version, rows of earlier adapters, or both of the last: whichever is estimated
to take the fewest bits at the step that was found without references. "Nothing" is always among
them, so a bad reference costs no bytes.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import Batch
from share_registry.algebra.gauge import align
from share_registry.algebra.quantise import Rows, round_scales
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
    if sum(saved for *_, saved in plans) < _WORTH * sum(price for _, price, *_ in plans):
        return [without for without, *_ in plans]
    return [part for *_, parts, _ in plans for part in parts]


def _plan(
    batch: Batch, steps: Tensor, candidates: Sequence[Modules], previous: Previous
) -> tuple[Batch, float, list[Batch], float]:
    """Return how one batch may be coded.

    Returns:
        The batch without the previous version and the bits that takes, the distortion counted in;
        the batch in parts, with the previous version where it pays, and the bits that saves.
    """
    without, price = _with_blocks(batch, steps, candidates)
    total = float(price.sum())
    shapes = (batch.a.x.shape[1:], batch.b.x.shape[1:])
    earlier = [previous[position] if previous else None for position in batch.positions]
    fitting = {
        index: pair
        for index, pair in enumerate(earlier)
        if pair is not None and (pair[0].shape, pair[1].shape) == shapes
    }
    if not fitting:
        return without, total, [without], 0.0
    indices = list(fitting)
    continued, continued_price = _with_blocks(
        _continue(_select(batch, indices), [*fitting.values()]), steps[indices], candidates
    )
    gains = (price[indices] - continued_price).clamp_min(0)
    paying = [rank for rank, gain in enumerate(gains.tolist()) if gain > 0.0]
    rest = sorted(set(range(len(earlier))) - {indices[rank] for rank in paying})
    parts = [
        _select(part, chosen) for part, chosen in ((continued, paying), (without, rest)) if chosen
    ]
    return without, total, parts, float(gains.sum())


def _with_blocks(
    batch: Batch, steps: Tensor, candidates: Sequence[Modules]
) -> tuple[Batch, Tensor]:
    """Return the batch with the blocks that pay, and what each module then costs (n,) in bits.

    They come on top of the previous version where there is one.
    """
    unit = (steps / batch.weight)[:, None]
    sides, costs = {}, []
    for side, rows, partner in ((Side.A, batch.a, batch.b), (Side.B, batch.b, batch.a)):
        prediction, price = choose(
            rows.residual,
            round_scales(unit / partner.norms),
            [
                tuple(_block(modules[position], side, rows.x) for position in batch.positions)
                for modules in candidates
            ],
        )
        sides[side] = replace(rows, prediction=prediction)
        costs.append(price)
    return replace(batch, a=sides[Side.A], b=sides[Side.B]), costs[0] + costs[1]


def _block(module: StoredModule | None, side: Side, x: Tensor) -> Tensor | None:
    """Return the own rows of a module where they are as wide as x (n, r, m), on its device."""
    own = None if module is None else module.side(side).own
    if own is None or not len(own) or own.shape[1] != x.shape[-1]:
        return None
    return torch.from_numpy(own).to(x.device)


def _continue(batch: Batch, previous: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    p_a = torch.stack([pair[0] for pair in previous]).to(batch.a.x)
    p_b = torch.stack([pair[1] for pair in previous]).to(batch.b.x)
    x_a, x_b = align(batch.a.x, batch.b.x, p_a, p_b)
    return replace(
        batch, a=replace(batch.a, x=x_a, previous=p_a), b=replace(batch.b, x=x_b, previous=p_b)
    )


def _select(batch: Batch, indices: Sequence[int]) -> Batch:
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
    if prediction is not None:
        prediction = replace(
            prediction,
            blocks=tuple(tuple(block[i] for i in index.tolist()) for block in prediction.blocks),
            coefficients=prediction.coefficients[index],
            exponents=prediction.exponents[index],
            used=prediction.used[index],
        )
    return replace(
        rows,
        x=rows.x[index],
        previous=None if rows.previous is None else rows.previous[index],
        prediction=prediction,
    )
