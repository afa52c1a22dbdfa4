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

from share_registry.algebra.batch import Batch, join, split
from share_registry.algebra.gauge import Overlap, align
from share_registry.algebra.quantise import Rows, Scratch, to_float64
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
    plans = [
        _choose(
            join([batch for batch, _ in group]),
            torch.cat([step for _, step in group]),
            candidates,
            previous,
        )
        for group in alike.values()
    ]
    if sum(plan.saved for plan in plans) < _WORTH * sum(plan.price for plan in plans):
        chosen = [plan.without for plan in plans]
    else:
        chosen = [part for plan in plans for part in plan.parts]
    return [part for batch in chosen for part in split(batch)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """How all modules of one shape may be coded.

    Attributes:
        without: They, without the previous version.
        price: The bits that takes, the distortion counted in.
        parts: They in parts, with the previous version where it pays.
        saved: The bits that saves.
    """

    without: Batch
    price: float
    parts: tuple[Batch, ...]
    saved: float


def _choose(
    batch: Batch, steps: Tensor, candidates: Sequence[Modules], previous: Previous
) -> _Choice:
    """Return how modules of one shape may be coded."""
    without, price = _with_blocks(batch, steps, candidates)
    choice = _Choice(without=without, price=float(price.sum()), parts=(without,), saved=0.0)
    some = _fitting(batch, previous)
    if not some:
        return choice
    continued, continued_price = _with_blocks(
        _continue(batch.select(some), previous), steps[some], candidates
    )
    gains = (price[some] - continued_price).clamp_min(0)
    paying = [rank for rank, gain in enumerate(gains.tolist()) if gain > 0.0]
    rest = sorted({*range(len(batch.positions))} - {some[rank] for rank in paying})
    parts = [
        part.select(chosen) for part, chosen in ((continued, paying), (without, rest)) if chosen
    ]
    return replace(choice, parts=tuple(parts), saved=float(gains.sum()))


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


def _with_blocks(
    batch: Batch, steps: Tensor, candidates: Sequence[Modules]
) -> tuple[Batch, Tensor]:
    """Return the batch with the blocks that pay, and what each module then costs (n,) in bits.

    They come on top of the previous version where there is one.
    """
    scales_a, scales_b = batch.scales(steps)
    a, price_a = _with_blocks_of(batch, Side.A, scales_a, candidates)
    b, price_b = _with_blocks_of(batch, Side.B, scales_b, candidates)
    return replace(batch, a=a, b=b), price_a + price_b


def _with_blocks_of(
    batch: Batch, side: Side, scales: Tensor, candidates: Sequence[Modules]
) -> tuple[Rows, Tensor]:
    rows = batch.a if side is Side.A else batch.b
    blocks = [
        tuple(
            _block(modules[position], side, rows.width, scales.device)
            for position in batch.positions
        )
        for modules in candidates
    ]
    some = sample(len(batch.positions), rows.width, blocks)
    order = screen(
        rows.select(some), scales[some], [tuple(block[i] for i in some) for block in blocks]
    )
    prediction, price = choose(rows, scales, blocks, order)
    return replace(rows, prediction=prediction), price


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
    before_a, before_b = (tuple(pair[side] for pair in earlier) for side in (0, 1))
    over_a, over_b = _overlap(batch.a, before_a), _overlap(batch.b, before_b)
    M_a, M_b = align(over_a, over_b)
    return replace(
        batch,
        a=_turned(batch.a, M_a, over_a, before_a),
        b=_turned(batch.b, M_b, over_b, before_b),
    )


def _overlap(rows: Rows, before: tuple[Tensor, ...]) -> Overlap:
    parts, start, scratch = [], 0, Scratch()
    for part in rows.parts():
        stop = start + len(part.factors)
        place = scratch.empty("before", part.shape, part.gram)
        earlier = to_float64(before[start:stop], place)
        parts.append(Overlap.of(part.x_within(scratch, ""), earlier))
        start = stop
    return Overlap.join(parts)


def _turned(rows: Rows, M: Tensor, overlap: Overlap, before: tuple[Tensor, ...]) -> Rows:
    """Return rows x in another gauge M x, to be coded on top of an earlier version."""
    return replace(
        rows,
        gauge=M if rows.gauge is None else M @ rows.gauge,
        gram=overlap.turned(M).S,
        previous=before,
    )
