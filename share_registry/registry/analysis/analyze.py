"""Analyze adapters: what they share, what sharing would save, and what to make of it.

No registry is needed, and nothing is written.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor

from share_registry.algebra.overlap import distances, products, row_overlap
from share_registry.algebra.spectrum import Stack, Weighted, left_out, stack, weighted
from share_registry.catalog.queries import lookups
from share_registry.catalog.queries.resolution import space_of
from share_registry.errors import InvalidInputError, NotFoundError
from share_registry.names import Side
from share_registry.outside.files import Outside
from share_registry.registry.analysis.forecast import forecasts
from share_registry.registry.analysis.subjects import Progress, members
from share_registry.registry.analysis.verdict import CONTINUES, kinships, statements
from share_registry.registry.checkout.factored import FactoredAdapter, read_factored
from share_registry.registry.context import Context
from share_registry.values.analyses import (
    AnalysedAdapter,
    Analysis,
    Continued,
    LeaveOneOut,
    Spectrum,
)
from share_registry.values.policy import check_budget
from share_registry.values.units import percent

BUDGETS: Final = (0.01, 0.05, 0.1, 0.3)
_NEAR: Final = 1.0
"""An earlier adapter is tried as the version before where dW differs by less than its own size."""
_MAX_WORK: Final = 3e11
"""Multiplications of eigenproblems: half a minute on one core.

Beyond, modules and adapters are sampled evenly.
"""
_SHOWN: Final = (
    1,
    2,
    3,
    4,
    6,
    8,
    12,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
)
_Key = tuple[str, int, int]


def analyze(
    subject: Any, *, budgets: Sequence[float] = BUDGETS, progress: Progress | None = None
) -> Analysis:
    """Analyze adapters, in the order given.

    What they share, bytes at several budgets, and a verdict in words.

    All of them are held in memory. What is sampled because the collection is large stands in
    `notes`.

    Args:
        subject: Name -> PEFT directory, Adapter or live PEFT model; a list of directories or
            Adapters; a folder with adapter folders below it; or an open Registry or Space, of which
            the newest versions of the live tasks are taken.
        budgets: Pooled relative errors of scaled dW to forecast bytes for, above 0.
        progress: Called with what is being done, how many are done and how many there are.

    Raises:
        InvalidInputError: nothing that can be analyzed, or a budget that is none.
        NotFoundError: a directory is not there or holds no adapter.
        RefusedError: as `Registry.commit` refuses an adapter.
    """
    if isinstance(context := getattr(subject, "context", None), Context):
        return analyze_space(context, subject.scope, budgets=budgets, progress=progress)
    told = progress or _silent
    return analyze_members(
        members(subject, outside=Outside(), progress=told), budgets=budgets, progress=told
    )


def analyze_space(
    context: "Context",
    space: str | None,
    *,
    budgets: Sequence[float] = BUDGETS,
    progress: Progress | None = None,
) -> Analysis:
    """Analyze the newest versions of the live tasks of a space, as they are stored. See `analyze`.

    Raises NotFoundError where it has none.
    """
    told = progress or _silent
    with context.reading() as session:
        where = space_of(session, space)
        rows = lookups.latest_versions(session, where)
    if not rows:
        raise NotFoundError(
            f"space {where} has no live task.",
            hint="Commit adapters first, or analyze directories.",
        )
    found = []
    for done, row in enumerate(sorted(rows, key=lambda row: row.number), start=1):
        told(f"reading {row.ref}", done, len(rows))
        found.append(read_factored(context, row))
    lossy = max(row.error for row in rows)
    notes = (
        (
            f"adapters are taken as stored: at budgets near or below their errors (at most {percent(lossy)}) bytes are forecast too low.",
        )
        if lossy
        else ()
    )
    made = analyze_members(found, budgets=budgets, progress=told)
    return replace(made, notes=(*notes, *made.notes))


def analyze_members(
    found: Sequence[FactoredAdapter], *, budgets: Sequence[float], progress: Progress
) -> Analysis:
    """Analyze adapters that have been read."""
    wanted = tuple(sorted({_above_zero(budget) for budget in budgets}))
    if not wanted:
        raise InvalidInputError(
            "there is no budget to forecast bytes for.",
            hint="Give one or more relative errors: budgets=(0.01, 0.05).",
        )
    names = [member.name for member in found]
    close = _Closeness.of(found)
    parts = [weighted(member.pairs) for member in found]
    stacked, spectra, notes = _stacks(parts, progress)
    lost, more = _left_out(names, parts, progress)
    continued = _continued(names, close.distance)
    bytes_at = forecasts(
        found, budgets=wanted, before=_before(close.distance), stacks=stacked, progress=progress
    )
    kin = kinships(names, close.distance, close.a, close.b, close.chance, lost)
    said = statements(names, kin, continued, lost, bytes_at)
    return Analysis(
        adapters=tuple(_described(member) for member in found),
        verdict=" ".join(statement.text for statement in said),
        statements=said,
        forecasts=bytes_at,
        kinships=kin,
        continued=continued,
        leave_one_out=lost,
        spectra=spectra,
        break_even=_break_even(spectra),
        notes=(*notes, *more),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Closeness:
    """Relative distances (N, N), overlaps of the row spaces of A and B, and the chance of the former."""

    distance: Tensor
    a: Tensor
    b: Tensor
    chance: Tensor

    @classmethod
    def of(cls, found: Sequence[FactoredAdapter]) -> "_Closeness":
        pairs = [member.pairs for member in found]
        a, chance = row_overlap(pairs, Side.A)
        b, _ = row_overlap(pairs, Side.B)
        return cls(distance=distances(products(pairs)), a=a, b=b, chance=chance)


def _silent(doing: str, done: int, total: int) -> None:
    """Show nothing."""


def _above_zero(budget: float) -> float:
    if check_budget(budget) == 0:
        raise InvalidInputError(
            "budget 0 keeps every bit: there is nothing to forecast.", hint="Give budgets above 0."
        )
    return float(budget)


def _described(member: FactoredAdapter) -> AnalysedAdapter:
    rank = max((pair.a.shape[0] for pair in member.pairs), default=0)
    return AnalysedAdapter(
        name=member.name,
        modules=len(member.pairs),
        rank=rank,
        parameters=member.parameters,
        raw_bytes=member.raw_bytes,
    )


def _continued(names: Sequence[str], distance: Tensor) -> tuple[Continued, ...]:
    """Return for each adapter the earlier one it is nearest to, where it looks trained on from it."""
    near = _before(distance, within=CONTINUES)
    return tuple(
        Continued(adapter=names[one], previous=names[other], distance=float(distance[one, other]))
        for one, other in near.items()
    )


def _before(distance: Tensor, *, within: float = _NEAR) -> dict[int, int]:
    found = {}
    for one in range(1, len(distance)):
        other = int(distance[one, :one].argmin())
        if float(distance[one, other]) < within:
            found[one] = other
    return found


def _by_module(parts: Sequence[Mapping[str, Weighted]]) -> dict[_Key, list[Weighted]]:
    found: dict[_Key, list[Weighted]] = defaultdict(list)
    for part in parts:
        for name, module in part.items():
            found[(name, module.a.shape[1], module.b.shape[1])].append(module)
    return dict(sorted(found.items(), key=lambda item: _in_order(item[0])))


def _in_order(key: _Key) -> tuple[tuple[tuple[int, str], ...], int, int]:
    """Return a module's place: layer 2 comes before layer 10."""
    name, width, out = key
    return (
        tuple((int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")),
        width,
        out,
    )


def _stacks(
    parts: Sequence[Mapping[str, Weighted]], progress: Progress
) -> tuple[list[Stack], tuple[Spectrum, ...], list[str]]:
    found = _by_module(parts)
    work = [
        sum(_work([module.side(side) for module in modules]) for side in Side)
        for modules in found.values()
    ]
    allowed = int(_MAX_WORK * len(work) / max(sum(work), 1.0))
    keys = _spread(list(found), max(allowed, 2))
    stacked, spectra = [], []
    for done, key in enumerate(keys, start=1):
        progress("spectra", done, len(keys))
        for side in Side:
            rows = [module.side(side) for module in found[key]]
            stacked.append(stack(rows))
            spectra.append(
                _spectrum(key[0], side, [part / torch.linalg.vector_norm(part) for part in rows])
            )
    notes = (
        [f"spectra of {len(keys)} of {len(found)} modules, spread evenly."]
        if len(keys) < len(found)
        else []
    )
    return stacked, tuple(spectra), notes


def _spectrum(module: str, side: Side, rows: Sequence[Tensor]) -> Spectrum:
    found = stack(rows)
    explained = found.explained().tolist()
    shown = [k for k in _SHOWN if k < len(explained)] + [len(explained)]
    return Spectrum(
        module=module,
        side=side.value,
        width=found.width,
        rows=len(found.coefficients),
        adapters=found.adapters,
        explained=tuple((k, explained[k - 1]) for k in shown),
        effective_rank=found.effective_rank,
        k50=found.enough(0.5),
        k80=found.enough(0.8),
        k90=found.enough(0.9),
        k99=found.enough(0.99),
        alone90=sum(stack([part]).enough(0.9) for part in rows) / len(rows),
    )


def _left_out(
    names: Sequence[str], parts: Sequence[Mapping[str, Weighted]], progress: Progress
) -> tuple[tuple[LeaveOneOut, ...], list[str]]:
    """Leave out one adapter after another.

    All of them in all modules, or a sample of both where that would take too long.
    """
    found = _by_module(parts)
    if len(parts) < 2 or not found:
        return (), []
    work = sum(
        sum(_work([module.side(side) for module in modules]) for side in Side)
        for modules in found.values()
    )
    adapters, modules = len(parts), len(found)
    while work * adapters * modules / len(found) > _MAX_WORK and (adapters > 2 or modules > 2):
        adapters, modules = (
            (adapters // 2, modules) if adapters > modules else (adapters, modules // 2)
        )
    kept = {key[0] for key in _spread(list(found), modules)}
    small = [{name: module for name, module in part.items() if name in kept} for part in parts]
    chosen = _spread(list(range(len(parts))), adapters)
    lost = []
    for done, one in enumerate(chosen, start=1):
        progress("leaving one out", done, len(chosen))
        error = left_out(small[one], [part for other, part in enumerate(small) if other != one])
        lost.append(
            LeaveOneOut(
                adapter=names[one],
                error=error.both,
                error_a=error.a,
                error_b=error.b,
                chance=error.chance,
                chance_a=error.chance_a,
                chance_b=error.chance_b,
            )
        )
    whole = len(chosen) == len(parts) and len(kept) == len({key[0] for key in found})
    return tuple(lost), [] if whole else [
        f"leave-one-out of {len(chosen)} of {len(parts)} adapters in {len(kept)} of {len(found)} modules, spread evenly."
    ]


def _work(rows: Sequence[Tensor]) -> float:
    """Return about how many multiplications a stack's Gram and eigenproblem take."""
    count, width = sum(len(row) for row in rows), rows[0].shape[1]
    small = min(count, width)
    return float(count * width * small + 10 * small**3)


def _spread(items: list[Any], count: int) -> list[Any]:
    """Return at most so many items, evenly spread."""
    if len(items) <= count:
        return items
    places = (
        torch.linspace(0, len(items) - 1, max(count, 1), dtype=torch.float32, device="cpu")
        .round()
        .long()
        .tolist()
    )
    return [items[place] for place in dict.fromkeys(places)]


def _break_even(spectra: Sequence[Spectrum]) -> float:
    """Return N* = k / r, with the mean directions that hold 90 % of the energy of all adapters and of each alone."""
    shared = [spectrum for spectrum in spectra if spectrum.adapters > 1]
    alone = sum(spectrum.alone90 for spectrum in shared)
    return sum(spectrum.k90 for spectrum in shared) / alone if alone else 0.0
