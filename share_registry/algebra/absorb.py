"""Absorb: one adapter, as handed in, to the integers that are stored (DESIGN 2.1)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from share_registry.algebra.batch import Batch, CodedBatch, batches, codable
from share_registry.algebra.error import Pair
from share_registry.algebra.quantise import CodedRows, Rows
from share_registry.algebra.search import Found, search
from share_registry.stored import StoredModule, StoredSide, Term

DTypes = tuple[torch.dtype, torch.dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An earlier adapter object whose own rows may be referred to.

    Attributes:
        source: The caller's number for it; comes back in `Absorbed.sources`.
        modules: Its stored modules in the order of the caller's pairs; None where it has none that fits.
    """

    source: int
    modules: Sequence[StoredModule | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorbed:
    """An adapter in integers.

    Attributes:
        modules: By position of the pairs; None: keep the module's tensors verbatim.
        sources: Numbers of the candidates that are referred to; `Term.source` counts in this order.
        error: Pooled relative error of the scaled dW of the decoded, exported adapter.
        previous: Whether any module builds on the previous version.
    """

    modules: tuple[StoredModule | None, ...]
    sources: tuple[int, ...]
    error: float
    previous: bool


def absorb(
    pairs: Sequence[Pair],
    *,
    budget: float,
    dtypes: Sequence[DTypes],
    candidates: Sequence[Candidate] = (),
    previous: Sequence[tuple[Tensor, Tensor] | None] | None = None,
    references: bool = True,
    factors: Sequence[int] | None = None,
    size: Callable[[Absorbed], int] | None = None,
) -> Absorbed:
    """Code an adapter within its budget, in the fewest bytes of the ways there are.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64.
        budget: Largest pooled relative error of the scaled dW; 0 keeps everything verbatim.
        dtypes: Element types of A and B per module, to which export rounds.
        candidates: Earlier adapter objects, most promising first.
        previous: Decoded float32 factors (a, b) of an earlier version per module; None where it has none of the same shape.
        references: Whether candidates and previous may be used at all.
        factors: Modules with equal numbers lie in the same tensors: they are coded, or kept verbatim, together. Default: each on its own.
        size: Bytes of an outcome as the format writes it; decides between outcomes. Default: what refers to something is taken to be smaller.

    Returns:
        The outcome; all modules None where the budget cannot be met by coding, or coding would not be smaller.
    """
    del candidates, previous, references
    nothing = Absorbed(modules=(None,) * len(pairs), sources=(), error=0.0, previous=False)
    positions = _positions(pairs, factors)
    if budget <= 0.0 or not positions:
        return nothing
    plain = list(batches(pairs, dtypes, positions))
    found = search(plain, budget=budget)
    if found is None:
        return nothing
    outcomes = [_outcome(len(pairs), plain, found), nothing]
    return outcomes[0] if size is None else min(outcomes, key=size)


def _positions(pairs: Sequence[Pair], factors: Sequence[int] | None) -> list[int]:
    """Return the modules to code: those with a product, unless a module in the same tensors has none."""
    able = codable(pairs)
    together = list(range(len(pairs))) if factors is None else list(factors)
    barred = {factor for factor, yes in zip(together, able, strict=True) if not yes}
    return [position for position, factor in enumerate(together) if factor not in barred]


def _outcome(count: int, plain: Iterable[Batch], found: Found) -> Absorbed:
    modules: list[StoredModule | None] = [None] * count
    for batch, coded in zip(plain, found.coded, strict=True):
        for index, position in enumerate(batch.positions):
            modules[position] = _module(batch, coded, index)
    return Absorbed(modules=tuple(modules), sources=(), error=found.error, previous=False)


def _module(batch: Batch, coded: CodedBatch, index: int) -> StoredModule:
    error = sqrt(float(coded.wrong[index] / batch.energy[index]))
    return StoredModule(a=_side(batch.a, coded.a, index), b=_side(batch.b, coded.b, index), error=_bfloat16_above(error))


def _side(rows: Rows, coded: CodedRows, index: int) -> StoredSide:
    terms: tuple[Term, ...] = ()
    return StoredSide(previous=rows.previous is not None, terms=terms, scales=coded.scales[index].numpy().astype(np.float32), own=_integers(coded.own[index]))


def _integers(values: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    return values.to(torch.int32).numpy()


def _bfloat16_above(value: float) -> float:
    """Return the smallest bfloat16 value that is not below a non-negative number."""
    bits = int(np.float32(value).view(np.uint32))
    if float(np.uint32(bits).view(np.float32)) < value:
        bits += 1
    return float(np.uint32((bits + 0xFFFF) & 0xFFFF0000).view(np.float32))
