"""Decide, module by module, what an adapter is coded against.

Nothing, the previous version, rows of earlier adapters, or both of the last: whichever is estimated
to take the fewest bits at the step that was found without references. "Nothing" is always among
them, so a bad reference costs no bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import Batch, join
from share_registry.algebra.gauge import align
from share_registry.algebra.quantise import Block, Rows, residual, to_float64
from share_registry.algebra.reference import choose, sample, screen
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
    alike: dict[tuple[object, ...], list[tuple[Batch, Tensor]]] = {}
    for batch, step in zip(batches, steps, strict=True):
        kind = (batch.rank, batch.a.width, batch.b.width, batch.a.dtype, batch.b.dtype)
        alike.setdefault(kind, []).append((batch, step))
    plans = [plan for group in alike.values() for plan in _plans(group, candidates, previous)]
    if sum(plan.saved for plan in plans) < _WORTH * sum(plan.price for plan in plans):
        return [plan.without for plan in plans]
    return [part for plan in plans for part in plan.parts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """How one batch may be coded.

    Attributes:
        without: The batch without the previous version.
        price: The bits that takes, the distortion counted in.
        parts: The batch in parts, with the previous version where it pays.
        saved: The bits that saves.
    """

    without: Batch
    price: float
    parts: tuple[Batch, ...]
    saved: float


def _plans(
    group: Sequence[tuple[Batch, Tensor]], candidates: Sequence[Modules], previous: Previous
) -> Iterator[_Plan]:
    """Yield how batches of equal shape may be coded."""
    whole, steps = join([batch for batch, _ in group]), torch.cat([step for _, step in group])
    fitting = _fitting(whole, previous)
    plain = _orders(whole, steps, range(len(whole.positions)), candidates, ())
    ahead = _orders(whole, steps, fitting, candidates, previous)
    for batch, step in group:
        without, price = _with_blocks(batch, step, candidates, plain)
        plan = _Plan(without=without, price=float(price.sum()), parts=(without,), saved=0.0)
        if some := _fitting(batch, previous):
            continued, continued_price = _with_blocks(
                _continue(batch.select(some), previous), step[some], candidates, ahead
            )
            gains = (price[some] - continued_price).clamp_min(0)
            paying = [rank for rank, gain in enumerate(gains.tolist()) if gain > 0.0]
            rest = sorted({*range(len(batch.positions))} - {some[rank] for rank in paying})
            parts = [
                part.select(chosen)
                for part, chosen in ((continued, paying), (without, rest))
                if chosen
            ]
            plan = replace(plan, parts=tuple(parts), saved=float(gains.sum()))
        yield plan


def _fitting(batch: Batch, previous: Previous) -> list[int]:
    """Return which modules of a batch have an earlier version of their shape."""
    if not previous:
        return []
    shapes = (batch.a.factors[0].shape, batch.b.factors[0].shape)
    return [
        index
        for index, position in enumerate(batch.positions)
        if (pair := previous[position]) is not None and (pair[0].shape, pair[1].shape) == shapes
    ]


def _orders(
    batch: Batch,
    steps: Tensor,
    indices: Sequence[int],
    candidates: Sequence[Modules],
    previous: Previous,
) -> Mapping[Side, tuple[int, ...]]:
    """Return for either side the candidates worth trying for some of the modules, best first."""
    orders: dict[Side, tuple[int, ...]] = dict.fromkeys(Side, ())
    if not candidates or not indices:
        return orders
    for side in Side:
        width = _rows(batch, side).width
        blocks = _blocks(batch.select(indices), side, candidates)
        numbers = sample(len(indices), width, blocks)
        chosen = [indices[number] for number in numbers]
        part = batch.select(chosen)
        if previous:
            part = _continue(part, previous)
        orders[side] = screen(
            residual(_rows(part, side)),
            part.scales(steps[chosen])[side is Side.B],
            [tuple(block[number] for number in numbers) for block in blocks],
        )
    return orders


def _with_blocks(
    batch: Batch,
    steps: Tensor,
    candidates: Sequence[Modules],
    orders: Mapping[Side, tuple[int, ...]],
) -> tuple[Batch, Tensor]:
    """Return the batch with the blocks that pay, and what each module then costs (n,) in bits.

    They come on top of the previous version where there is one.
    """
    scales = dict(zip(Side, batch.scales(steps), strict=True))
    chosen = {
        side: choose(
            residual(_rows(batch, side)),
            scales[side],
            _blocks(batch, side, candidates),
            orders[side],
        )
        for side in Side
    }
    (prediction_a, price_a), (prediction_b, price_b) = chosen[Side.A], chosen[Side.B]
    return replace(
        batch,
        a=replace(batch.a, prediction=prediction_a),
        b=replace(batch.b, prediction=prediction_b),
    ), price_a + price_b


def _rows(batch: Batch, side: Side) -> Rows:
    return batch.a if side is Side.A else batch.b


def _blocks(batch: Batch, side: Side, candidates: Sequence[Modules]) -> list[Block]:
    """Return the own rows of the candidates' modules, None where they are not as wide."""
    rows = _rows(batch, side)
    return [
        tuple(
            _block(modules[position], side, rows.width, batch.weight.device)
            for position in batch.positions
        )
        for modules in candidates
    ]


def _block(
    module: StoredModule | None, side: Side, width: int, device: torch.device
) -> Tensor | None:
    own = None if module is None else module.side(side).own
    if own is None or not len(own) or own.shape[1] != width:
        return None
    return torch.from_numpy(own).to(device)


def _continue(batch: Batch, previous: Previous) -> Batch:
    """Return modules that have an earlier version, in the gauge closest to it."""
    earlier = [pair for position in batch.positions if (pair := previous[position]) is not None]
    p_a, p_b = (tuple(pair[side] for pair in earlier) for side in (0, 1))
    x_a, x_b = batch.a.x, batch.b.x
    M_a, M_b = align(x_a, x_b, to_float64(p_a), to_float64(p_b))
    return replace(
        batch,
        a=_turned(batch.a, M_a, x_a, p_a),
        b=_turned(batch.b, M_b, x_b, p_b),
    )


def _turned(rows: Rows, M: Tensor, x: Tensor, previous: tuple[Tensor, ...]) -> Rows:
    """Return rows x in another gauge M x, to be coded on top of an earlier version."""
    return replace(
        rows,
        gauge=M if rows.gauge is None else M @ rows.gauge,
        gram=M @ (x @ x.mT) @ M.mT,
        previous=previous,
    )
