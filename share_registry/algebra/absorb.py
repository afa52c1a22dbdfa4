"""Code one adapter: from the factors of its modules to the integers that are stored.

An adapter is worth storing coarsely, because a small error of dW hardly changes what the model
does; how large it may be is the budget, |dW' - dW| / |dW| over all modules together. Everything
here serves one question: which integers meet the budget in the fewest bytes?

1. Every module goes into the balanced gauge (`gauge.balance`): both factors are rows of falling
   strength at right angles to one another, so each row can be coded on its own.
2. All rows of all modules are rounded with one step, measured as an error of dW (`batch.code`).
   Strong rows then get many bits, weak ones few and the weakest none, which is reverse
   water-filling: the split of bits that is best for Gaussian rows.
3. The step is bisected on the true error, that of the factors as decoded and rounded by export
   (`step.search`), until it just meets the budget.
4. At that step each module chooses what it is coded against: nothing, its previous version, rows
   of earlier adapters (`plan_references`). What is left to round is smaller, the step
   stays the same, so bits are saved at equal error. The step is then searched once more.

The result is the smallest of three: with references, without, and the tensors bit for bit.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Final

import numpy as np
import torch
from torch import Tensor

from share_registry.algebra.batch import Batch, DTypes, batches
from share_registry.algebra.error import FactorPair
from share_registry.algebra.prediction_plan import Modules, Previous, plan_references
from share_registry.algebra.quantise import Integers, Prediction, Rows
from share_registry.algebra.step import CodedBatches, search
from share_registry.stored import StoredModule, StoredSide, Term

# Coded bytes below this share of what the tensors have of information, as a sample of their words
# tells: no need to see what byte planes would take
_SURELY_SMALLER: Final = 0.8
_WORDS: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedAdapter:
    """An adapter in integers.

    Attributes:
        modules: By position of the pairs; None: keep the module's tensors verbatim.
        sources: Positions of the candidates that are referred to; `Term.source` counts in this
            order.
        error: Pooled relative error of the scaled dW of the decoded, exported adapter.
        previous: Whether any module builds on the previous version.
    """

    modules: tuple[StoredModule | None, ...]
    sources: tuple[int, ...]
    error: float
    previous: bool


def absorb(
    pairs: Sequence[FactorPair],
    *,
    budget: float,
    dtypes: Sequence[DTypes],
    candidates: Sequence[Modules] = (),
    previous: Previous | None = None,
    factors: Sequence[int] | None = None,
    size: Callable[[CodedAdapter], int] | None = None,
    pseudo_rank: int | None = None,
) -> CodedAdapter:
    """Code an adapter within its budget in the fewest bytes.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64, on the device that is to compute.
        budget: Largest pooled relative error of the scaled dW; 0 keeps everything verbatim.
        dtypes: Element types of A and B per module, to which export rounds.
        candidates: Stored modules of earlier adapter objects in the order of the pairs, None where
            one has none: their own rows may be referred to. Those of the previous version and of
            what it refers to belong here too: rows of its own predict better than its product.
        previous: Decoded float32 factors (a, b) of an earlier version per module; None where it has
            none.
        factors: Modules with equal numbers lie in the same tensors: they are coded, or kept
            verbatim, together. Default: each on its own.
        size: Bytes of a coding as the format writes it; decides between codings. Default: the
            first that meets the budget is taken.
        pseudo_rank: Keep at most this many directions of every module, the leading ones; the
            previous version is then not built upon.

    Returns:
        The coded adapter; all modules None where no coding meets the budget, or none is smaller.
    """
    verbatim = CodedAdapter(modules=(None,) * len(pairs), sources=(), error=0.0, previous=False)
    if budget <= 0.0:
        return verbatim
    is_cut = pseudo_rank is not None and any(pair.a.shape[0] > pseudo_rank for pair in pairs)
    options = _codings(
        pairs,
        budget=budget,
        dtypes=dtypes,
        candidates=candidates,
        previous=() if is_cut or previous is None else previous,
        factors=factors,
        pseudo_rank=pseudo_rank,
    )
    if not options:
        return verbatim
    if size is None:
        return options[0]
    sizes = [size(option) for option in options]
    least = min(sizes)
    best = options[sizes.index(least)]
    coded = zip(pairs, best.modules, strict=True)
    told = _SURELY_SMALLER * _information([pair for pair, module in coded if module is not None])
    # under a pseudo-rank the tensors bit for bit are no option: they have all directions
    if is_cut or least < told or least < size(verbatim):
        return best
    return verbatim


def bfloat16_above(value: float) -> float:
    """Return the smallest bfloat16 value that is not below a non-negative number."""
    nearest = np.float32(value)
    above = nearest if float(nearest) >= value else np.nextafter(nearest, np.float32(np.inf))
    return float(np.uint32((int(above.view(np.uint32)) + 0xFFFF) & 0xFFFF0000).view(np.float32))


def _codings(
    pairs: Sequence[FactorPair],
    *,
    budget: float,
    dtypes: Sequence[DTypes],
    candidates: Sequence[Modules],
    previous: Previous,
    factors: Sequence[int] | None,
    pseudo_rank: int | None,
) -> list[CodedAdapter]:
    """Return codings within the budget, the one with references first; none where there is none.

    What they were made with is given up.
    """
    plain = list(batches(pairs, dtypes, range(len(pairs)), pseudo_rank=pseudo_rank))
    energy = [0.0] * len(pairs)
    for batch in plain:
        for position, value in zip(batch.positions, batch.energy.tolist(), strict=True):
            energy[position] = value
    positions = _codable(energy, factors)
    if not positions:
        return []
    total = sum(energy)
    plain = [part for batch in plain if (part := batch.of(positions)) is not None]
    coding = search(plain, budget=budget, total=total)
    if coding is None:
        return []
    options = [_assemble(len(pairs), plain, coding)]
    if candidates or previous:
        batched = plan_references(plain, coding.steps, candidates=candidates, previous=previous)
        if any(rows.has_references for batch in batched for rows in (batch.a, batch.b)):
            better = search(batched, budget=budget, total=total, start=coding.delta)
            if better is not None:
                options.insert(0, _assemble(len(pairs), batched, better))
    return options


def _codable(energy: Sequence[float], factors: Sequence[int] | None) -> frozenset[int]:
    """Return the modules with a finite product, unless one in the same tensors has none."""
    together = range(len(energy)) if factors is None else factors
    barred = {
        factor for factor, value in zip(together, energy, strict=True) if not 0.0 < value < inf
    }
    return frozenset(position for position, factor in enumerate(together) if factor not in barred)


def _information(pairs: Sequence[FactorPair]) -> float:
    """Estimate the bytes that the tensors have of information, if their numbers are independent.

    From the entropy of the leading 16 bits of a sample: that of few numbers is at most their log,
    and the rest of a number is left out.
    """
    count = sum(pair.a.numel() + pair.b.numel() for pair in pairs)
    every = max(1, count // _WORDS)
    words = torch.cat(
        [
            x[:, ::every].to("cpu", torch.bfloat16).reshape(-1)
            for pair in pairs
            for x in (pair.a, pair.b)
        ]
    )
    counts = np.unique(words.view(torch.int16).numpy(), return_counts=True)[1]
    share = counts / counts.sum()
    return count / 8.0 * -float((share * np.log2(share)).sum())


def _assemble(count: int, batched: Sequence[Batch], coding: CodedBatches) -> CodedAdapter:
    """Return the stored value of coded batches; modules in no batch are kept verbatim."""
    used = sorted(
        {
            source
            for batch in batched
            for prediction in (batch.a.prediction, batch.b.prediction)
            if prediction is not None
            for source, is_used in zip(
                prediction.sources, prediction.used.any(0).tolist(), strict=True
            )
            if is_used
        }
    )
    modules: list[StoredModule | None] = [None] * count
    for batch, coded in zip(batched, coding.coded, strict=True):
        errors = (coded.wrong / batch.energy).tolist()
        for index, position in enumerate(batch.positions):
            modules[position] = StoredModule(
                a=_side(batch.a, coded.a, index, used),
                b=_side(batch.b, coded.b, index, used),
                error=bfloat16_above(sqrt(errors[index])),
            )
    return CodedAdapter(
        modules=tuple(modules),
        sources=tuple(used),
        error=coding.error,
        previous=any(batch.a.previous is not None for batch in batched),
    )


def _side(rows: Rows, coded: Integers, index: int, used: Sequence[int]) -> StoredSide:
    return StoredSide(
        previous=rows.previous is not None,
        terms=tuple(_terms(rows.prediction, coded.coefficients, index, used)),
        scales=coded.scales[index].numpy(),
        own=coded.own[index].numpy(),
    )


def _terms(
    prediction: Prediction | None, coefficients: Tensor | None, index: int, used: Sequence[int]
) -> Iterator[Term]:
    if prediction is None or coefficients is None:
        return
    for t, (source, (start, _), block) in enumerate(
        zip(prediction.sources, prediction.spans, prediction.blocks, strict=True)
    ):
        rows = block[index]
        if rows is not None and bool(prediction.used[index, t]):
            yield Term(
                source=used.index(source),
                exponent=int(prediction.exponents[index, t]),
                coefficients=coefficients[index, :, start : start + len(rows)].numpy(),
            )
