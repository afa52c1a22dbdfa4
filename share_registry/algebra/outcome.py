"""From batches back to modules: the stored value of a coded adapter."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from share_registry.algebra.batch import Batch
from share_registry.algebra.quantise import Integers, Prediction, Rows
from share_registry.algebra.search import CodedBatches
from share_registry.stored import StoredModule, StoredSide, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An earlier adapter object whose own rows may be referred to.

    Attributes:
        source: The caller's number for it; comes back in `CodedAdapter.sources`.
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


def all_verbatim(count: int) -> CodedAdapter:
    """Return the coding that keeps every module verbatim."""
    return CodedAdapter(modules=(None,) * count, sources=(), error=0.0, previous=False)


def assemble(
    count: int, batched: Sequence[Batch], coding: CodedBatches, candidates: Sequence[Candidate]
) -> CodedAdapter:
    """Return the stored value of coded batches; modules in no batch are kept verbatim."""
    predictions = [
        rows.prediction
        for batch in batched
        for rows in (batch.a, batch.b)
        if rows.prediction is not None
    ]
    used = sorted(
        {
            source
            for prediction in predictions
            for source, is_used in zip(
                prediction.sources, prediction.used.any(0).tolist(), strict=True
            )
            if is_used
        }
    )
    modules: list[StoredModule | None] = [None] * count
    for batch, coded in zip(batched, coding.coded, strict=True):
        a, b = coded.a.cpu(), coded.b.cpu()
        errors = (coded.wrong / batch.energy).tolist()
        for index, position in enumerate(batch.positions):
            modules[position] = StoredModule(
                a=_side(batch.a, a, index, used),
                b=_side(batch.b, b, index, used),
                error=bfloat16_above(sqrt(errors[index])),
            )
    return CodedAdapter(
        modules=tuple(modules),
        sources=tuple(candidates[index].source for index in used),
        error=coding.error,
        previous=any(batch.a.previous is not None for batch in batched),
    )


def bfloat16_above(value: float) -> float:
    """Return the smallest bfloat16 value that is not below a non-negative number."""
    nearest = np.float32(value)
    above = nearest if float(nearest) >= value else np.nextafter(nearest, np.float32(np.inf))
    bits = (int(above.view(np.uint32)) + 0xFFFF) & 0xFFFF0000
    return float(np.uint32(bits).view(np.float32))


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
