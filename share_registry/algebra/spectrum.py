"""What adapters share, module by module and side by side.

Spectra of the energy-weighted stack, what the others leave out, what a joint basis would save.

One side of one adapter is W (r, m): the rows of the balanced gauge times the norms of the other
side's rows and |s|, so that |W|^2 = |s dW|^2, divided by the norm of the whole adapter, so that
every adapter counts the same. The stack S of all of them has the directions of the joint
initialization as its right singular vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Final

import torch
from torch import Tensor

from share_registry.algebra.batch import batches, energies
from share_registry.algebra.error import ScaledPair
from share_registry.algebra.rates import bits, cost
from share_registry.names import Side

SHARE_OF_WIDTH: Final = 4
"""A basis of more than a quarter of the width holds much of anything.

No more directions than that are taken from the others.
"""
_EMPTY: Final = 1e-12
"""Directions below this share of the largest energy are rounding noise."""
_SIZES_TRIED: Final = 24


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
    """The stack of one module and side in the coordinates of its own directions.

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
        """The exponential of the entropy of the energies (Roy and Vetterli, 2007).

        How many directions they are worth.
        """
        share = self.energies / self.energies.sum().clamp_min(1e-300)
        return float(torch.exp(-torch.special.xlogy(share, share).sum()))

    def explained(self) -> Tensor:
        """Return the share of the energy that the first 1, 2, ... K directions hold."""
        return self.energies.cumsum(0) / self.energies.sum().clamp_min(1e-300)

    def enough(self, share: float) -> int:
        """Return the fewest directions that hold a share of the energy."""
        return min(int((self.explained() < share - 1e-12).sum()) + 1, len(self.energies))


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Relative errors of one adapter in the basis of the others: both sides, A alone, B alone.

    And in random bases of the same sizes.
    """

    both: float
    a: float
    b: float
    chance: float
    chance_a: float
    chance_b: float


def weighted(pairs: Sequence[ScaledPair]) -> dict[str, Weighted]:
    """Return the modules of an adapter that have a product, relative to the adapter's norm."""
    energy = energies(pairs)
    total = sqrt(sum(energy))
    able = [position for position, value in enumerate(energy) if value > 0.0]
    found = {}
    for batch in batches(pairs, [(torch.float32, torch.float32)] * len(pairs), able):
        weight = (batch.weight / total)[:, None, None]
        a, b = (
            weight * batch.b.norms[..., None] * batch.a.x,
            weight * batch.a.norms[..., None] * batch.b.x,
        )
        for index, position in enumerate(batch.positions):
            root = weight[index].sqrt()
            found[pairs[position].module] = Weighted(
                a=a[index],
                b=b[index],
                core_a=root * batch.a.x[index],
                core_b=root * batch.b.x[index],
            )
    return found


def stack(rows: Sequence[Tensor]) -> Stack:
    """Return the stack of one side of one module, of one adapter or more that have it."""
    S = torch.cat(list(rows))
    if len(S) <= S.shape[1]:
        values, U = torch.linalg.eigh(S @ S.T)
        coefficients = U * values.clamp_min(0).sqrt()
    else:
        values, V = torch.linalg.eigh(S.T @ S)
        coefficients = S @ V
    order = torch.arange(len(values) - 1, -1, -1, dtype=torch.int64, device="cpu")
    return Stack(
        energies=values[order].clamp_min(0),
        coefficients=coefficients[:, order],
        width=S.shape[1],
        adapters=len(rows),
    )


def directions(rows: Sequence[Tensor], k: int) -> Tensor:
    """Return the k leading directions of a stack, or as many as there are, orthonormal (k, m)."""
    S = torch.cat(list(rows))
    wide = len(S) <= S.shape[1]
    values, U = torch.linalg.eigh(S @ S.T if wide else S.T @ S)
    kept = (
        values[-k:] > _EMPTY * values[-1].clamp_min(1e-300)
        if k
        else torch.zeros(0, dtype=torch.bool, device="cpu")
    )
    U = U[:, len(values) - len(kept) :][:, kept]
    found = U.T @ S / values[len(values) - len(kept) :][kept].sqrt()[:, None] if wide else U.T
    Q: Tensor = torch.linalg.qr(found.T).Q.T if wide and len(found) else found
    return Q


def left_out(one: Mapping[str, Weighted], others: Sequence[Mapping[str, Weighted]]) -> LeftOut:
    """Project an adapter on the directions of the others, at most a quarter of the width per module and side; a module that no other has is lost."""
    kept, chance = (
        torch.zeros(3, dtype=torch.float64, device="cpu"),
        torch.zeros(3, dtype=torch.float64, device="cpu"),
    )
    total = sum(float(module.a.square().sum()) for module in one.values())
    for name, module in one.items():
        known = [
            other[name]
            for other in others
            if name in other
            and other[name].a.shape[1] == module.a.shape[1]
            and other[name].b.shape[1] == module.b.shape[1]
        ]
        if not known:
            continue
        Q_a = directions([other.a for other in known], module.a.shape[1] // SHARE_OF_WIDTH)
        Q_b = directions([other.b for other in known], module.b.shape[1] // SHARE_OF_WIDTH)
        share_a, share_b = len(Q_a) / module.a.shape[1], len(Q_b) / module.b.shape[1]
        C_a, C_b = module.core_a @ Q_a.T, module.core_b @ Q_b.T
        kept += torch.stack(
            [_product(C_a, C_b), _product(C_a, module.core_b), _product(module.core_a, C_b)]
        )
        chance += float(module.a.square().sum()) * torch.tensor(
            [share_a * share_b, share_a, share_b], dtype=torch.float64, device="cpu"
        )
    wrong = [
        sqrt(max(0.0, 1.0 - float(value) / total)) if total else 0.0 for value in (*kept, *chance)
    ]
    return LeftOut(
        both=wrong[0], a=wrong[1], b=wrong[2], chance=wrong[3], chance_a=wrong[4], chance_b=wrong[5]
    )


def joint_saving(found: Stack, step: float) -> tuple[float, float, int]:
    """Estimate what a basis fitted to a whole stack saves.

    Rows are Gaussian (see `rates`). A basis of k directions costs k rows of the width, each as
    precise as its energy in all adapters deserves, and k coefficients a row; the rest of every row
    is coded as its own. The k that costs least is taken, 0 among them.

    Args:
        found: The stack.
        step: The quantiser's step in the units of the stack.

    Returns:
        Bits without a basis, bits that the basis saves at equal distortion, and its k.
    """
    energy = found.coefficients.square() / step**2
    left = torch.cat([energy.sum(1, keepdim=True), energy], 1)
    left = torch.cat([left[:, :1], left[:, :1] - left[:, 1:].cumsum(1)], 1).clamp_min(0)
    tried = sorted(
        {
            0,
            *torch.logspace(0, 3, _SIZES_TRIED, dtype=torch.float32, device="cpu")
            .round()
            .long()
            .clamp_max(energy.shape[1])
            .tolist(),
        }
    )
    m, rows = found.width, len(energy)
    strength = found.energies / step**2
    of_direction = torch.cat(
        [
            torch.zeros(1, dtype=torch.float64, device="cpu"),
            (m * cost(strength / m) + rows * bits(strength / rows)).cumsum(0),
        ]
    )
    price = torch.stack([m * cost(left[:, k] / m).sum() + of_direction[k] for k in tried])
    best = int(price.argmin())
    return float(m * bits(left[:, 0] / m).sum()), float(price[0] - price[best]), tried[best]


def _product(a: Tensor, b: Tensor) -> Tensor:
    return ((a @ a.T) * (b @ b.T)).sum()
