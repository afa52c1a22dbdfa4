"""Code modules of equal shape side by side, n modules in one call.

How a step turns into integers. dW = s * sum_i b_i^T a_i over the r rows of both sides. An error e
in row a_i changes dW by s * |b_i| * |e|, so an error weighs as much as the row beside it is long.
One step delta for everything therefore means that row a_i is rounded to multiples of
delta / (|s| |b_i|), and b_i to multiples of delta / (|s| |a_i|): each rounding then adds
about delta^2 / 12 per element to |dW' - dW|^2, wherever in the adapter it happens.

That is reverse water-filling. With one noise level for all rows, a row of variance v (per element,
as an error of dW) takes 1/2 log2(v / noise) bits per element; a row weaker than the noise is left
out and takes none. No other split of the same bits over Gaussian rows has a smaller error
(Cover and Thomas, Elements of Information Theory, 10.3.3).

A batch is no larger than a cache holds, and its rows are made from the factors at every look at
them (`Rows.x`): reading two bytes and multiplying them takes less time than fetching eight.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.error import FactorPair, Grams
from share_registry.algebra.gauge import balance, balancing
from share_registry.algebra.quantise import (
    MAX_SYMBOL,
    CodedRows,
    Integers,
    Room,
    Rows,
    Scratch,
    Scratches,
    elements_at_once,
    quantise,
    round_scales,
    to_float64,
)
from share_registry.algebra.rates import SLOPE, cost
from share_registry.algebra.threads import shared_out

# Element types of A and of B, to which export rounds
DTypes = tuple[torch.dtype, torch.dtype]
# A squared product below this share of its factors' squared norms is rounding noise: dW = 0
_NEGLIGIBLE: Final = 1e-13


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """n modules of equal shape in the gauge they are stored in.

    Attributes:
        positions: Which modules, by position in the caller's list.
        a: Side A.
        b: Side B.
        weight: (n,) |s|, the LoRA scale.
        energy: (n,) |s dW|^2.
        kept: Rows from this one on are left out, whatever they carry.
    """

    positions: tuple[int, ...]
    a: Rows
    b: Rows
    weight: Tensor
    energy: Tensor
    kept: int

    @property
    def rank(self) -> int:
        """The number r of rows."""
        return self.a.gram.shape[1]

    @property
    def elements(self) -> int:
        """How many numbers both sides have."""
        return len(self.positions) * self.rank * (self.a.width + self.b.width)

    @property
    def has_references(self) -> bool:
        """Whether either side is coded against anything."""
        return self.a.has_references or self.b.has_references

    def scales(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales (n, r) of both sides for steps (n,) measured as errors of dW."""
        unit = (steps / self.weight)[:, None]
        scales_a, scales_b = (round_scales(unit / rows.norms) for rows in (self.b, self.a))
        scales_a[:, self.kept :] = scales_b[:, self.kept :] = 0.0
        return scales_a, scales_b

    def of(self, positions: Container[int]) -> "Batch | None":
        """Return those of its modules that are among some positions, None without any."""
        indices = [index for index, each in enumerate(self.positions) if each in positions]
        if len(indices) == len(self.positions):
            return self
        return self.select(indices) if indices else None

    def select(self, indices: Sequence[int]) -> "Batch":
        """Return some of the modules."""
        index = torch.tensor(indices, dtype=torch.int64, device="cpu")
        return replace(
            self,
            positions=tuple(self.positions[i] for i in indices),
            a=self.a.select(indices),
            b=self.b.select(indices),
            weight=self.weight[index],
            energy=self.energy[index],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedBatch:
    """The same modules in integers.

    Attributes:
        a: Side A.
        b: Side B.
        wrong: (n,) |s (dW' - dW)|^2 of what export gives back, infinite where a number leaves its
            range.
    """

    a: Integers
    b: Integers
    wrong: Tensor


def batches(
    pairs: Sequence[FactorPair],
    dtypes: Sequence[DTypes],
    positions: Sequence[int],
    *,
    pseudo_rank: int | None = None,
) -> Iterator[Batch]:
    """Yield the modules at these positions in the balanced gauge, by shape and element types.

    With a pseudo-rank, only the leading rows are coded.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for position in positions:
        pair = pairs[position]
        groups.setdefault((pair.a.shape, pair.b.shape[1], dtypes[position]), []).append(position)
    for members in groups.values():
        yield from _balanced(pairs, dtypes, members, pseudo_rank)


def energies(pairs: Sequence[FactorPair]) -> list[float]:
    """Return |s dW|^2 per module; 0 where it is only rounding noise of the product."""
    values = [0.0] * len(pairs)
    groups: dict[tuple[object, ...], list[int]] = {}
    for position, pair in enumerate(pairs):
        groups.setdefault((pair.a.shape, pair.b.shape[1]), []).append(position)
    for members in groups.values():
        square = _square(*_grams(pairs, members))
        for position, value in zip(members, square.tolist(), strict=True):
            values[position] = pairs[position].scale ** 2 * value
    return values


def singular_values(pairs: Sequence[FactorPair], grams: Sequence[Grams]) -> list[Tensor]:
    """Return the singular values (r,) of every b^T a, descending, from the Grams of its factors.

    They are 0 where it is only rounding noise.
    """
    values: dict[int, Tensor] = {}
    by_rank: dict[int, list[int]] = {}
    for position, (S_a, _) in enumerate(grams):
        by_rank.setdefault(len(S_a), []).append(position)
    for members in by_rank.values():
        S_a, S_b = (torch.stack([grams[i][side] for i in members]) for side in (0, 1))
        _, _, sigma, told = balancing(S_a, S_b)
        is_something = _square(S_a, S_b) > 0.0
        for place, (position, is_told) in enumerate(zip(members, told.tolist(), strict=True)):
            own = sigma[place]
            if not is_told:
                a, b = _factors(pairs, [position])
                own = balance(to_float64(a), to_float64(b))[2][0]
            values[position] = own * is_something[place]
    return [values[position] for position in range(len(pairs))]


def code(batch: Batch, steps: Tensor, room: Room, scratch: Scratch) -> CodedBatch:
    """Code a batch with one step (n,) per module, measured as an error of dW.

    The integers come to lie in `room`.
    """
    scale_a, scale_b = batch.scales(steps)
    x_a, x_b = batch.a.x_within(scratch, "a"), batch.b.x_within(scratch, "b")
    a = quantise(batch.a, x_a, scale_a, scratch, "a")
    b = quantise(batch.b, x_b, scale_b, scratch, "b")
    a, b = _drop_idle(batch, a, b, (steps / batch.weight)[:, None])
    e_a = a.decoded(batch.a.dtype, scratch, "a").sub_(x_a)
    e_b = b.decoded(batch.b.dtype, scratch, "b").sub_(x_b)
    wrong = batch.weight.square() * _wrong(batch, e_a, e_b, x_a, x_b)
    wrong = torch.where(torch.maximum(a.peak, b.peak) <= MAX_SYMBOL, wrong, torch.inf)
    return CodedBatch(
        a=a.integers(room, scratch),
        b=b.integers(room, scratch),
        wrong=wrong.nan_to_num(nan=torch.inf),
    )


def split(batch: Batch) -> Iterator[Batch]:
    """Yield modules as many at a time as one batch has."""
    numbers = range(len(batch.positions))
    size = batch.elements // max(1, len(numbers))
    for some in _some_at_once(numbers, size, batch.weight.device):
        yield batch.select(some)


def join(parts: Sequence[Batch]) -> Batch:
    """Return modules of one shape, which are coded against nothing, as one batch."""
    first = parts[0]

    def side(rows: Sequence[Rows]) -> Rows:
        gauges = [_unit(each.gram) if each.gauge is None else each.gauge for each in rows]
        return replace(
            rows[0],
            factors=tuple(factor for each in rows for factor in each.factors),
            gauge=torch.cat(gauges),
            gram=torch.cat([each.gram for each in rows]),
        )

    return replace(
        first,
        positions=tuple(position for part in parts for position in part.positions),
        a=side([part.a for part in parts]),
        b=side([part.b for part in parts]),
        weight=torch.cat([part.weight for part in parts]),
        energy=torch.cat([part.energy for part in parts]),
    )


def _unit(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device).expand_as(like)


def _drop_idle(
    batch: Batch, a: CodedRows, b: CodedRows, unit: Tensor
) -> tuple[CodedRows, CodedRows]:
    """Drop the own rows that cost more bits than they are worth, in pairs.

    A row of one side is idle without its partner: their product needs both.

    Args:
        batch: The modules.
        a: Side A as coded.
        b: Side B as coded.
        unit: (n, 1) the step of each module, as an error of b^T a.
    """
    square = (batch.a.norms * batch.b.norms / unit).square()
    idle = torch.zeros_like(square, dtype=torch.bool)
    if not batch.has_references:
        m_a, m_b = batch.a.width, batch.b.width
        idle = m_a * cost(square / m_a) + m_b * cost(square / m_b) > square / SLOPE
    drop_a, drop_b = idle | _is_nothing(b), idle | _is_nothing(a)
    if drop_a.any():
        a = a.without(drop_a)
    if drop_b.any():
        b = b.without(drop_b)
    return a, b


def _is_nothing(rows: CodedRows) -> Tensor:
    """Tell which rows (n, r) decode to nothing."""
    some = rows.size > 0
    if rows.predicted is not None:
        some |= rows.predicted.any(-1)
    some &= rows.scales > 0
    if rows.previous is not None:
        some |= rows.previous.any(-1)
    return ~some


def _wrong(batch: Batch, e_a: Tensor, e_b: Tensor, x_a: Tensor, x_b: Tensor) -> Tensor:
    """Return |b'^T a' - b^T a|^2 (n,) of rows x of both sides that decode to x + e.

    It is |e_b^T a' + b^T e_a|^2: nothing cancels, and errors near the precision of the inputs are
    still right.
    """
    E_a, E_b, K_a, K_b = e_a @ e_a.mT, e_b @ e_b.mT, x_a @ e_a.mT, x_b @ e_b.mT
    decoded = batch.a.gram + K_a + K_a.mT + E_a
    wrong = E_b * decoded + batch.b.gram * E_a + 2.0 * K_b.mT * (K_a + E_a)
    return wrong.sum((-2, -1)).clamp_min(0.0)


def _parts(pairs: Sequence[FactorPair], members: Sequence[int]) -> Iterator[list[int]]:
    """Yield modules of one shape, as many at a time as one batch has."""
    if not members:
        return
    first = pairs[members[0]]
    size = first.a.numel() + first.b.numel()
    yield from _some_at_once(members, size, first.a.device)


def _some_at_once(members: Sequence[int], size: int, device: torch.device) -> Iterator[list[int]]:
    at_once = max(1, elements_at_once(device) // max(1, size))
    for start in range(0, len(members), at_once):
        yield list(members[start : start + at_once])


def _square(S_a: Tensor, S_b: Tensor) -> Tensor:
    """Return |b^T a|^2 (n,) from Grams, 0 where it is only rounding noise."""
    square = (S_a * S_b).sum((-2, -1))
    sizes = [S.diagonal(dim1=-2, dim2=-1).sum(-1) for S in (S_a, S_b)]
    return torch.where(square > _NEGLIGIBLE * sizes[0] * sizes[1], square, 0.0)


def _grams(pairs: Sequence[FactorPair], members: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return a a^T and b b^T (n, r, r) of modules of one shape."""
    first, scratches = pairs[members[0]], Scratches()

    def grams(part: Sequence[int]) -> tuple[Tensor, Tensor]:
        products = []
        for factors in _factors(pairs, part):
            shape = (len(part), *factors[0].shape)
            place = scratches.own.empty("factors", shape, factors[0])
            x = to_float64(factors, place)
            products.append(x @ x.mT)
        return products[0], products[1]

    elements = len(members) * (first.a.numel() + first.b.numel())
    a, b = zip(*shared_out(grams, list(_parts(pairs, members)), elements=elements), strict=True)
    return torch.cat(a), torch.cat(b)


def _factors(
    pairs: Sequence[FactorPair], members: Sequence[int]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    return tuple(pairs[i].a for i in members), tuple(pairs[i].b for i in members)


def _balanced(
    pairs: Sequence[FactorPair],
    dtypes: Sequence[DTypes],
    members: Sequence[int],
    pseudo_rank: int | None,
) -> Iterator[Batch]:
    """Yield modules of one shape: by their Grams, and those that need it by their rows."""
    S_a, S_b = _grams(pairs, members)
    M_a, M_b, sigma, told = balancing(S_a, S_b)
    sigma = torch.where((_square(S_a, S_b) > 0.0)[:, None], sigma, 0.0)

    def batch(
        some: Sequence[int],
        sigma: Tensor,
        a: tuple[Iterable[Tensor], Tensor | None],
        b: tuple[Iterable[Tensor], Tensor | None],
    ) -> Batch:
        weight = sigma.new_tensor([abs(pairs[i].scale) for i in some])
        rows = [
            Rows(
                factors=tuple(factors),
                gauge=gauge,
                gram=torch.diag_embed(sigma),
                previous=None,
                prediction=None,
                dtype=dtype,
            )
            for (factors, gauge), dtype in zip((a, b), dtypes[some[0]], strict=True)
        ]
        return Batch(
            positions=tuple(some),
            a=rows[0],
            b=rows[1],
            weight=weight,
            energy=weight.square() * sigma.square().sum(-1),
            kept=sigma.shape[1] if pseudo_rank is None else pseudo_rank,
        )

    is_told = told.tolist()
    places = [place for place, each in enumerate(is_told) if each]
    if places:
        some = [members[place] for place in places]
        a, b = _factors(pairs, some)
        yield from split(batch(some, sigma[places], (a, M_a[places]), (b, M_b[places])))
    rest = [member for member, each in zip(members, is_told, strict=True) if not each]
    places_of = {member: place for place, member in enumerate(members)}
    for some in _parts(pairs, rest):
        rows_a, rows_b, own = balance(*(to_float64(factors) for factors in _factors(pairs, some)))
        something = sigma[[places_of[member] for member in some]].any(-1, keepdim=True)
        yield batch(some, own * something, (rows_a, None), (rows_b, None))
