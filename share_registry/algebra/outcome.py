"""From batches back to modules: the stored value of an absorbed adapter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from share_registry.algebra.batch import Batch, CodedBatch
from share_registry.algebra.quantise import Integers, Prediction, Rows
from share_registry.stored import StoredModule, StoredSide, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An earlier adapter object whose own rows may be referred to.

    Attributes:
        source: The caller's number for it; comes back in `Absorbed.sources`.
        modules: Its stored modules in the order of the caller's pairs; None where it has none.
    """

    source: int
    modules: Sequence[StoredModule | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedAdapter:
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


def nothing(count: int) -> CodedAdapter:
    """Return the outcome that keeps every module verbatim."""
    return CodedAdapter(modules=(None,) * count, sources=(), error=0.0, previous=False)


def outcome(
    count: int,
    batched: Sequence[Batch],
    coded: Sequence[CodedBatch],
    candidates: Sequence[Candidate],
    *,
    error: float,
) -> CodedAdapter:
    """Return the stored value of coded batches; modules in no batch are kept verbatim."""
    used = sorted(
        {
            source
            for batch in batched
            for rows in (batch.a, batch.b)
            for source in _used(rows.prediction)
        }
    )
    modules: list[StoredModule | None] = [None] * count
    for batch, made in zip(batched, coded, strict=True):
        sides, shares = (made.a.cpu(), made.b.cpu()), (made.wrong / batch.energy).tolist()
        for index, position in enumerate(batch.positions):
            a, b = _side(batch.a, sides[0], index, used), _side(batch.b, sides[1], index, used)
            modules[position] = StoredModule(a=a, b=b, error=bfloat16_above(sqrt(shares[index])))
    return CodedAdapter(
        modules=tuple(modules),
        sources=tuple(candidates[index].source for index in used),
        error=error,
        previous=any(batch.a.previous is not None for batch in batched),
    )


def _used(prediction: Prediction | None) -> list[int]:
    return (
        []
        if prediction is None
        else [
            source
            for source, any_uses in zip(
                prediction.sources, prediction.used.any(0).tolist(), strict=True
            )
            if any_uses
        ]
    )


def _side(rows: Rows, coded: Integers, index: int, used: Sequence[int]) -> StoredSide:
    return StoredSide(
        previous=rows.previous is not None,
        terms=tuple(_terms(rows.prediction, coded.coefficients, index, used)),
        scales=coded.scales[index].numpy(),
        own=coded.own[index].numpy(),
    )


def _terms(
    prediction: Prediction | None,
    coefficients: torch.Tensor | None,
    index: int,
    used: Sequence[int],
) -> Iterator[Term]:
    if prediction is None or coefficients is None:
        return
    for t, source in enumerate(prediction.sources):
        rows = prediction.blocks[t][index]
        if rows is not None and bool(prediction.used[index, t]):
            start = prediction.spans[t][0]
            C: NDArray[np.int32] = coefficients[index, :, start : start + len(rows)].numpy()
            yield Term(
                source=used.index(source),
                exponent=int(prediction.exponents[index, t]),
                coefficients=C,
            )


def bfloat16_above(value: float) -> float:
    """Return the smallest bfloat16 value that is not below a non-negative number."""
    nearest = np.float32(value)
    above = nearest if float(nearest) >= value else np.nextafter(nearest, np.float32(np.inf))
    bits = (int(above.view(np.uint32)) + 0xFFFF) & 0xFFFF0000
    return float(np.uint32(bits).view(np.float32))
