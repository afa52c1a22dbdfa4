"""The directions that tasks share: a refit, from Grams and coefficients alone.

What a refit is (Share, arXiv 2602.06043, merging step). A basis is good for all tasks when it spans
the directions in which their updates have most energy: the leading singular vectors of all factors
stacked, each row weighted by the length of the row beside it on the other side. Weighting makes
the energy that of dW, whatever gauge a task is stored in (HOSVD); without it, it would not be.

Why no task has to be decoded for it. Stored factors are coefficients over stored rows. For one
module and side, all rows in use R (K, m) have the Gram H = R R^T = L L^T, so E = L^+ R has
orthonormal rows and a task K_t R is A_t E with A_t = K_t L: a few numbers. The weighted second
moment of all tasks is a sum over tasks, in these coordinates a small matrix:

    sum_t w_t X_a^T (X_b X_b^T) X_a  =  E^T G E,    G = sum_t w_t A_t^T (B_t B_t^T) A_t

Its eigenvectors U give the directions Q = U^T E. That equals the singular value decomposition of
all factors stacked (leaving out H, the rows' own angles, would not), and G can be kept: a refit for
one task more adds one term.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from share_registry.algebra.gauge import balance
from share_registry.algebra.rates import bits, cost
from share_registry.algebra.solve import eigh, square_root

# eigenvalues of the Gram of K rows of equal length below K times this share of the largest: 0
_DEPENDENT: Final = 1e-14
# coefficients over rows of unit length above this lose too many digits to be extended
_AMPLIFIED: Final = 1e4
# bits that a coefficient takes at least: one that is nearly nothing still has to be said
_COEFFICIENT: Final = 2.0
_LARGEST: Final = (1 << 20) - 1
_HALVINGS: Final = 60
# Of leading directions: vectors of a block beyond those asked for, blocks beyond the first, how
# often they are begun again at most, and how little more they then capture
_OVERSAMPLED: Final = 16
_KRYLOV: Final = 4
_RESTARTS: Final = 8
_SETTLED: Final = 1e-6
# Cosine of two vectors from which on they are not orthogonal, in float32
_OBLIQUE: Final = 1e-4
# tasks side by side: large enough for products, small beside the rows
_AT_ONCE: Final = 256


# Energies (q,), descending, and coordinates U (q, q) of the directions
Spectrum = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Orthonormal coordinates of the rows in use.

    Attributes:
        root: L (K, q) with L L^T = R R^T: coefficients over the rows, times it, are coordinates.
        back: L^+ (q, K): times the rows, it is the orthonormal frame E.
        rows: R (K, m).
    """

    root: Tensor
    back: Tensor
    rows: Tensor

    def directions(self, U: Tensor) -> Tensor:
        """Return the directions U^T E (k, m) of coordinates U (q, k)."""
        return (U.mT @ self.back) @ self.rows


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCoefficients:
    """One task of one module in coordinates: A (r, q_a), B (r, q_b), and w s^2."""

    A: Tensor
    B: Tensor
    weight: float


@dataclass(frozen=True, slots=True)
class Moments:
    """Second moments of tasks in fixed frames: what a refit needs of them, whatever their number.

    Attributes:
        a: G_a (q_a, q_a).
        b: G_b (q_b, q_b).
    """

    a: Tensor
    b: Tensor

    @classmethod
    def empty(cls, q_a: int, q_b: int, device: torch.device | str = "cpu") -> "Moments":
        """Return the moments of no task."""
        return cls(
            torch.zeros((q_a, q_a), dtype=torch.float64, device=device),
            torch.zeros((q_b, q_b), dtype=torch.float64, device=device),
        )

    def add(self, tasks: Sequence[TaskCoefficients]) -> None:
        """Count tasks in, or out where their weight is negative.

        Tasks of one rank are added in a few large products.
        """
        for A, B, weights in _stack(tasks):
            if self.a.dtype == torch.float32:
                self._add_coarsely(A, B, weights)
                continue
            w = weights[:, None, None]
            self.a.add_(A.flatten(0, 1).mT @ ((w * (B @ B.mT)) @ A).flatten(0, 1))
            self.b.add_(B.flatten(0, 1).mT @ ((w * (A @ A.mT)) @ B).flatten(0, 1))

    def _add_coarsely(self, A: Tensor, B: Tensor, weights: Tensor) -> None:
        """Add tasks to moments of float32: the factors are brought to the size of their part first.

        With w B B^T = L L^T, what is added is Y^T Y of Y = L^T A.
        """
        for moments, own, partner in ((self.a, A, B), (self.b, B, A)):
            values, V = eigh(partner @ partner.mT)
            root = values.clamp_min(0.0).sqrt()[..., None, :] * V
            size = weights.abs().sqrt()[:, None, None]
            Y = ((size * root.mT) @ own).to(torch.float32)
            signed = weights.sign().to(torch.float32)[:, None, None] * Y
            moments.addmm_(Y.flatten(0, 1).mT, signed.flatten(0, 1))


def frame(rows: Tensor) -> Frame:
    """Return coordinates for rows R (K, m) float64 of any rank and any sizes.

    Rows are taken at equal length, since a basis row may be 2**20 times a weak adapter's; a second
    pass makes directions orthonormal that rows hardly tell apart.
    """
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    unit = rows / torch.where(lengths > 0, lengths, 1.0)
    values, V = eigh(unit @ unit.mT)
    keep = values > _DEPENDENT * max(1, len(rows)) * values.amax().clamp_min(1e-300)
    keep[: max(0, len(rows) - rows.shape[1])] = False
    root = values[keep].sqrt()
    E = (V[:, keep] / root).mT @ unit
    again, back = square_root(E @ E.mT, (V[:, keep] / root).mT)
    return Frame(
        root=lengths * ((V[:, keep] * root) @ again),
        back=back * torch.where(lengths > 0, 1.0 / lengths, 0.0).mT,
        rows=rows,
    )


def extend(back: Tensor, rows: Tensor) -> Frame | None:
    """Extend a frame by rows: its q directions stay, new ones come behind them.

    New rows are freed of the directions that are there, twice, and what is left of them is framed:
    one that depends on the rows before it, as near as `frame` tells, adds no direction.

    Args:
        back: (q, K) what makes the directions of the first K rows.
        rows: (K + n, m) the rows so far, and the new ones.

    Returns:
        None where coefficients over the rows would grow so large that they lose digits.
    """
    q, K = back.shape
    E, new = back @ rows[:K], rows[K:]
    if not len(new):
        return Frame(root=rows @ E.mT, back=back, rows=rows)
    C = rows.new_zeros((len(new), q))
    rest = new
    for _ in range(2):
        overlap = rest @ E.mT
        C, rest = C + overlap, rest - overlap @ E
    lengths = torch.linalg.vector_norm(rows, dim=-1)
    left = torch.linalg.vector_norm(rest, dim=-1).square()
    apart = left > _DEPENDENT * len(rows) * lengths[K:].square()
    part = frame(torch.where(apart[:, None], rest, 0.0))
    whole = torch.cat(
        [
            pad(back, (0, len(new))),
            torch.cat([-(part.back @ C) @ back, part.back], dim=1),
        ]
    )
    if bool(((whole * lengths).abs() > _AMPLIFIED).any()):
        return None
    root = torch.cat(
        [
            pad(rows[:K] @ E.mT, (0, len(part.back))),
            torch.cat([C, part.root], dim=1),
        ]
    )
    return Frame(root=root, back=whole, rows=rows)


def axes(width: int, device: torch.device | str = "cpu") -> Frame:
    """Return the frame of the axes: for more rows than columns it needs no decomposition."""
    unit = torch.eye(width, dtype=torch.float64, device=device)
    return Frame(root=unit, back=unit, rows=unit)


def spectrum(G: Tensor) -> Spectrum:
    """Return energies (q,), descending, at least 0, and coordinates U (q, q) of the directions.

    Each turned so that its largest coordinate is positive.
    """
    # no row in use: a module whose product is 0 in every task
    if not len(G):
        return G.new_zeros(0), G.new_zeros((0, 0))
    values, U = eigh((G + G.mT) / 2)
    return values.flip(0).clamp_min(0.0), _turned(U.flip(1))


def leading_spectrum(G: Tensor, k: int) -> Spectrum:
    """Return the k largest energies and their coordinates U (q, k), as `spectrum` does.

    By blocks of Krylov vectors, begun again from what they found until the energy captured settles
    (Musco and Musco, arXiv 1504.05477): products of order k q^2. The vectors are of float32, the
    energies that are given of float64 in the space that they span, whose error they feel squared.
    For many of the q directions, or where it does not settle, all are computed.
    """
    block = k + _OVERSAMPLED
    # after a subtraction G may be nothing but rounding
    if block * (_KRYLOV + 1) * 2 > len(G) or not float(G.trace()) > 0.0:
        return _first(spectrum(G), k)
    total = G.trace().clamp_min(1e-300)
    coarse = ((G + G.mT) / (2.0 * total)).to(torch.float32)
    start, captured = _scattered(len(G), block, G.device), 0.0
    for _ in range(_RESTARTS):
        start = _krylov(coarse, start)
        Q = torch.linalg.qr(start.double()).Q
        values, V = eigh(Q.mT @ (G @ Q))
        energies = values.flip(0)[:k].clamp_min(0.0)
        before, captured = captured, float(energies.sum() / total)
        if captured - before <= _SETTLED * captured:
            return energies, _turned((Q @ V.flip(1))[:, :k])
    return _first(spectrum(G), k)


def _scattered(q: int, count: int, device: torch.device) -> Tensor:
    """Return vectors (q, count) that are as good as random, the same every time."""
    places = torch.arange(q * count, dtype=torch.float64, device=device).reshape(q, count)
    return ((places * 12.9898).sin() * 43758.5453).frac().to(torch.float32)


def _krylov(G: Tensor, start: Tensor) -> Tensor:
    """Return as many vectors as a start (q, b) has, the strongest of its Krylov space."""
    blocks, products = [torch.linalg.qr(G @ start).Q], []
    for _ in range(_KRYLOV):
        products.append(G @ blocks[-1])
        whole, rest = torch.cat(blocks, 1), products[-1]
        # twice, and each time made of length 1: where the space is spent, what is left is rounding
        for _ in range(2):
            rest = torch.linalg.qr(rest - whole @ (whole.mT @ rest)).Q
        blocks.append(rest)
    products.append(G @ blocks[-1])
    B, GB = torch.cat(blocks, 1), torch.cat(products, 1)
    overlap = B.mT @ B
    overlap.diagonal().sub_(1.0)
    # where rows of G are zero, what is made of rounding lies in other blocks again
    if float(overlap.abs().max()) > _OBLIQUE:
        B = torch.linalg.qr(B).Q
        GB = G @ B
    _, V = eigh(B.mT @ GB)
    strongest: Tensor = B @ V[:, -start.shape[1] :].flip(1)
    return strongest


def _first(spectrum: Spectrum, k: int) -> Spectrum:
    return spectrum[0][:k], spectrum[1][:, :k]


def _turned(U: Tensor) -> Tensor:
    """Return directions turned so that the largest coordinate of each is positive."""
    largest = U.gather(0, U.abs().argmax(0, keepdim=True))
    return U * torch.where(largest < 0, -1.0, 1.0)


def count_capturing(energies: Tensor, share: float) -> int:
    """Return the smallest k whose directions capture this share of the energy."""
    total = float(energies.sum())
    if total <= 0.0:
        return 0
    return min(len(energies), int((energies.cumsum(0) < share * total * (1 - 1e-12)).sum()) + 1)


def savings(
    tasks: Sequence[TaskCoefficients],
    axes: tuple[Tensor, Tensor],
    *,
    widths: tuple[int, int],
    budget: float,
) -> tuple[Tensor, Tensor]:
    """Return the coded bits that the first 0, 1, 2, ... directions save on tasks, per side.

    Args:
        tasks: The tasks in coordinates.
        axes: U (q, q) of each side, strongest direction first.
        widths: m of each side.
        budget: Relative error at which tasks are coded, in the gauge they are stored in.

    Returns:
        (q_a + 1,) and (q_b + 1,).
    """
    saved = [U.new_zeros(len(U) + 1) for U in axes]
    for A, B, _ in _stack(tasks):
        a, b, sigma = balance(A, B)
        noise = _water(sigma.square(), sum(widths), budget)
        for side, rows in ((0, a), (1, b)):
            saved[side] += _saved(rows * sigma.sqrt()[..., None], axes[side], widths[side], noise)
    return saved[0], saved[1]


def choose_size(saved: Tensor, energies: Tensor, *, width: int, precision: float) -> int:
    """Return the k whose directions save most beyond what they cost as rows, 0 where none pays.

    Args:
        saved: (q + 1,) bits that the first 0, 1, 2, ... directions save.
        energies: (q,) their energies, descending.
        width: m.
        precision: See `round_rows`.
    """
    noise = precision**2 * energies.sum().clamp_min(1e-300) / max(1, len(energies))
    row_bits = width * (0.5 * torch.log(energies / noise).clamp_min(0.0) / log(2) + 0.25)
    return int((saved - torch.cat([energies.new_zeros(1), row_bits.cumsum(0)])).argmax())


def round_rows(Q: Tensor, energies: Tensor, *, precision: float) -> Tensor:
    """Round directions Q (k, m), each times a factor of its own, to integer rows int32 (k, m).

    The noise that every row brings into the tasks is the same (reverse water-filling): a row is as
    fine as the square root of its energy asks for. All of it together is a relative error of
    `precision`.
    """
    if not len(Q):
        return Q.to(torch.int32)
    noise = precision**2 * float(energies.sum()) / len(Q)
    factors = torch.full_like(energies, _LARGEST)
    if noise > 0:
        factors = (energies * Q.shape[1] / (12.0 * noise)).sqrt().clamp(1.0, _LARGEST)
    peak = Q.abs().amax(-1)
    factors = torch.minimum(factors.maximum(2.0 / peak), _LARGEST / peak)
    return (Q * factors[:, None]).round().to(torch.int32)


def _stack(tasks: Sequence[TaskCoefficients]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield tasks of one rank side by side: A (n, r, q_a), B (n, r, q_b) and weights (n,)."""
    by_rank: dict[int, list[TaskCoefficients]] = {}
    for task in tasks:
        by_rank.setdefault(len(task.A), []).append(task)
    for _, members in sorted(by_rank.items()):
        for start in range(0, len(members), _AT_ONCE):
            some = members[start : start + _AT_ONCE]
            A, B = torch.stack([task.A for task in some]), torch.stack([task.B for task in some])
            yield A, B, A.new_tensor([task.weight for task in some])


def _saved(rows: Tensor, U: Tensor, width: int, noise: Tensor) -> Tensor:
    """Return the bits (q + 1,) that the first 0, 1, 2, ... directions save.

    On the energy-weighted rows (n, r, q) of tasks with this noise (n,).
    """
    P = rows @ U
    nothing = rows.new_zeros((len(rows), rows.shape[1], 1))
    inside = torch.cat([nothing, P.square().cumsum(-1)], -1)
    left = (rows.square().sum(-1, keepdim=True) - inside).clamp_min(0.0)
    unit = noise.clamp_min(1e-300)[:, None, None] * 12.0
    plain = width * cost(left / (width * unit)).sum(1)
    coefficients = bits(P.square() / unit).clamp_min(_COEFFICIENT).sum(1).cumsum(-1)
    return (plain[:, :1] - plain - torch.cat([nothing[:, 0], coefficients], -1)).sum(0)


def _water(squares: Tensor, width: int, budget: float) -> Tensor:
    """Return the noise variances (n,) per element at which rows lose the budget.

    Of energies (n, r), both sides together `width` wide.
    """
    goal, low, high = budget**2 * squares.sum(-1), torch.zeros_like(squares[:, 0]), squares.amax(-1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_much = torch.minimum(squares, width * middle[:, None]).sum(-1) > goal
        low, high = torch.where(too_much, low, middle), torch.where(too_much, middle, high)
    return high
