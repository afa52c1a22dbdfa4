"""How adapters lie to one another, from small Grams.

Inner products of dW, relative distances, overlaps of row spaces.

<dW_i, dW_j> = s_i s_j sum((b_i b_j^T) * (a_i a_j^T)): nothing of size out x in is formed, and
another gauge of either adapter gives the same number.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from share_registry.algebra.error import ScaledPair
from share_registry.names import Side

_FULL = 1e-6
"""Directions below this share of a factor's largest are rounding noise, and span nothing."""
_Shape = tuple[str, int, int]


def by_module(adapters: Sequence[Sequence[ScaledPair]]) -> dict[_Shape, dict[int, ScaledPair]]:
    """Return the pairs of every module (name, in, out) by position of the adapter that has it."""
    found: dict[_Shape, dict[int, ScaledPair]] = defaultdict(dict)
    for number, pairs in enumerate(adapters):
        for pair in pairs:
            found[(pair.module, pair.a.shape[1], pair.b.shape[1])][number] = pair
    return dict(found)


def products(adapters: Sequence[Sequence[ScaledPair]]) -> Tensor:
    """Return the inner products (N, N) of the scaled dW over all modules.

    Ranks may differ, a module that one lacks is 0 there.
    """
    gram = torch.zeros((len(adapters), len(adapters)), dtype=torch.float64, device="cpu")
    for pairs in by_module(adapters).values():
        numbers = torch.tensor(list(pairs), dtype=torch.int64, device="cpu")
        gram[numbers[:, None], numbers[None, :]] += _products(list(pairs.values()))
    return gram


def products_with(pairs: Sequence[ScaledPair], other: Sequence[ScaledPair]) -> float:
    """Return the inner product of the scaled dW of two adapters."""
    known = {(pair.module, pair.a.shape[1], pair.b.shape[1]): pair for pair in other}
    both = ((pair, known.get((pair.module, pair.a.shape[1], pair.b.shape[1]))) for pair in pairs)
    return sum(
        one.scale * two.scale * float(((one.b @ two.b.T) * (one.a @ two.a.T)).sum())
        for one, two in both
        if two is not None
    )


def distances(gram: Tensor) -> Tensor:
    """Return |dW_i - dW_j| / |dW_i| (N, N) of inner products.

    Infinite where dW_i is 0 and dW_j is not. Right to about 1e-7 near 0.
    """
    square = gram.diagonal()
    difference = (square[:, None] + square[None, :] - 2.0 * gram).clamp_min(0)
    difference.fill_diagonal_(0.0)
    return torch.where(
        difference > 0, (difference / square[:, None]).sqrt(), torch.zeros_like(difference)
    )


def cosines(gram: Tensor) -> Tensor:
    """Return the cosines (N, N) of inner products; 0 where a dW is 0."""
    norms = gram.diagonal().clamp_min(0).sqrt()
    scale = norms[:, None] * norms[None, :]
    return torch.where(scale > 0, gram / scale.clamp_min(1e-300), torch.zeros_like(gram)).clamp(
        -1, 1
    )


def row_overlap(adapters: Sequence[Sequence[ScaledPair]], side: Side) -> tuple[Tensor, Tensor]:
    """Return how far the row spaces of one side coincide, and what rows drawn at random would give.

    Per module the root mean square cosine of the principal angles, sqrt(|Q_i Q_j^T|^2 / min(r_i,
    r_j)); the mean over the modules that both have. Chance is sqrt(max(r_i, r_j) / m).

    Returns:
        (N, N) and (N, N), 0 where two have no module in common.
    """
    count = len(adapters)
    total, chance, shared = (
        torch.zeros((count, count), dtype=torch.float64, device="cpu") for _ in range(3)
    )
    for pairs in by_module(adapters).values():
        bases = {
            number: orthonormal(pair.a if side is Side.A else pair.b)
            for number, pair in pairs.items()
        }
        bases = {number: Q for number, Q in bases.items() if len(Q)}
        if not bases:
            continue
        numbers = torch.tensor(list(bases), dtype=torch.int64, device="cpu")
        ranks = torch.tensor([len(Q) for Q in bases.values()], dtype=torch.float64, device="cpu")
        low, high = torch.minimum(ranks[:, None], ranks), torch.maximum(ranks[:, None], ranks)
        at = (numbers[:, None], numbers[None, :])
        total[at] += (_block_squares(list(bases.values())) / low).sqrt()
        chance[at] += (high / next(iter(bases.values())).shape[1]).sqrt()
        shared[at] += 1
    return total / shared.clamp_min(1), chance / shared.clamp_min(1)


def orthonormal(rows: Tensor) -> Tensor:
    """Return orthonormal rows that span the same space."""
    _, sigma, Vt = torch.linalg.svd(rows, full_matrices=False)
    basis: Tensor = Vt[sigma > _FULL * sigma.amax().clamp_min(1e-300)] if len(sigma) else Vt
    return basis


def connected(linked: Tensor) -> list[tuple[int, ...]]:
    """Return the connected parts of a symmetric relation (N, N), of two or more, by their first member."""
    seen: set[int] = set()
    parts = []
    for start in range(len(linked)):
        part = _reached(linked, start) - seen
        seen |= part
        if len(part) > 1:
            parts.append(tuple(sorted(part)))
    return parts


def blocks(values: Mapping[int, Tensor] | Sequence[Tensor]) -> Tensor:
    """Return, for rows stacked in order, the number of the block that each belongs to."""
    sizes = [len(rows) for rows in (values.values() if isinstance(values, Mapping) else values)]
    return torch.repeat_interleave(
        torch.arange(len(sizes), dtype=torch.int64, device="cpu"),
        torch.tensor(sizes, dtype=torch.int64, device="cpu"),
    )


def _reached(linked: Tensor, start: int) -> set[int]:
    reached, waiting = {start}, [start]
    while waiting:
        row = linked[waiting.pop()].nonzero().flatten().tolist()
        waiting += [number for number in row if number not in reached]
        reached |= set(row)
    return reached


def _products(pairs: Sequence[ScaledPair]) -> Tensor:
    A = torch.cat([pair.scale * pair.a for pair in pairs])
    B = torch.cat([pair.b for pair in pairs])
    return _summed((A @ A.T) * (B @ B.T), [pair.a for pair in pairs])


def _block_squares(bases: Sequence[Tensor]) -> Tensor:
    Q = torch.cat(list(bases))
    return _summed((Q @ Q.T).square(), bases)


def _summed(gram: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """Return the sums of the blocks of a matrix over stacked rows."""
    block = blocks(rows)
    by_row = torch.zeros((len(rows), gram.shape[1]), dtype=gram.dtype, device="cpu").index_add_(
        0, block, gram
    )
    return torch.zeros((len(rows), len(rows)), dtype=gram.dtype, device="cpu").index_add_(
        1, block, by_row
    )
