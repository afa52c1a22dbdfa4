"""Predict one side of some modules from integer rows of earlier adapters, where that saves bits.

The factor X (r, m) of a new adapter may lie partly in the span of rows R (K, m) that are stored
already. With coefficients C (r, K), only X - C R has to be coded as own rows. Both parts cost bits:

    bits(C)  +  m * bits of a Gaussian row as strong as the rest

The rest is weakest for the least-squares C = Z H^-1, with the Grams H = R R^T and Z = X R^T, and
its energy follows from them alone: |x|^2 - 2 c z^T + c H c^T. So nothing of width m is looked at
again once H and Z are there (X in units of each row's step). In order:

1. Blocks are added one by one, the one that saves most first, until none saves (`screen`).
2. Columns whose coefficients save less than they cost are left out: dropping column j raises the
   energy by c_j^2 / (H^-1)_jj, which is worth bits (`_fit`).
3. Coefficients are rounded to a power of two per block. A coarse one costs few bits and adds
   noise to the rest, a fine one the other way round; four are tried, the cheapest stays (`_round`).
4. Each module takes the first 0, 1, 2, 3, 4, 6, 8, 12, ... blocks of that order, whichever is
   cheapest for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import log
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from share_registry.algebra.quantise import Block, Prediction, Rows, Scratch, column_steps, stack
from share_registry.algebra.rates import bits, cost
from share_registry.algebra.solve import inverse

# bits that a coefficient has to save on average to be kept
_PRICE: Final = 4.0
# variances, in squared steps, that rounding the coefficients may add to the residual. Each is
# tried.
_NOISE: Final = (1 / 16, 1 / 4, 1.0, 4.0)
# what a term takes in the table
_TERM_BITS: Final = 64.0
_GAIN: Final = 0.995
_RIDGE: Final = 1e-9
# What judging blocks may take: operations of Grams, and numbers of the blocks
_SCREEN_FLOPS: Final = 1e9
_SCREEN_NUMBERS: Final = 1 << 20
_FEWEST: Final = 4
# numbers of the Grams of modules that are fitted together
_FITTED_TOGETHER: Final = 1 << 18
_PEAK_BITS: Final = 20
# of symbols; more would leave coefficients with fewer than they may take
_FEW_BITS: Final = 16
_PRODUCT_BITS: Final = 42
_TINY: Final = 1e-300
_HUGE: Final = 1e300

# The first column of every block, and the one behind its last
Spans = tuple[tuple[int, int], ...]
_Fit = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """Grams of one side, in units of each row's step.

    Attributes:
        H: (n, K, K) R R^T.
        Z: (n, r, K) X R^T.
        square: (n, r) |x|^2.
        width: m.
        spans: Columns of each block.
        symbol_bits: (n, T) bits of the largest symbol of each block.
    """

    H: Tensor
    Z: Tensor
    square: Tensor
    width: int
    spans: Spans
    symbol_bits: Tensor

    def of(self, choices: Sequence[Sequence[int]]) -> "_Evidence":
        """Return that of some blocks alone, for several choices of as many columns.

        All n modules with the first choice come first, then all with the next.
        """
        columns, spans = zip(*(_columns(self.spans, chosen) for chosen in choices), strict=True)
        return _Evidence(
            H=torch.cat([self.H[:, own][:, :, own] for own in columns]),
            Z=torch.cat([self.Z[:, :, own] for own in columns]),
            square=self.square.repeat(len(choices), 1),
            width=self.width,
            spans=spans[0],
            symbol_bits=torch.cat([self.symbol_bits[:, [*chosen]] for chosen in choices]),
        )


def sample(count: int, width: int, blocks: Sequence[Block]) -> list[int]:
    """Return the modules by which `screen` may judge blocks for all `count`: spread over them.

    As many as their Grams are affordable of.
    """
    columns = sum(max(0 if rows is None else len(rows) for rows in block) for block in blocks)
    affordable = max(2, int(_SCREEN_FLOPS / max(width * columns**2, 1)))
    affordable = min(affordable, max(_FEWEST, _SCREEN_NUMBERS // max(width * columns, 1)))
    places = torch.linspace(0, count - 1, min(count, affordable), dtype=torch.float32, device="cpu")
    numbers: list[int] = places.round().long().tolist()
    return numbers


def choose(
    rows: Rows, scales: Tensor, blocks: Sequence[Block], order: Sequence[int]
) -> tuple[Prediction | None, Tensor]:
    """Choose the blocks that rows are best predicted from.

    Args:
        rows: What is left of them to code.
        scales: (n, r) their steps.
        blocks: The blocks to choose from.
        order: Positions of those that are worth it, best first: see `screen`.

    Returns:
        The prediction, None where no block pays for any module, and the cost (n,) of each module
        in estimated bits, the distortion counted in.
    """
    plain = _plain_cost(rows, scales)
    if not order:
        return None, plain
    chosen = [blocks[i] for i in order]
    evidence = _gather(rows, scales, chosen)
    fits = [_fit(evidence.of([range(length)])) for length in _lengths(len(order))]
    best = torch.stack([plain, *(cost for _, _, cost in fits)]).min(0)
    if not best.indices.any():
        return None, plain
    return _prediction(order, chosen, evidence, fits, best.indices, scales), best.values


def _lengths(count: int) -> list[int]:
    """Return how many of the first blocks are tried: 1, 2, 3, 4, 6, 8, 12, 16, ... and all.

    What a fit takes grows with the cube of their number, and what one more brings falls.
    """
    halves = [2**power + (2**power // 2) * odd for power in range(7) for odd in (0, 1)]
    return sorted({length for length in halves if 0 < length < count} | {count})


def _plain_cost(rows: Rows, scales: Tensor) -> Tensor:
    norms = rows.norms
    if rows.previous is not None:
        scratch = Scratch()
        norms = torch.cat(
            [
                torch.linalg.vector_norm(part.residual_within(scratch), dim=-1)
                for part in rows.parts()
            ]
        )
    strength = torch.where(scales > 0, norms / scales.clamp_min(_TINY), 0.0)
    return rows.width * cost(strength.square() / rows.width).sum(-1)


def screen(rows: Rows, scales: Tensor, blocks: Sequence[Block]) -> tuple[int, ...]:
    """Return the blocks worth gathering for modules like these, best first.

    Those that none of these has are left out. Arguments as of `choose`.
    """
    if not blocks:
        return ()
    plain = _plain_cost(rows, scales)
    evidence = _gather(rows, scales, blocks)

    order: tuple[int, ...] = ()
    best = float(plain.sum())
    left = [index for index, (start, stop) in enumerate(evidence.spans) if start < stop]
    while left:
        totals = _totals(evidence, plain, [(*order, index) for index in left])
        least = min(totals)
        if least > _GAIN * best:
            break
        order, best = (*order, left.pop(totals.index(least))), least
    # blocks may pay together where none pays alone
    if left and _totals(evidence, plain, [(*order, *left)])[0] < _GAIN * best:
        order = (*order, *left)
    return order


def _totals(evidence: _Evidence, plain: Tensor, choices: Sequence[tuple[int, ...]]) -> list[float]:
    """Return what all modules together cost with each choice of blocks.

    Choices of equally wide blocks are fitted together, as far as that is less than one operation
    more on a matrix: small ones take no time but that of the calls.
    """
    by_widths: dict[tuple[int, ...], list[int]] = {}
    widths = [stop - start for start, stop in evidence.spans]
    for number, chosen in enumerate(choices):
        by_widths.setdefault(tuple(widths[index] for index in chosen), []).append(number)
    totals = [0.0] * len(choices)
    for each, numbers in by_widths.items():
        at_once = max(1, _FITTED_TOGETHER // (len(plain) * sum(each) ** 2))
        for start in range(0, len(numbers), at_once):
            some = numbers[start : start + at_once]
            costs = _fit(evidence.of([choices[number] for number in some]))[2]
            best = torch.minimum(plain, costs.view(len(some), -1)).sum(-1)
            for number, total in zip(some, best.tolist(), strict=True):
                totals[number] = total
    return totals


def _gather(rows: Rows, scales: Tensor, blocks: Sequence[Block]) -> _Evidence:
    """Return the Grams of rows and blocks; both are looked at once, a few modules at a time."""
    spans = _spans([max(0 if own is None else len(own) for own in block) for block in blocks])
    grams, products, squares = [], [], []
    start, scratch = 0, Scratch()
    for part in rows.parts():
        stop = start + len(part.factors)
        own = [block[start:stop] for block in blocks]
        R = stack(own, spans, rows.width, like=scales, scratch=scratch)
        x = part.residual_within(scratch)
        grams.append(R @ R.mT)
        products.append(x @ R.mT)
        squares.append(torch.linalg.vector_norm(x, dim=-1))
        start = stop
    H, unit = torch.cat(grams), torch.where(scales > 0, 1.0 / scales.clamp_min(_TINY), 0.0)
    return _Evidence(
        H=H,
        Z=unit[..., None] * torch.cat(products),
        square=(unit * torch.cat(squares)).square(),
        width=rows.width,
        spans=spans,
        symbol_bits=torch.tensor(
            [
                _symbol_bits(block, H[:, start:stop, start:stop])
                for block, (start, stop) in zip(blocks, spans, strict=True)
            ],
            dtype=torch.int64,
            device=H.device,
        ).expand(len(H), -1),
    )


def _symbol_bits(block: Block, H: Tensor) -> int:
    """Return the bits of the largest symbol of a block with the Gram H, or some more."""
    # no number of a row is longer than the row
    longest = H.diagonal(dim1=-2, dim2=-1)
    bits = int(longest.max().sqrt().ceil()).bit_length() if longest.numel() else 0
    if bits <= _FEW_BITS:
        return bits
    return max(int(own.abs().max()) for own in block if own is not None).bit_length()


def _fit(evidence: _Evidence) -> _Fit:
    """Fit the rows with all blocks: least squares, columns that do not pay left out.

    Returns:
        C (n, r, K) in steps, not rounded yet; exponents (n, T) of the powers of two to round it to;
        and the cost (n,) in bits, the distortion counted in.
    """
    H, Z = evidence.H, evidence.Z
    C, variances = _solve(H, Z, torch.ones_like(H[:, 0], dtype=torch.bool))
    variance = ((evidence.square - (C * Z).sum(-1)) / evidence.width).clamp_min(0)
    # the energy that a column takes off, and what a Gaussian row of this variance saves by it
    removed = C.square() / variances[:, None, :].clamp_min(_TINY)
    saved = removed / (2 * log(2) * (variance[..., None] + 1 / 12))
    keep = saved.sum(1) > _PRICE * Z.shape[1]
    C, _ = _solve(H, Z, keep)
    exponents, costs = _round(evidence, C, keep)
    best = costs.argmin(0)
    return C, _pick(exponents, best), _pick(costs, best)


def _solve(H: Tensor, Z: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Solve C H = Z over the columns kept, which are scaled to length 1 and lightly regularised.

    Returns:
        C (n, r, K), 0 in the other columns, and the diagonal (n, K) of the inverse Gram.
    """
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    unit = torch.where(keep & (diagonal > 0), diagonal.clamp_min(_TINY).rsqrt(), 0.0)
    normal = unit[:, :, None] * H * unit[:, None, :]
    # where a column is out, 1 keeps the matrix regular
    normal = normal + torch.diag_embed(torch.where(unit > 0, torch.full_like(unit, _RIDGE), 1.0))
    N = inverse(normal)
    C = (Z * unit[:, None, :]) @ N * unit[:, None, :]
    # where there is no solution, nothing is predicted: the candidate is dropped
    return torch.where(C.isfinite(), C, 0.0), unit.square() * N.diagonal(dim1=-2, dim2=-1)


def _least_exponents(evidence: _Evidence, C: Tensor) -> Tensor:
    """Return the smallest exponents (n, T) that keep coefficients and products exact.

    With room for smaller steps.
    """
    peaks = torch.stack([C[..., start:stop].abs().amax((-2, -1)) for start, stop in evidence.spans])
    factor_bits = [(stop - start - 1).bit_length() for start, stop in evidence.spans]
    room = _PRODUCT_BITS - evidence.symbol_bits - evidence.symbol_bits.new_tensor(factor_bits)
    return torch.log2(peaks.mT.clamp(1e-30, _HUGE)).ceil().long() - room.clamp_max(_PEAK_BITS)


def _round(evidence: _Evidence, C: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Round the coefficients so that the rest grows by about each of `_NOISE`.

    A rounding error of step^2 / 12 in a coefficient adds that times |row|^2 to the rest.

    Returns:
        For each of the O noises the exponents (O, n, T), and what everything then costs (O, n) in
        bits.
    """
    H, Z, spans = evidence.H, evidence.Z, evidence.spans
    (n, rank, K), T = C.shape, len(spans)
    diagonal = torch.where(keep, H.diagonal(dim1=-2, dim2=-1), 0.0)
    energy = torch.stack([diagonal[:, s:e].sum(-1) for s, e in spans], -1).clamp_min(_TINY)
    noise = energy.new_tensor(_NOISE)[:, None]
    powers = 0.5 * torch.log2(12.0 * noise * evidence.width / (T * energy[:, None]))
    least = _least_exponents(evidence, C)[:, None]
    exponents = powers.floor().clamp(-100, 100).long().maximum(least)
    steps = column_steps(exponents.view(-1, T), spans).view(n, -1, 1, K)
    q = (C[:, None] / steps).round()
    rounded = (q * steps).view(n, -1, K)
    gained = 2.0 * (rounded.view(q.shape) * Z[:, None]).sum(-1)
    square = evidence.square[:, None] - gained + ((rounded @ H) * rounded).sum(-1).view(q.shape[:3])
    price = torch.zeros_like(square[..., 0])
    for s, e in spans:
        used = keep[:, None, s:e].sum(-1).clamp_min(1)
        variance = q[..., s:e].square().sum((-2, -1)) / (rank * used)
        price = price + rank * used * bits(variance) + _TERM_BITS
    variance = (square / evidence.width).clamp_min(0)
    costs = price + evidence.width * cost(variance).sum(-1)
    return exponents.transpose(0, 1), costs.mT


def _prediction(
    order: Sequence[int],
    blocks: Sequence[Block],
    evidence: _Evidence,
    fits: Sequence[_Fit],
    best: Tensor,
    scales: Tensor,
) -> Prediction:
    """Put together what each module chose: the first `best` (n,) blocks of the order."""
    K, T = evidence.H.shape[-1], len(order)
    Cs = [pad(C, (0, K - C.shape[-1])) for C, _, _ in fits]
    C = _pick(torch.stack([torch.zeros_like(Cs[0]), *Cs]), best)
    powers = [pad(exponents, (0, T - exponents.shape[-1])) for _, exponents, _ in fits]
    exponents = _pick(torch.stack([torch.zeros_like(powers[0]), *powers]), best)
    used = torch.stack([C[..., s:e].abs().amax((-2, -1)) > 0 for s, e in evidence.spans], -1)
    # a stored side lists its terms in order of source
    ranked = sorted(range(T), key=order.__getitem__)
    columns, spans = _columns(evidence.spans, ranked)
    return Prediction(
        sources=tuple(order[t] for t in ranked),
        spans=spans,
        blocks=tuple(tuple(blocks[t]) for t in ranked),
        coefficients=scales[..., None] * C[..., columns],
        exponents=exponents[:, ranked],
        used=used[:, ranked],
    )


def _pick(options: Tensor, best: Tensor) -> Tensor:
    """Return for each of n modules the option that is best for it, of options (O, n, ...)."""
    return options[best, torch.arange(len(best), dtype=torch.int64, device=best.device)]


def _spans(widths: Sequence[int]) -> Spans:
    return tuple(pairwise(accumulate(widths, initial=0)))


def _columns(spans: Spans, chosen: Sequence[int]) -> tuple[Tensor, Spans]:
    """Return the columns of some blocks, and where each block then lies among them."""
    parts = [torch.arange(*spans[index], dtype=torch.int64, device="cpu") for index in chosen]
    return torch.cat(parts), _spans([len(part) for part in parts])
