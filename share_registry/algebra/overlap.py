"""How adapters lie to one another: inner products of dW, distances, overlaps of row spaces.

<dW_i, dW_j> = s_i s_j sum((b_i b_j^T) * (a_i a_j^T)): nothing of size out x in is formed, and
another gauge of either adapter gives the same number.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.error import FactorPair
from share_registry.names import Side

# directions below this share of a factor's largest are rounding noise, and span nothing
_FULL: Final = 1e-6


def products(adapters: Sequence[Sequence[FactorPair]]) -> Tensor:
    """Return the inner products (N, N) of the scaled dW over all modules.

    Ranks may differ; a module that an adapter lacks is 0 there.
    """
    gram = torch.zeros((len(adapters), len(adapters)), dtype=torch.float64, device="cpu")
    for pairs in _by_module(adapters):
        numbers = torch.tensor(list(pairs), dtype=torch.int64, device="cpu")
        A = torch.cat([pair.scale * pair.a for pair in pairs.values()])
        B = torch.cat([pair.b for pair in pairs.values()])
        ranks = [len(pair.a) for pair in pairs.values()]
        gram[numbers[:, None], numbers] += _block_sums((A @ A.T) * (B @ B.T), ranks)
    return gram


def products_with(first: Sequence[FactorPair], second: Sequence[FactorPair]) -> float:
    """Return the inner product of the scaled dW of two adapters."""
    return sum(
        x.scale * y.scale * float(((x.b @ y.b.T) * (x.a @ y.a.T)).sum())
        for x, y in (pairs.values() for pairs in _by_module((first, second)) if len(pairs) == 2)
    )


def distances(gram: Tensor) -> Tensor:
    """Return |dW_i - dW_j| / |dW_i| (N, N) of inner products.

    Infinite where dW_i is 0 and dW_j is not. Right to about 1e-7 near 0.
    """
    square = gram.diagonal()
    difference = (square[:, None] + square[None, :] - 2.0 * gram).clamp_min(0)
    difference.fill_diagonal_(0.0)
    return torch.where(difference > 0, (difference / square[:, None]).sqrt(), 0.0)


def row_overlap(adapters: Sequence[Sequence[FactorPair]], side: Side) -> tuple[Tensor, Tensor]:
    """Return how far the row spaces of one side coincide, and what rows drawn at random would give.

    Per module the root mean square cosine of the principal angles, sqrt(|Q_i Q_j^T|^2 / min(r_i,
    r_j)); the mean over the modules that both have. Chance is sqrt(max(r_i, r_j) / m).

    Returns:
        (N, N) and (N, N), 0 where two have no module in common.
    """
    total, chance, shared = torch.zeros(
        (3, len(adapters), len(adapters)), dtype=torch.float64, device="cpu"
    )
    for pairs in _by_module(adapters):
        bases = {n: orthonormal(pair.a if side is Side.A else pair.b) for n, pair in pairs.items()}
        bases = {number: Q for number, Q in bases.items() if len(Q)}
        if not bases:
            continue
        numbers = torch.tensor(list(bases), dtype=torch.int64, device="cpu")
        sizes = [len(Q) for Q in bases.values()]
        ranks = torch.tensor(sizes, dtype=torch.float64, device="cpu")
        low, high = torch.minimum(ranks[:, None], ranks), torch.maximum(ranks[:, None], ranks)
        at = (numbers[:, None], numbers[None, :])
        Q = torch.cat(list(bases.values()))
        total[at] += (_block_sums((Q @ Q.T).square(), sizes) / low).sqrt()
        chance[at] += (high / Q.shape[1]).sqrt()
        shared[at] += 1
    return total / shared.clamp_min(1), chance / shared.clamp_min(1)


def orthonormal(rows: Tensor) -> Tensor:
    """Return orthonormal rows that span the same space."""
    _, sigma, Vt = torch.linalg.svd(rows, full_matrices=False)
    basis: Tensor = Vt[sigma > _FULL * sigma.amax().clamp_min(1e-300)] if len(sigma) else Vt
    return basis


def connected_parts(linked: Tensor) -> list[tuple[int, ...]]:
    """Return the parts of two or more that a symmetric relation (N, N) connects.

    In order of their first members.
    """
    part_of = list(range(len(linked)))
    for first, second in linked.nonzero().tolist():
        old, new = part_of[second], part_of[first]
        if old != new:
            part_of = [new if part == old else part for part in part_of]
    members: dict[int, list[int]] = {}
    for number, part in enumerate(part_of):
        members.setdefault(part, []).append(number)
    return [tuple(numbers) for numbers in members.values() if len(numbers) > 1]


def _by_module(adapters: Sequence[Sequence[FactorPair]]) -> Iterable[dict[int, FactorPair]]:
    """Return the pairs of each module (name, in, out) by position of the adapter that has it."""
    modules: dict[tuple[str, int, int], dict[int, FactorPair]] = {}
    for number, pairs in enumerate(adapters):
        for pair in pairs:
            modules.setdefault(pair.key, {})[number] = pair
    return modules.values()


def _block_sums(gram: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sum the blocks of a matrix (n, n) whose rows lie in N blocks of these sizes: (N, N)."""
    numbers = torch.arange(len(sizes), dtype=torch.int64, device="cpu")
    block = numbers.repeat_interleave(torch.tensor(sizes, dtype=torch.int64, device="cpu"))
    by_row = gram.new_zeros((len(sizes), gram.shape[1])).index_add_(0, block, gram)
    return gram.new_zeros((len(sizes), len(sizes))).index_add_(1, block, by_row)
