"""What adapters have in common: inner products of dW, overlaps of row spaces, joint spectra.

<dW_i, dW_j> = s_i s_j sum((b_i b_j^T) * (a_i a_j^T)): nothing of size out x in is formed, and
another gauge of either adapter gives the same number.

For spectra, one side of one adapter is W (r, m): the rows of the balanced gauge times the norms of
the other side's rows and |s|, so that |W|^2 = |s dW|^2, divided by the norm of the whole adapter,
so that every adapter counts the same. The stack S of all of them has the directions of the joint
initialization as its right singular vectors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import batches, energies
from share_registry.algebra.error import FactorPair
from share_registry.algebra.rates import bits, cost
from share_registry.algebra.solve import eigh, svd
from share_registry.names import Side

# A basis of more than a quarter of the width holds much of anything. No more directions than that
# are taken from the others.
SHARE_OF_WIDTH: Final = 4
# directions below this share of the largest energy are rounding noise
_EMPTY: Final = 1e-12
_SIZES_TRIED: Final = 24
# directions below this share of a factor's largest are rounding noise, and span nothing
_FULL: Final = 1e-6

# Relative errors of one adapter in a basis: with both sides projected, A alone, B alone
Errors = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighted:
    """One module of one adapter, relative to the whole adapter.

    Attributes:
        a: (r, in) rows with |a|^2 = |s dW|^2 / |adapter|^2.
        b: (r, out), the same.
        core_a: (r, in) rows of the balanced gauge: dW is their product with `core_b`, relative to
            the whole adapter.
        core_b: (r, out).
    """

    a: Tensor
    b: Tensor
    core_a: Tensor
    core_b: Tensor

    def side(self, side: Side) -> Tensor:
        """Return the weighted rows of one side."""
        return self.a if side is Side.A else self.b


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """The rows of one module and side of some adapters, in coordinates of their directions.

    Attributes:
        energies: (K,) energy of each direction, descending.
        coefficients: (rows, K), the rows in these directions.
        width: m.
        adapters: How many have the module.
    """

    energies: Tensor
    coefficients: Tensor
    width: int
    adapters: int

    @property
    def effective_rank(self) -> float:
        """How many directions the energies are worth (Roy and Vetterli, 2007).

        The exponential of their entropy.
        """
        share = self.energies / self.energies.sum().clamp_min(1e-300)
        return float(torch.exp(-torch.special.xlogy(share, share).sum()))

    def explained(self) -> Tensor:
        """Return the share of the energy that the first 1, 2, ... K directions hold."""
        return self.energies.cumsum(0) / self.energies.sum().clamp_min(1e-300)

    def enough(self, share: float) -> int:
        """Return the fewest directions that hold a share of the energy."""
        return min(int((self.explained() < share - 1e-12).sum()) + 1, len(self.energies))


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


def have_common(first: Sequence[FactorPair], second: Sequence[FactorPair]) -> bool:
    """Tell whether two adapters have a module of one name and shape: else nothing compares."""
    return any(len(pairs) == 2 for pairs in _by_module((first, second)))


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
    _, sigma, Vt = svd(rows)
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


def weighted(pairs: Sequence[FactorPair]) -> dict[str, Weighted]:
    """Return the modules of an adapter that have a product, relative to the adapter's norm."""
    energy = energies(pairs)
    total = sqrt(sum(energy))
    able = [position for position, value in enumerate(energy) if value > 0.0]
    modules = {}
    for batch in batches(pairs, [(torch.float32, torch.float32)] * len(pairs), able):
        weight = (batch.weight / total)[:, None, None]
        x_a, x_b = batch.a.x, batch.b.x
        a = weight * batch.b.norms[..., None] * x_a
        b = weight * batch.a.norms[..., None] * x_b
        core_a, core_b = weight.sqrt() * x_a, weight.sqrt() * x_b
        for index, position in enumerate(batch.positions):
            modules[pairs[position].module] = Weighted(
                a=a[index], b=b[index], core_a=core_a[index], core_b=core_b[index]
            )
    return modules


def stack(rows: Sequence[Tensor]) -> Stack:
    """Return the stack of one side of one module, of one adapter or more that have it."""
    S = torch.cat(list(rows))
    wide = len(S) <= S.shape[1]
    values, U = eigh(S @ S.T if wide else S.T @ S)
    coefficients = U * values.clamp_min(0).sqrt() if wide else S @ U
    return Stack(
        energies=values.flip(0).clamp_min(0),
        coefficients=coefficients.flip(1),
        width=S.shape[1],
        adapters=len(rows),
    )


def directions(rows: Sequence[Tensor], k: int) -> Tensor:
    """Return the k leading directions of a stack, or as many as there are, orthonormal (k, m)."""
    S = torch.cat(list(rows))
    wide = len(S) <= S.shape[1]
    values, U = eigh(S @ S.T if wide else S.T @ S)
    first = max(0, len(values) - k)
    kept = values[first:] > _EMPTY * values[-1].clamp_min(1e-300)
    U = U[:, first:][:, kept]
    Q: Tensor = U.T
    if wide:
        Q = torch.linalg.qr((Q @ S / values[first:][kept].sqrt()[:, None]).T).Q.T
    return Q


def left_out(
    adapter: Mapping[str, Weighted], rest: Sequence[Mapping[str, Weighted]]
) -> tuple[Errors, Errors]:
    """Project an adapter on the directions of the rest.

    At most a quarter of the width per module and side; a module that none of them has is lost.

    Returns:
        Its errors, and those in random bases of the same sizes.
    """
    kept, chance = torch.zeros((2, 3), dtype=torch.float64, device="cpu")
    total = sum(float(module.a.square().sum()) for module in adapter.values())
    for name, module in adapter.items():
        shape = (module.a.shape[1], module.b.shape[1])
        alike = [
            modules[name]
            for modules in rest
            if name in modules and (modules[name].a.shape[1], modules[name].b.shape[1]) == shape
        ]
        if not alike:
            continue
        Q_a = directions([peer.a for peer in alike], shape[0] // SHARE_OF_WIDTH)
        Q_b = directions([peer.b for peer in alike], shape[1] // SHARE_OF_WIDTH)
        share_a, share_b = len(Q_a) / shape[0], len(Q_b) / shape[1]
        A, B = module.core_a, module.core_b
        C_a, C_b = A @ Q_a.T, B @ Q_b.T
        kept += torch.stack([_product(C_a, C_b), _product(C_a, B), _product(A, C_b)])
        shares = kept.new_tensor([share_a * share_b, share_a, share_b])
        chance += float(module.a.square().sum()) * shares
    return _errors(kept, total), _errors(chance, total)


def joint_saving(rows: Stack, step: float) -> tuple[float, float, int]:
    """Estimate what a basis fitted to a whole stack saves.

    Rows are Gaussian (see `rates`). A basis of k directions costs k rows of the width, each as
    precise as its energy in all adapters deserves, and k coefficients a row; the rest of every row
    is coded as its own. The k that costs least is taken, 0 among them.

    Args:
        rows: The stack.
        step: The quantiser's step in the units of the stack.

    Returns:
        Bits without a basis, bits that the basis saves at equal distortion, and its k.
    """
    energy = rows.coefficients.square() / step**2
    total = energy.sum(1, keepdim=True)
    left = torch.cat([total, total - energy.cumsum(1)], 1).clamp_min(0)
    sizes = torch.logspace(0, 3, _SIZES_TRIED, dtype=torch.float32, device="cpu").round().long()
    tried = sorted({0, *sizes.clamp_max(energy.shape[1]).tolist()})
    m, count = rows.width, len(energy)
    strength = rows.energies / step**2
    directions_cost = (m * cost(strength / m) + count * bits(strength / count)).cumsum(0)
    basis_cost = torch.cat([directions_cost.new_zeros(1), directions_cost])
    price = torch.stack([m * cost(left[:, k] / m).sum() + basis_cost[k] for k in tried])
    best = int(price.argmin())
    return float(m * bits(left[:, 0] / m).sum()), float(price[0] - price[best]), tried[best]


def _by_module(adapters: Sequence[Sequence[FactorPair]]) -> Iterable[dict[int, FactorPair]]:
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


def _errors(kept: Tensor, total: float) -> Errors:
    both, a, b = (sqrt(max(0.0, 1.0 - part / total)) if total else 0.0 for part in kept.tolist())
    return both, a, b


def _product(a: Tensor, b: Tensor) -> Tensor:
    return ((a @ a.T) * (b @ b.T)).sum()
