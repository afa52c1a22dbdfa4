"""Absorb: one adapter, as handed in, to the integers that are stored.

The modules go into the balanced gauge, the step that meets the budget is found without references,
each module then takes the references that cost it least at that step, and the step is found again.
What is written is the smallest of three: with references, without, verbatim.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch

from share_registry.algebra.batch import Batch, batches, energies
from share_registry.algebra.error import ScaledPair
from share_registry.algebra.outcome import Candidate, CodedAdapter, nothing, outcome
from share_registry.algebra.prediction_plan import Previous, planned, refers
from share_registry.algebra.search import Found, search

DTypes = tuple[torch.dtype, torch.dtype]

_SURELY_SMALLER: Final = 0.3
"""Coded bytes below this share of the raw bytes: no need to see what byte planes would take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _AbsorbJob:
    """What `absorb` was asked, and |s dW|^2 of the whole adapter."""

    pairs: Sequence[ScaledPair]
    positions: Sequence[int]
    dtypes: Sequence[DTypes]
    budget: float
    total: float
    candidates: Sequence[Candidate]
    previous: Previous
    pseudo_rank: int | None


def absorb(
    pairs: Sequence[ScaledPair],
    *,
    budget: float,
    dtypes: Sequence[DTypes],
    candidates: Sequence[Candidate] = (),
    previous: Previous | None = None,
    references: bool = True,
    factors: Sequence[int] | None = None,
    size: Callable[[CodedAdapter], int] | None = None,
    pseudo_rank: int | None = None,
) -> CodedAdapter:
    """Code an adapter within its budget, in the fewest bytes of the ways there are.

    Args:
        pairs: The modules: dW = scale * b^T a; finite float64, on the device that is to compute.
        budget: Largest pooled relative error of the scaled dW; 0 keeps everything verbatim.
        dtypes: Element types of A and B per module, to which export rounds.
        candidates: Earlier adapter objects. Those of the previous version and of what it refers to
            belong here too: rows of its own predict better than its product.
        previous: Decoded float32 factors (a, b) of an earlier version per module; None where it has
            none.
        references: Whether candidates and previous may be used at all.
        factors: Modules with equal numbers lie in the same tensors: they are coded, or kept
            verbatim, together. Default: each on its own.
        size: Bytes of an outcome as the format writes it; decides between outcomes. Default: the
            first outcome that meets the budget is taken.
        pseudo_rank: Keep at most this many directions of every module, the leading ones; the
            previous version is then not built upon.

    Returns:
        The outcome; all modules None where the budget cannot be met by coding, or coding would not
        be smaller.
    """
    energy = energies(pairs)
    job = _AbsorbJob(
        pairs=pairs,
        positions=_positions(energy, factors),
        dtypes=dtypes,
        budget=budget,
        total=sum(energy),
        candidates=candidates if references else (),
        previous=(previous or ()) if references and not _cuts(pairs, pseudo_rank) else (),
        pseudo_rank=pseudo_rank,
    )
    outcomes = _outcomes(job) if budget > 0.0 and job.positions else iter(())
    verbatim = nothing(len(pairs))
    if size is None:
        return next(outcomes, verbatim)
    best, best_bytes = verbatim, None
    cut = _cuts(pairs, pseudo_rank)
    for found in outcomes:
        found_bytes = size(found)
        if best_bytes is None or found_bytes < best_bytes:
            best, best_bytes = found, found_bytes
    if best_bytes is None or cut or best_bytes < _SURELY_SMALLER * _raw_bytes(job):
        return best
    return best if best_bytes < size(verbatim) else verbatim


def _outcomes(job: _AbsorbJob) -> Iterator[CodedAdapter]:
    """Yield what meets the budget: with references where any pay, then without."""
    plain = list(batches(job.pairs, job.dtypes, job.positions, pseudo_rank=job.pseudo_rank))
    found = search(plain, budget=job.budget, total=job.total)
    if found is None:
        return
    if job.candidates or job.previous:
        yield from _with_references(job, plain, found)
    yield outcome(len(job.pairs), plain, found.coded, job.candidates, error=found.error)


def _with_references(
    job: _AbsorbJob, plain: Sequence[Batch], found: Found
) -> Iterator[CodedAdapter]:
    modules = [candidate.modules for candidate in job.candidates]
    batched = planned(plain, found.steps, candidates=modules, previous=job.previous)
    if not any(refers(batch) for batch in batched):
        return
    better = search(batched, budget=job.budget, total=job.total, start=found.delta)
    if better is not None:
        yield outcome(len(job.pairs), batched, better.coded, job.candidates, error=better.error)


def _cuts(pairs: Sequence[ScaledPair], pseudo_rank: int | None) -> bool:
    return pseudo_rank is not None and any(pair.a.shape[0] > pseudo_rank for pair in pairs)


def _positions(energy: Sequence[float], factors: Sequence[int] | None) -> list[int]:
    """Return the modules to code.

    Those with a finite product, unless a module in the same tensors has none.
    """
    together = range(len(energy)) if factors is None else factors
    barred = {
        factor
        for factor, value in zip(together, energy, strict=True)
        if not 0.0 < value < float("inf")
    }
    return [position for position, factor in enumerate(together) if factor not in barred]


def _raw_bytes(job: _AbsorbJob) -> int:
    return sum(
        job.pairs[position].a.numel() * job.dtypes[position][0].itemsize
        + job.pairs[position].b.numel() * job.dtypes[position][1].itemsize
        for position in job.positions
    )
