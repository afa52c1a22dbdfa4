"""Analyze adapters: what they share, and what sharing would save.

For an analysis no registry is needed, and nothing is written.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from share_registry import kinds
from share_registry.algebra.comparison import (
    Stack,
    Weighted,
    distances,
    left_out,
    products,
    row_overlap,
    stack,
    weighted,
)
from share_registry.algebra.threads import one_thread
from share_registry.catalog.queries import version_lookups
from share_registry.catalog.queries.named_tasks import space_of
from share_registry.errors import InvalidInputError, NotFoundError, ensure
from share_registry.exchange.grown_vocabulary import align
from share_registry.kinds import member_of, takes
from share_registry.look.units import percent
from share_registry.names import Side
from share_registry.outside.files import Outside
from share_registry.registry.analysis.forecast import forecasts
from share_registry.registry.analysis.verdict import (
    CONTINUES,
    kinships,
    statements,
    to_larger,
)
from share_registry.registry.arguments import (
    Progress,
    check_budgets,
    check_source,
    ignore_progress,
)
from share_registry.registry.checkout.factored import (
    FactoredAdapter,
    read_factored,
    read_subject,
    read_version,
)
from share_registry.registry.context import Context
from share_registry.registry.stored_config import described_versions
from share_registry.values.analyses import (
    AnalysedAdapter,
    Analysis,
    Continued,
    LeaveOneOut,
    Spectrum,
)
from share_registry.values.policy import check_budget

_Item = TypeVar("_Item")

BUDGETS: Final = (0.01, 0.05, 0.1, 0.3)
# An earlier adapter is tried as the version before where dW differs by less than its own size.
_NEAR: Final = 1.0
# Multiplications of eigenproblems: half a minute on one core. Beyond, modules and adapters are
# sampled evenly.
_MAX_WORK: Final = 3e11
# Numbers of directions at which spectra are shown: 1, 2, 3, 4, 6, 8, 12 ... 4096.
_SHOWN: Final = tuple(sorted({1 << i for i in range(13)} | {3 << i for i in range(11)}))
# By name, in and out: the module of every adapter that has it.
_Modules = dict[tuple[str, int, int], list[Weighted]]


@takes(subject=check_source, budgets=check_budgets, progress=kinds.progress)
@one_thread()
def analyze(
    subject: Any, *, budgets: Sequence[float] = BUDGETS, progress: Progress | None = None
) -> Analysis:
    """Analyze adapters: what they share, their bytes at several budgets, a verdict in words.

    Their order matters: an adapter may be coded against earlier ones. All of them stay in memory.
    What is sampled because the collection is large stands in `notes`.

    Args:
        subject: Name -> PEFT directory, file of another program, Adapter or live PEFT model; a list
            of directories and files or of Adapters; one such file; a folder with adapter folders
            below it; or an open Registry or Space, of which the newest versions of the live tasks
            are taken.
        budgets: Pooled relative errors of scaled dW to forecast bytes for, above 0.
        progress: Called with what is being done, how many are done and how many there are.

    Raises:
        InvalidInputError: nothing that can be analyzed, or a budget that is none.
        NotFoundError: a directory is not there or holds no adapter.
        RefusedError: as `Registry.commit` refuses an adapter.
    """
    if isinstance(context := member_of(subject, "context"), Context):
        return analyze_space(context, subject.scope, budgets=budgets, progress=progress)
    progress = progress or ignore_progress
    return _analyze(read_subject(subject, outside=Outside(), progress=progress), budgets, progress)


@one_thread()
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
    progress = progress or ignore_progress
    with context.reading() as session:
        where = space_of(session, space)
        rows = version_lookups.latest_versions(session, where)
    rows = described_versions(context, rows)
    ensure(
        rows,
        NotFoundError(
            f"space {where} has no live task whose config is there.",
            hint="Commit adapters first, or analyze directories.",
        ),
    )
    adapters = []
    for done, row in enumerate(sorted(rows, key=lambda row: row.number), start=1):
        progress(f"reading {row.ref}", done, len(rows))
        adapters.append(read_factored(context, row))
    analysis = _analyze(adapters, budgets, progress)
    largest = max(row.error for row in rows)
    if not largest:
        return analysis
    note = (
        "adapters are taken as stored: at budgets near or below their errors "
        f"(at most {percent(largest)}) bytes are forecast too low."
    )
    return replace(analysis, notes=(note, *analysis.notes))


@one_thread()
def version_spectra(context: Context, ref: str) -> tuple[Spectrum, ...]:
    """Return the spectra of one version alone, as it is stored.

    Of every module, or of some of a very large one, spread evenly.

    Args:
        context: The registry.
        ref: The version, with its space.

    Raises:
        NotFoundError, RefusedError, IntegrityError: it cannot be read.
    """
    asked, _ = read_version(context, ref, space=None)
    (pairs,) = align([(asked.layout, asked.pairs)])
    return tuple(_stacks([weighted(pairs)], ignore_progress)[1])


def _analyze(
    adapters: Sequence[FactoredAdapter], budgets: Sequence[float], progress: Progress
) -> Analysis:
    budgets = sorted({check_budget(budget) for budget in budgets})
    ensure(
        0 not in budgets,
        InvalidInputError(
            "budget 0 keeps every bit: there is nothing to forecast.", hint="Give budgets above 0."
        ),
    )
    ensure(
        budgets,
        InvalidInputError(
            "there is no budget to forecast bytes for.",
            hint="Give one or more relative errors: budgets=(0.01, 0.05).",
        ),
    )
    names = [adapter.name for adapter in adapters]
    pairs = align([(adapter.layout, adapter.pairs) for adapter in adapters])
    distance = distances(products(pairs))
    a, chance = row_overlap(pairs, Side.A)
    b, chance_b = row_overlap(pairs, Side.B)
    parts = [weighted(part) for part in pairs]
    stacks, spectra, notes = _stacks(parts, progress)
    lost, more_notes = _leave_out(names, parts, progress)
    apart = to_larger(distance)
    continued = tuple(
        Continued(adapter=names[late], previous=names[early], distance=float(apart[late, early]))
        for late, early in _nearest_earlier(apart, within=CONTINUES).items()
    )
    by_budget = forecasts(
        adapters,
        budgets=budgets,
        before=_nearest_earlier(distance, within=_NEAR),
        stacks=stacks,
        progress=progress,
    )
    kin = kinships(names, apart, (a, chance), (b, chance_b), lost)
    verdict = statements(names, kin, continued, lost, by_budget)
    return Analysis(
        adapters=tuple(
            AnalysedAdapter(
                name=adapter.name,
                modules=len(adapter.pairs),
                rank=max((pair.a.shape[0] for pair in adapter.pairs), default=0),
                parameters=adapter.parameters,
                raw_bytes=adapter.raw_bytes,
            )
            for adapter in adapters
        ),
        verdict=" ".join(statement.text for statement in verdict),
        statements=verdict,
        forecasts=by_budget,
        kinships=kin,
        continued=continued,
        leave_one_out=lost,
        spectra=tuple(spectra),
        break_even=_break_even(spectra),
        notes=(*notes, *more_notes),
    )


def _nearest_earlier(distance: Tensor, *, within: float) -> dict[int, int]:
    nearest = {}
    for late in range(1, len(distance)):
        early = int(distance[late, :late].argmin())
        if float(distance[late, early]) < within:
            nearest[late] = early
    return nearest


def _by_module(parts: Sequence[Mapping[str, Weighted]]) -> _Modules:
    modules: _Modules = defaultdict(list)
    for part in parts:
        for name, module in part.items():
            modules[(name, module.a.shape[1], module.b.shape[1])].append(module)
    return dict(sorted(modules.items(), key=_place))


def _place(item: tuple[tuple[str, int, int], object]) -> tuple[list[tuple[int, str]], int, int]:
    """Return what a module is sorted by: layer 2 comes before layer 10."""
    name, width, out = item[0]
    parts = [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
    return parts, width, out


def _stacks(
    parts: Sequence[Mapping[str, Weighted]], progress: Progress
) -> tuple[list[Stack], list[Spectrum], list[str]]:
    """Return the stacks and spectra of all modules, or of as many as can be done in time."""
    modules = _by_module(parts)
    affordable = int(_MAX_WORK * len(modules) / max(_work(modules), 1.0))
    keys = _spread(list(modules), max(affordable, 2))
    stacks, spectra = [], []
    for done, key in enumerate(keys, start=1):
        progress("spectra", done, len(keys))
        for side in Side:
            rows = [module.side(side) for module in modules[key]]
            stacks.append(stack(rows))
            units = [part / torch.linalg.vector_norm(part) for part in rows]
            spectra.append(spectrum_of(key[0], side, units))
    if len(keys) == len(modules):
        return stacks, spectra, []
    return stacks, spectra, [f"spectra of {len(keys)} of {len(modules)} modules, spread evenly."]


def spectrum_of(module: str, side: Side, rows: Sequence[Tensor]) -> Spectrum:
    """Return the spectrum of the rows of some adapters, each of norm 1."""
    stacked = stack(rows)
    explained = stacked.explained().tolist()
    shown = [k for k in _SHOWN if k < len(explained)] + [len(explained)]
    return Spectrum(
        module=module,
        side=side.value,
        width=stacked.width,
        rows=len(stacked.coefficients),
        adapters=stacked.adapters,
        explained=tuple((k, explained[k - 1]) for k in shown),
        effective_rank=stacked.effective_rank,
        k50=stacked.enough(0.5),
        k80=stacked.enough(0.8),
        k90=stacked.enough(0.9),
        k99=stacked.enough(0.99),
        alone90=sum(stack([part]).enough(0.9) for part in rows) / len(rows),
    )


def _leave_out(
    names: Sequence[str], parts: Sequence[Mapping[str, Weighted]], progress: Progress
) -> tuple[tuple[LeaveOneOut, ...], list[str]]:
    """Leave out one adapter after another.

    All of them in all modules, or a sample of both where that would take too long.
    """
    modules = _by_module(parts)
    if len(parts) < 2 or not modules:
        return (), []
    work = _work(modules)
    count, depth = len(parts), len(modules)
    while work * count * depth / len(modules) > _MAX_WORK and (count > 2 or depth > 2):
        if count > depth:
            count //= 2
        else:
            depth //= 2
    sampled = {key[0] for key in _spread(list(modules), depth)}
    small = [{name: module for name, module in part.items() if name in sampled} for part in parts]
    numbers = _spread(list(range(len(parts))), count)
    lost = []
    for done, number in enumerate(numbers, start=1):
        progress("leaving one out", done, len(numbers))
        rest = small[:number] + small[number + 1 :]
        (error, error_a, error_b), (chance, chance_a, chance_b) = left_out(small[number], rest)
        lost.append(
            LeaveOneOut(
                adapter=names[number],
                error=error,
                error_a=error_a,
                error_b=error_b,
                chance=chance,
                chance_a=chance_a,
                chance_b=chance_b,
            )
        )
    if len(numbers) == len(parts) and len(sampled) == len({key[0] for key in modules}):
        return tuple(lost), []
    note = (
        f"leave-one-out of {len(numbers)} of {len(parts)} adapters "
        f"in {len(sampled)} of {len(modules)} modules, spread evenly."
    )
    return tuple(lost), [note]


def _work(modules: _Modules) -> float:
    """Return about how many multiplications the Grams and eigenproblems of both sides take."""
    work = 0.0
    for members, side in product(modules.values(), Side):
        rows = [module.side(side) for module in members]
        count, width = sum(map(len, rows)), rows[0].shape[1]
        work += count * width * min(count, width) + 10 * min(count, width) ** 3
    return work


def _spread(items: list[_Item], count: int) -> list[_Item]:
    if len(items) <= count:
        return items
    places = torch.linspace(
        0, len(items) - 1, max(count, 1), dtype=torch.float32, device="cpu"
    ).round()
    return [items[place] for place in dict.fromkeys(places.long().tolist())]


def _break_even(spectra: Sequence[Spectrum]) -> float:
    """Return N* = k / r.

    k and r are the mean directions that hold 90 % of the energy of all adapters and of one alone.
    """
    shared = [spectrum for spectrum in spectra if spectrum.adapters > 1]
    alone = sum(spectrum.alone90 for spectrum in shared)
    return sum(spectrum.k90 for spectrum in shared) / alone if alone else 0.0
