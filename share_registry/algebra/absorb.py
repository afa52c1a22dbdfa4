"""Code one adapter: from the factors of its modules to the integers that are stored.

An adapter is worth storing coarsely, because a small error of dW hardly changes what the model
does; how large it may be is the budget, |dW' - dW| / |dW| over all modules together. Everything
here serves one question: which integers meet the budget in the fewest bytes?

1. Every module goes into the balanced gauge (`gauge.balanced`): both factors are rows of falling
   strength at right angles to one another, so each row can be coded on its own.
2. All rows of all modules are rounded with one step, measured as an error of dW (`batch.code`).
   Strong rows then get many bits, weak ones few and the weakest none, which is reverse
   water-filling: the split of bits that is best for Gaussian rows.
3. The step is bisected on the true error, that of the factors as decoded and rounded by export
   (`search.search`), until it just meets the budget.
4. At that step each module chooses what it is coded against: nothing, its previous version, rows
   of earlier adapters (`prediction_plan.planned`). What is left to round is smaller, the step
   stays the same, so bits are saved at equal error. The step is then searched once more.

The result is the smallest of three: with references, without, and the tensors bit for bit.
"""

from collections.abc import Callable, Sequence
from typing import Final

from share_registry.algebra.batch import DTypes, batches, energies
from share_registry.algebra.error import ScaledPair
from share_registry.algebra.outcome import Candidate, CodedAdapter, all_verbatim, assemble
from share_registry.algebra.prediction_plan import Previous, plan_references
from share_registry.algebra.search import search

# coded bytes below this share of the raw bytes: no need to see what byte planes would take
_SURELY_SMALLER: Final = 0.3


def absorb(
    pairs: Sequence[ScaledPair],
    *,
    budget: float,
    dtypes: Sequence[DTypes],
    candidates: Sequence[Candidate] = (),
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
        candidates: Earlier adapter objects. Those of the previous version and of what it refers to
            belong here too: rows of its own predict better than its product.
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
    energy = energies(pairs)
    positions = _codable(energy, factors)
    verbatim = all_verbatim(len(pairs))
    if budget <= 0.0 or not positions:
        return verbatim
    total = sum(energy)
    plain = list(batches(pairs, dtypes, positions, pseudo_rank=pseudo_rank))
    coding = search(plain, budget=budget, total=total)
    if coding is None:
        return verbatim
    is_cut = pseudo_rank is not None and any(pair.a.shape[0] > pseudo_rank for pair in pairs)
    options = [assemble(len(pairs), plain, coding, candidates)]
    if candidates or previous:
        batched = plan_references(
            plain,
            coding.steps,
            candidates=[candidate.modules for candidate in candidates],
            previous=() if is_cut or previous is None else previous,
        )
        refers = any(rows.has_references for batch in batched for rows in (batch.a, batch.b))
        better = search(batched, budget=budget, total=total, start=coding.delta) if refers else None
        if better is not None:
            options.insert(0, assemble(len(pairs), batched, better, candidates))
    if size is None:
        return options[0]
    sizes = [size(option) for option in options]
    least = min(sizes)
    best = options[sizes.index(least)]
    raw_bytes = sum(
        pairs[position].a.numel() * dtypes[position][0].itemsize
        + pairs[position].b.numel() * dtypes[position][1].itemsize
        for position in positions
    )
    # under a pseudo-rank the tensors bit for bit are no option: they have all directions
    if is_cut or least < _SURELY_SMALLER * raw_bytes or least < size(verbatim):
        return best
    return verbatim


def _codable(energy: Sequence[float], factors: Sequence[int] | None) -> list[int]:
    """Return the modules with a finite product, unless one in the same tensors has none."""
    together = range(len(energy)) if factors is None else factors
    barred = {
        factor
        for factor, value in zip(together, energy, strict=True)
        if not 0.0 < value < float("inf")
    }
    return [position for position, factor in enumerate(together) if factor not in barred]
