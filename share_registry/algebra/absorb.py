"""Absorb: one adapter, as handed in, to the integers that are stored (DESIGN 2.1)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from share_registry.algebra.batch import Batch, batches, codable
from share_registry.algebra.error import Pair
from share_registry.algebra.plan import Previous, planned, refers
from share_registry.algebra.quantise import CodedRows, Prediction, Rows
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
    nothing = Absorbed(modules=(None,) * len(pairs), sources=(), error=0.0, previous=False)
    positions = _positions(pairs, factors)
    if budget <= 0.0 or not positions:
        return nothing
    plain = list(batches(pairs, dtypes, positions))
    found = search(plain, budget=budget)
    if found is None:
        return nothing
    outcomes = [_outcome(len(pairs), plain, found, candidates)]
    if references and (candidates or previous):
        outcomes = _with_references(plain, found, budget, candidates, previous or (), len(pairs)) + outcomes
    return outcomes[0] if size is None else min((*outcomes, nothing), key=size)


def _with_references(plain: Sequence[Batch], found: Found, budget: float, candidates: Sequence[Candidate], previous: Previous, count: int) -> list[Absorbed]:
    """Return the outcome with the references that pay at the step found without them; none where nothing pays."""
    modules = [candidate.modules for candidate in candidates]
    for _ in range(1):
        batched = [part for batch, steps in zip(plain, found.steps, strict=True) for part in planned(batch, steps, candidates=modules, previous=previous)]
        if not any(refers(batch) for batch in batched):
            return []
        better = search(batched, budget=budget, start=found.delta)
        if better is None:
            return []
        return [_outcome(count, batched, better, candidates)]
    return []


def _positions(pairs: Sequence[Pair], factors: Sequence[int] | None) -> list[int]:
    """Return the modules to code: those with a product, unless a module in the same tensors has none."""
    able = codable(pairs)
    together = list(range(len(pairs))) if factors is None else list(factors)
    barred = {factor for factor, yes in zip(together, able, strict=True) if not yes}
    return [position for position, factor in enumerate(together) if factor not in barred]


def _outcome(count: int, coded_batches: Sequence[Batch], found: Found, candidates: Sequence[Candidate]) -> Absorbed:
    used = sorted(
        {prediction.sources[t] for batch in coded_batches for prediction in _predictions(batch) for t in torch.nonzero(prediction.used.any(0))[:, 0].tolist()}
    )
    modules: list[StoredModule | None] = [None] * count
    for batch, coded in zip(coded_batches, found.coded, strict=True):
        for index, position in enumerate(batch.positions):
            error = sqrt(float(coded.wrong[index] / batch.energy[index]))
            sides = [_side(rows, integers, index, used) for rows, integers in ((batch.a, coded.a), (batch.b, coded.b))]
            modules[position] = StoredModule(a=sides[0], b=sides[1], error=_bfloat16_above(error))
    return Absorbed(
        modules=tuple(modules),
        sources=tuple(candidates[index].source for index in used),
        error=found.error,
        previous=any(batch.a.previous is not None for batch in coded_batches),
    )


def _predictions(batch: Batch) -> list[Prediction]:
    return [rows.prediction for rows in (batch.a, batch.b) if rows.prediction is not None]


def _side(rows: Rows, coded: CodedRows, index: int, used: Sequence[int]) -> StoredSide:
    return StoredSide(
        previous=rows.previous is not None,
        terms=tuple(_terms(rows.prediction, coded.coefficients, index, used)),
        scales=coded.scales[index].numpy().astype(np.float32),
        own=_integers(coded.own[index]),
    )


def _terms(prediction: Prediction | None, coefficients: Tensor | None, index: int, used: Sequence[int]) -> Iterator[Term]:
    if prediction is None or coefficients is None:
        return
    for t, (source, (start, _)) in enumerate(zip(prediction.sources, prediction.spans, strict=True)):
        rows = prediction.blocks[t][index]
        if bool(prediction.used[index, t]) and rows is not None:
            C = coefficients[index, :, start : start + len(rows)]
            yield Term(source=used.index(source), exponent=int(prediction.exponents[index, t]), coefficients=_integers(C))


def _integers(values: Tensor) -> NDArray[np.int32]:
    return values.to(torch.int32).numpy()


def _bfloat16_above(value: float) -> float:
    """Return the smallest bfloat16 value that is not below a non-negative number."""
    bits = int(np.float32(value).view(np.uint32))
    if float(np.uint32(bits).view(np.float32)) < value:
        bits += 1
    return float(np.uint32((bits + 0xFFFF) & 0xFFFF0000).view(np.float32))
