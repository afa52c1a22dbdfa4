"""Fit a basis to tasks: those a space holds, new adapters, or both.

For one module and side, R are all rows in use, of however many objects, and a task's factor is K R:
a stored one refers to rows of earlier objects, a new one to its own. In orthonormal coordinates of
the rows (with H = R R^T = L L^T) the factor is A = K L, and B likewise on the other side. What a
task t counts for is its second moment, weighted by the other side:

    G = sum_t w_t A_t^T (B_t B_t^T) A_t

The eigenvectors U of G, the strongest first, are the directions U^T L^+ R of the basis. That equals
the full SVD of all energy-weighted factors, in any gauge, and no adapter is formed; without the
weights B B^T, or with K in place of A, another basis comes out. Modules are fitted one at a time,
so that memory is bounded by one of them.

A refit goes on from the moments G of the last one (`moments`): the tasks that came since are added,
and the rows that they brought extend the coordinates.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from share_registry.algebra.directions import (
    Frame,
    Moments,
    Spectrum,
    TaskCoefficients,
    axes,
    choose_size,
    count_capturing,
    extend,
    frame,
    round_rows,
    savings,
    spectrum,
)
from share_registry.algebra.error import norm
from share_registry.exchange.adapter import Adapter
from share_registry.exchange.config import parse_config
from share_registry.exchange.selection import module_scales
from share_registry.exchange.tensors import rows_of
from share_registry.format.layout import Layout
from share_registry.format.symbols import Ints
from share_registry.names import Digest, Side
from share_registry.registry.basis.expansion import Expansions, Factor
from share_registry.registry.basis.moments import KeptMoments, KeptSide
from share_registry.registry.context import Context
from share_registry.registry.stored_config import read_config
from share_registry.stored import StoredBasis
from share_registry.values.policy import UNIT
from share_registry.values.task_version import TaskVersion

_FOLDS: Final = 4
# Tasks on which it is judged how many directions pay. Their mean stands for all, so that the
# price does not grow with their number.
_JUDGED: Final = 128
# Configs remembered: neighbours tend to share them.
_REMEMBERED: Final = 64
# Directions with less than this share of the strongest one's energy are rounding noise.
_NOTHING: Final = 1e-14


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRule:
    """How many directions, and how much each task counts.

    Attributes:
        max_rank: At most this many per module and side.
        energy: As few as capture this share of the energy.
        weighting: "unit": every task alike; "energy": by the square of its norm.
        tasks: Tasks to come that the basis is to serve, where coded bytes decide how many
            directions pay; 0: it serves the tasks it is fitted to.
        budget: Relative error at which bytes are estimated.
        precision: Relative error that rounding the rows may make.
    """

    max_rank: int | None = None
    energy: float | None = None
    weighting: str = UNIT
    tasks: int = 0
    budget: float = 0.0
    precision: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FitMember:
    """One task in a fit.

    Attributes:
        key: What its part in a fit follows from; equal for equal parts, empty for an adapter that
            is not stored.
        scales: The LoRA scale of every module it has.
        shapes: Its (in, out).
        norm: Frobenius norm of its scaled dW.
        factor: One side of a module as coefficients over the rows of objects.
        rows: The rows (k, m) of one of these objects for a module and side.
    """

    key: str
    scales: Mapping[str, float]
    shapes: Mapping[str, tuple[int, int]]
    norm: float
    factor: Callable[[str, Side], Factor] = field(repr=False)
    rows: Callable[[Digest, str, Side], Tensor] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBasis:
    """A basis, and what was seen on the way.

    Attributes:
        basis: The rows.
        captured: Share of the tasks' energy that the directions of a module capture, per side.
        moments: What the next fit of these tasks and more may go on from; None where a task is not
            stored.
    """

    basis: StoredBasis
    captured: Mapping[str, tuple[float, float]]
    moments: KeptMoments | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _FittedModule:
    """One module: per side its rows and what they capture, and what the next fit may go on from."""

    rows: tuple[Ints, Ints]
    captured: tuple[float, float]
    sides: tuple[KeptSide, KeptSide] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _GatheredSide:
    """One side of one module.

    Attributes:
        coordinates: A (r, q) of the tasks looked at, in `frame`.
        frame: Orthonormal coordinates of the rows in use.
        moments: (q, q) of the tasks that were seen before, in `frame`.
        blocks: Rows in use of each object; None where there are more than columns.
    """

    coordinates: list[Tensor]
    frame: Frame
    moments: Tensor
    blocks: Mapping[Digest, int] | None


def stored_members(context: Context, versions: Sequence[TaskVersion]) -> list[FitMember]:
    """Return stored versions as members.

    Their rows and coefficients are read when they are asked for. Raises NotFoundError where a
    config is gone: see `described_versions`.
    """
    reader = context.reader()
    expansions = Expansions(reader)

    scales: dict[tuple[Digest | None, Digest], dict[str, float]] = {}

    def scales_of(row: TaskVersion) -> dict[str, float]:
        key = (row.config_digest, row.layout_digest)
        if key not in scales:
            layout, config = reader.layout(row.layout_digest), read_config(context, row)
            modules = [shape.module for shape in layout.modules()]
            own = module_scales(parse_config(config), layout)
            scales[key] = dict(zip(modules, own, strict=True))
        return scales[key]

    @lru_cache(maxsize=_REMEMBERED)
    def shapes_of(layout_digest: Digest) -> dict[str, tuple[int, int]]:
        return _shapes(reader.layout(layout_digest))

    def member(row: TaskVersion) -> FitMember:
        return FitMember(
            key=f"{row.adapter_digest} {row.config_digest} {row.norm!r}",
            scales=scales_of(row),
            shapes=shapes_of(row.layout_digest),
            norm=row.norm,
            factor=lambda module, side: expansions.factor(row.adapter_digest, module, side),
            rows=expansions.rows,
        )

    return [member(row) for row in versions]


def unstored_member(name: str, adapter: Adapter) -> FitMember:
    """Return an adapter that is not stored as a member.

    Its rows are its factors, in float64 while they are looked at.
    """
    layout = adapter.layout
    shapes = {shape.module: shape for shape in layout.modules()}
    experts = ((factor, expert) for factor in layout.factors for expert in range(factor.experts))
    places = dict(zip(shapes, experts, strict=True))

    def rows(_: Digest, module: str, side: Side) -> Tensor:
        factor, expert = places[module]
        pair = rows_of(layout, factor, adapter.tensors)[expert]
        return pair[0 if side is Side.A else 1].double()

    def identity(module: str, _: Side) -> Factor:
        return {Digest(name): torch.eye(shapes[module].rank, dtype=torch.float64, device="cpu")}

    return FitMember(
        key="",
        scales=dict(zip(shapes, module_scales(adapter.config, layout), strict=True)),
        shapes=_shapes(layout),
        norm=norm(adapter.factor_pairs()),
        factor=identity,
        rows=rows,
    )


def fit(
    members: Sequence[FitMember],
    rule: FitRule,
    kept: KeptMoments | None = None,
    *,
    device: str = "cpu",
) -> FittedBasis:
    """Fit the basis of tasks: for every module and side as many directions as the rule says.

    A side on which none pays has none. Where a module has several shapes, as with a grown
    vocabulary, the basis is of those tasks that have the most common one.

    Args:
        members: The tasks.
        rule: How many directions.
        kept: Moments of some of the tasks: these are not read again, but for those on which it is
            judged how many directions pay.
        device: Where it is computed.
    """
    modules: dict[str, _FittedModule] = {}
    mixed: set[str] = set()
    for module in sorted({module for member in members for module in member.scales}):
        having = [member for member in members if module in member.scales]
        alike = _of_one_shape(having, module)
        if len(alike) < len(having):
            mixed.add(module)
        modules[module] = _fit_module(
            alike, module, rule, None if module in mixed else kept, device
        )
    used = {name: fitted for name, fitted in modules.items() if any(map(len, fitted.rows))}
    keys = frozenset(member.key for member in members)
    moments = KeptMoments(
        weighting=rule.weighting,
        seen=keys,
        # moments of a part of the tasks would be taken for those of all
        modules={
            name: fitted.sides
            for name, fitted in modules.items()
            if fitted.sides is not None and name not in mixed
        },
    )
    return FittedBasis(
        basis=StoredBasis(modules={name: fitted.rows for name, fitted in used.items()}),
        captured={name: fitted.captured for name, fitted in used.items()},
        moments=moments if "" not in keys else None,
    )


def _shapes(layout: Layout) -> dict[str, tuple[int, int]]:
    return {shape.module: (shape.in_, shape.out) for shape in layout.modules()}


def _of_one_shape(members: Sequence[FitMember], module: str) -> list[FitMember]:
    """Return the members that have a module in its most common shape, of equals the largest."""
    counts = Counter(member.shapes[module] for member in members)
    shape = max(counts, key=lambda each: (counts[each], each))
    return [member for member in members if member.shapes[module] == shape]


def _fit_module(
    members: Sequence[FitMember],
    module: str,
    rule: FitRule,
    kept: KeptMoments | None,
    device: str,
) -> _FittedModule:
    before = kept.modules.get(module) if kept is not None else None
    fresh = members
    if kept is not None and before is not None:
        fresh = [member for member in members if member.key not in kept.seen]
    judged = _spread(members) if rule.energy is None and rule.max_rank is None else []
    looked_at = list({id(member): member for member in (*fresh, *judged)}.values())
    a, b = (_gather(looked_at, members[0].rows, module, side, before, device) for side in Side)
    if before is not None and (a.blocks is None or b.blocks is None):
        return _fit_module(members, module, rule, None, device)
    tasks = {
        id(member): TaskCoefficients(A=A, B=B, weight=_weight(member, module, rule.weighting))
        for member, A, B in zip(looked_at, a.coordinates, b.coordinates, strict=True)
    }
    moments = Moments(a.moments, b.moments)
    moments.add([tasks[id(member)] for member in fresh])
    spectra = spectrum(moments.a), spectrum(moments.b)
    widths = a.frame.rows.shape[1], b.frame.rows.shape[1]
    k_a, k_b = _limits(
        [tasks[id(member)] for member in judged], len(members), spectra, widths, rule
    )
    rows_a, captured_a = _round(a.frame, spectra[0], k_a, rule.precision)
    rows_b, captured_b = _round(b.frame, spectra[1], k_b, rule.precision)
    sides = None
    if a.blocks is not None and b.blocks is not None:
        sides = (
            KeptSide(blocks=a.blocks, back=a.frame.back.cpu(), moments=moments.a.cpu()),
            KeptSide(blocks=b.blocks, back=b.frame.back.cpu(), moments=moments.b.cpu()),
        )
    return _FittedModule(rows=(rows_a, rows_b), captured=(captured_a, captured_b), sides=sides)


def _weight(member: FitMember, module: str, weighting: str) -> float:
    """Return w s^2: at unit weighting every task has the same energy over all its modules."""
    w = 1.0 / member.norm**2 if weighting == UNIT and member.norm > 0 else 1.0
    return w * member.scales[module] ** 2


def _round(frame: Frame, spectrum: Spectrum, k: int, precision: float) -> tuple[Ints, float]:
    energies, U = spectrum
    rows = round_rows(frame.directions(U[:, :k]), energies[:k], precision=precision)
    return rows.cpu().numpy(), float(energies[:k].sum() / energies.sum().clamp_min(1e-300))


def _gather(
    members: Sequence[FitMember],
    read_rows: Callable[[Digest, str, Side], Tensor],
    module: str,
    side: Side,
    before: tuple[KeptSide, KeptSide] | None,
    device: str,
) -> _GatheredSide:
    """Return one side of tasks in orthonormal coordinates of the rows in use.

    The rows that were in use before come first.
    """
    factors = [
        {key: K.to(device) for key, K in member.factor(module, side).items()} for member in members
    ]
    blocks: dict[Digest, Tensor] = {}
    kept = None
    if before is not None:
        kept = before[0 if side is Side.A else 1].to(device)
        blocks |= {key: read_rows(key, module, side).to(device) for key in kept.blocks}
    for member, factor in zip(members, factors, strict=True):
        blocks |= {
            key: member.rows(key, module, side).to(device) for key in factor if key not in blocks
        }
    rows = torch.cat(list(blocks.values()))
    width = rows.shape[1]
    if len(rows) > width:
        # seen from the axes, in which moments are too large to be kept
        return _GatheredSide(
            coordinates=[_combine(factor, blocks) for factor in factors],
            frame=axes(width, device),
            moments=rows.new_zeros((width, width)),
            blocks=None,
        )
    coordinates, moments = _frame_after(rows, kept)
    counts = {key: len(block) for key, block in blocks.items()}
    roots = dict(zip(counts, torch.split(coordinates.root, list(counts.values())), strict=True))
    return _GatheredSide(
        coordinates=[_combine(factor, roots) for factor in factors],
        frame=coordinates,
        moments=moments,
        blocks=counts,
    )


def _combine(factor: Factor, rows: Mapping[Digest, Tensor]) -> Tensor:
    """Return sum_o K_o R_o over the objects o that a factor refers to."""
    zero = torch.zeros((), dtype=torch.float64, device="cpu")
    return sum((K @ rows[key] for key, K in factor.items()), zero)


def _frame_after(rows: Tensor, before: KeptSide | None) -> tuple[Frame, Tensor]:
    """Return coordinates of rows, and in these the moments that were kept in the first rows'.

    The coordinates of before come first, unless extending them would lose digits: then the moments
    are turned into new ones.
    """
    if before is not None:
        longer = extend(before.back, rows)
        if longer is not None:
            more = longer.root.shape[1] - len(before.moments)
            return longer, pad(before.moments, (0, more, 0, more))
    fresh = frame(rows)
    if before is None:
        return fresh, rows.new_zeros((fresh.root.shape[1],) * 2)
    turn = (before.back @ rows[: before.back.shape[1]]) @ (fresh.back @ rows).mT
    return fresh, turn.mT @ before.moments @ turn


def _spread(members: Sequence[FitMember]) -> list[FitMember]:
    count = min(_JUDGED, len(members))
    return [members[number * len(members) // count] for number in range(count)]


def _limits(
    judged: Sequence[TaskCoefficients],
    count: int,
    spectra: tuple[Spectrum, Spectrum],
    widths: tuple[int, int],
    rule: FitRule,
) -> tuple[int, int]:
    """Return how many directions each side keeps.

    Where bytes decide, some of the `count` tasks are judged.
    """
    alive = [_count_alive(energies) for energies, _ in spectra]
    if rule.energy is not None:
        limits = [count_capturing(energies, rule.energy) for energies, _ in spectra]
    elif rule.max_rank is not None:
        limits = alive
    else:
        limits = _paying_limits(judged, count, spectra, widths, rule)
    cap = rule.max_rank if rule.max_rank is not None else max(alive)
    return min(limits[0], alive[0], cap), min(limits[1], alive[1], cap)


def _count_alive(energies: Tensor) -> int:
    if not len(energies):
        return 0
    return int((energies > _NOTHING * energies.amax()).sum())


def _paying_limits(
    tasks: Sequence[TaskCoefficients],
    count: int,
    spectra: tuple[Spectrum, Spectrum],
    widths: tuple[int, int],
    rule: FitRule,
) -> list[int]:
    """Return how many directions save more bytes than they cost.

    They are judged on the tasks themselves; for tasks to come, by cross-validation: each fold on
    the directions of the others.
    """
    folds = [(tasks, tasks)]
    if rule.tasks:
        folds = [
            (
                [task for number, task in enumerate(tasks) if number % _FOLDS != fold],
                tasks[fold::_FOLDS],
            )
            for fold in range(min(_FOLDS, len(tasks)))
        ]
    times = (rule.tasks or count) / len(tasks)
    (all_a, _), (all_b, _) = spectra
    saved_a, saved_b = all_a.new_zeros(len(all_a) + 1), all_b.new_zeros(len(all_b) + 1)
    for fitted, judged in folds:
        moments = Moments.empty(len(all_a), len(all_b), all_a.device)
        moments.add(fitted)
        (energies_a, U_a), (energies_b, U_b) = spectrum(moments.a), spectrum(moments.b)
        bits_a, bits_b = savings(judged, (U_a, U_b), widths=widths, budget=rule.budget)
        # the coordinates span the judged tasks too: further axes are not what the fit has learned
        bits_a[_count_alive(energies_a) + 1 :] = -torch.inf
        bits_b[_count_alive(energies_b) + 1 :] = -torch.inf
        saved_a += times * bits_a
        saved_b += times * bits_b
    return [
        choose_size(saved_a, all_a, width=widths[0], precision=rule.precision),
        choose_size(saved_b, all_b, width=widths[1], precision=rule.precision),
    ]
