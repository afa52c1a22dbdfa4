"""Merges of task updates: on dW, never on the factors, without forming a matrix of size out x in.

The weighted sum is exact: factors of all tasks one above the other are a factorization of it. TIES
and DARE choose entry by entry, so they need coordinates in which entries of different tasks mean
the same. These are the ones of KnOTS (arXiv 2410.19735): the SVD of the updates side by side, [dW_1
... dW_n] = U S [V_1^T ... V_n^T], gives every task the entries S V_i^T over one basis U.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

import numpy as np
import torch
from numpy.random import Philox
from torch import Tensor

from share_registry.algebra.error import FactorPair
from share_registry.algebra.gauge import balance
from share_registry.algebra.solve import svd

Method = Literal["linear", "ties", "dare"]
# Share of the entries kept where the caller says nothing. A fifth, as in the TIES paper (arXiv
# 2306.01708); for DARE half of them, where the noise that rescaling makes is as large as the update
# (relative to it sqrt(1 / density - 1)). The DARE paper (arXiv 2311.03099) drops more, from full
# fine-tunings.
DENSITIES: Final = {"ties": 0.2, "dare": 0.5}
_EPSILON: Final = torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRule:
    """How updates are merged.

    Attributes:
        method: See `merge_rows`.
        density: Share of the entries of every task that are kept; 1 for linear.
        seed: Of the entries that DARE keeps.
    """

    method: Method
    density: float = 1.0
    seed: int = 0


def merge_rows(
    pairs: Sequence[FactorPair | None], weights: Sequence[float], *, module: str, rule: MergeRule
) -> tuple[Tensor, Tensor]:
    """Merge one module: return dW = b^T a as factors in the balanced gauge.

    linear: sum_i w_i dW_i. dare: the same of entries S V_i^T of which each is kept with probability
    `density` and then divided by it; which ones depends on the seed, the module and the task's
    position alone. ties: each task's entries are trimmed to the largest `density` of them; the sign
    of each entry is that of sum_i w_i t_i; merged is the mean over the tasks with that sign,
    weighted: sum w_i t_i / sum |w_i|. With equal weights, of whatever size, that is the paper's
    disjoint mean (and PEFT's for weights of 1); PEFT divides weighted entries by their count, by
    which two equal tasks at one half each come out as half of themselves. Where all tasks are equal
    nothing interferes, and nothing is trimmed.

    Args:
        pairs: The module's factors in each task, float64; None where the task does not have it,
            which counts as zero.
        weights: One per task.
        module: Its name, by which random choices are told apart.
        rule: What to do.

    Returns:
        a (r, in) and b (r, out), float64; r at most min(sum r_i, in, out), without the rows that
        are zero but for rounding.
    """
    present = [
        (position, pair, weight)
        for position, (pair, weight) in enumerate(zip(pairs, weights, strict=True))
        if pair is not None
    ]
    if rule.method == "linear":
        return _reduced(
            torch.cat([pair.a for _, pair, _ in present]),
            torch.cat([weight * pair.scale * pair.b for _, pair, weight in present]),
        )
    U, entries = common_entries([pair for _, pair, _ in present])
    if rule.method == "dare":
        kept = [
            weight * drop_entries(t, rule, f"{module}/{position}")
            for t, (position, _, weight) in zip(entries, present, strict=True)
        ]
        return _reduced(torch.stack(kept).sum(0), U.mT)
    first = present[0][1]
    alike = len(present) == len(pairs) and all(
        torch.equal(pair.a, first.a) and torch.equal(pair.scale * pair.b, first.scale * first.b)
        for _, pair, _ in present
    )
    trimmed = entries if alike else [trim(t, rule.density) for t in entries]
    return _reduced(disjoint_mean(trimmed, [weight for _, _, weight in present]), U.mT)


def common_entries(pairs: Sequence[FactorPair]) -> tuple[Tensor, list[Tensor]]:
    """Return U (out, k) with orthonormal columns and S V_i^T (k, in) of every task.

    dW_i = U S V_i^T, from QRs of the factors and the SVD of their small cores.
    """
    Q_b, R_b = torch.linalg.qr(torch.cat([pair.scale * pair.b for pair in pairs]).mT)
    sides = [torch.linalg.qr(pair.a.mT) for pair in pairs]
    parts = R_b.split([len(pair.a) for pair in pairs], dim=1)
    cores = [R_i @ R.mT for R_i, (_, R) in zip(parts, sides, strict=True)]
    U, sigma, _ = svd(torch.cat(cores, dim=1))
    U = U[:, : max(1, _rank(sigma, max(Q_b.shape[0], pairs[0].a.shape[1])))]
    return Q_b @ U, [U.mT @ core @ Q.mT for core, (Q, _) in zip(cores, sides, strict=True)]


def trim(t: Tensor, density: float) -> Tensor:
    """Return a task's entries with all but the largest `density` of them set to zero."""
    count = int(density * t.numel())
    kept = torch.zeros(t.numel(), dtype=torch.bool, device="cpu")
    kept[t.abs().flatten().topk(count).indices] = True
    return t * kept.reshape(t.shape)


def disjoint_mean(entries: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the weighted mean of the entries that agree in sign with their weighted sum.

    Zero where none does.
    """
    w = torch.tensor(weights, dtype=torch.float64, device="cpu")[:, None, None]
    weighted = w * torch.stack(list(entries))
    agree = (weighted.sign() == weighted.sum(0).sign()) & (weighted != 0)
    total = (agree * w.abs()).sum(0)
    mean = (weighted * agree).sum(0) / torch.where(total > 0, total, 1.0)
    return torch.where(total > 0, mean, 0.0)


def drop_entries(t: Tensor, rule: MergeRule, name: str) -> Tensor:
    """Return a task's entries, each kept with probability `density` and divided by it.

    Philox counts its draws: the choice is the same on every machine.
    """
    key = int.from_bytes(sha256(f"{rule.seed}/{name}".encode()).digest()[:16], "little")
    draws = Philox(key=key).random_raw(t.numel()) >> np.uint64(11)
    kept = torch.from_numpy(draws < np.uint64(int(rule.density * 2**53)))
    return t * kept.reshape(t.shape) / rule.density


def _reduced(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return factors in the balanced gauge without the rows that are zero but for rounding."""
    X_a, X_b, sigma = balance(a[None], b[None])
    rank = _rank(sigma[0], max(a.shape[1], b.shape[1]), largest=float(a.norm() * b.norm()))
    return X_a[0, :rank], X_b[0, :rank]


def _rank(sigma: Tensor, size: int, largest: float = 0.0) -> int:
    """Return how many singular values are more than rounding makes of zero."""
    return int((sigma > _EPSILON * size * max(float(sigma.max()), largest)).sum())
