"""Fit a basis to tasks: those a space holds, new adapters, or both.

For one module and side, R are all rows in use, of however many objects, and a task's factor is K R:
a stored one refers to rows of earlier objects, a new one to its own. In orthonormal coordinates of
the rows (with H = R R^T = L L^T) the factor is A = K L, and B likewise on the other side. What a
task t counts for is its second moment, weighted by the other side:

    G = sum_t w_t A_t^T (B_t B_t^T) A_t

The eigenvectors U of G, the strongest first, are the directions U^T L^+ R of the basis. That equals
the full SVD of all energy-weighted factors, in any gauge, and no adapter is formed; without the
weights B B^T, or with K in place of A, another basis comes out. Modules are fitted two at a time,
so that memory is bounded by two of them.

A refit goes on from the moments G of the last one (`moments`): the tasks that came since are added,
and the rows that they brought extend the coordinates. And the basis that a task was left out of
takes no more than its part of G away.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    leading_spectrum,
    round_rows,
    savings,
    spectrum,
)
from share_registry.algebra.threads import one_thread
from share_registry.format.symbols import Ints
from share_registry.names import Digest, Side
from share_registry.parallel import MAX_THREADS, side_by_side
from share_registry.registry.basis.members import FitMember, combine
from share_registry.registry.basis.moments import KeptMoments, KeptSide
from share_registry.registry.basis.streamed import Streamed
from share_registry.stored import StoredBasis
from share_registry.values.policy import UNIT

_FOLDS: Final = 4
# Tasks on which it is judged how many directions pay. Their mean stands for all, so that the
# price does not grow with their number.
_JUDGED: Final = 128
# Directions with less than this share of the strongest one's energy are rounding noise.
_NOTHING: Final = 1e-14
# Share of the energy of all tasks that is rounding noise where one was taken off
_ROUNDING: Final = 1e-7


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
        sizes: Directions that each module keeps per side, where an earlier fit has settled them.
    """

    max_rank: int | None = None
    energy: float | None = None
    weighting: str = UNIT
    tasks: int = 0
    budget: float = 0.0
    precision: float = 0.0
    sizes: Mapping[str, tuple[int, int]] | None = None

    @property
    def weighs_bytes(self) -> bool:
        """Whether it is yet to be judged by coded bytes how many directions pay."""
        return self.energy is None and self.max_rank is None and self.sizes is None

    def size_of(self, module: str) -> tuple[int, int] | None:
        """Return how many directions a module keeps per side, None where it is to be found out."""
        return None if self.sizes is None else self.sizes.get(module, (0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBasis:
    """A basis, and what was seen on the way.

    Attributes:
        basis: The rows.
        captured: Share of the tasks' energy that the directions of a module capture, per side.
        moments: What the next fit of these tasks and more may go on from, where that is asked for;
            None where a task is not stored.
        left_out: For each task that was to be left out once, the basis of all others, with at most
            as many directions.
    """

    basis: StoredBasis
    captured: Mapping[str, tuple[float, float]]
    moments: KeptMoments | None
    left_out: tuple[StoredBasis, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _FittedModule:
    """One module: per side its rows and what they capture, and what the next fit may go on from.

    Beside them the rows without each task that is left out.
    """

    rows: tuple[Ints, Ints]
    left_out: list[tuple[Ints, Ints]]
    captured: tuple[float, float]
    sides: tuple[KeptSide, KeptSide] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _GatheredSide:
    """One side of one module.

    Attributes:
        coordinates: A (r, q) of the tasks looked at, in `frame`.
        frame: Orthonormal coordinates of the rows in use.
        moments: (q, q) of the tasks that were seen before, in `frame`.
        blocks: Rows in use of each object; none where they are seen from the axes.
    """

    coordinates: list[Tensor]
    frame: Frame
    moments: Tensor
    blocks: Mapping[Digest, int]

    def kept(self, moments: Tensor) -> KeptSide:
        """Return what the next fit may go on from."""
        if not self.blocks:
            return KeptSide.of_axes(moments)
        return KeptSide(blocks=self.blocks, back=self.frame.back.cpu(), moments=moments.cpu())


def fit(
    members: Sequence[FitMember],
    rule: FitRule,
    kept: KeptMoments | None = None,
    *,
    keep_moments: bool = False,
    left_out: Sequence[int] = (),
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
        keep_moments: Whether to return the moments: of large modules they take more than the basis.
        left_out: Positions of tasks that are left out once each, in a basis of their own. Their
            parts are taken off: where one outweighs the others 1e7 times, these are not seen.
        device: Where it is computed.
    """
    modules: dict[str, _FittedModule] = {}
    alike: dict[str, list[FitMember]] = {}
    mixed: set[str] = set()
    for module in sorted({module for member in members for module in member.scales}):
        if not any(rule.size_of(module) or (1,)):
            continue
        having = [member for member in members if module in member.scales]
        alike[module] = _of_one_shape(having, module)
        if len(alike[module]) < len(having):
            mixed.add(module)
    kept_sides = {
        module: None if kept is None or module in mixed else kept.modules.get(module)
        for module in alike
    }
    fresh = {
        module: own
        if kept_sides[module] is None or kept is None
        else [member for member in own if member.key not in kept.seen]
        for module, own in alike.items()
    }
    streamed = Streamed(fresh, kept_sides, rule.weighting, device)

    def fit_one(task: tuple[str, Moments | None]) -> _FittedModule:
        module, sums = task
        rest = fresh[module] if sums is None else []
        kept_side = kept_sides[module]
        without = [members[place] for place in left_out]
        fitted = _fit_module(alike[module], rest, module, rule, kept_side, device, sums, without)
        return fitted if keep_moments else replace(fitted, sides=None)

    names = list(alike)
    # a device computes what one thread gives it as fast as what two do
    count = MAX_THREADS if device == "cpu" else 1
    for start in range(0, len(names), count):
        together = names[start : start + count]
        tasks = [(module, streamed.moments_of(module)) for module in together]
        fitted_modules = side_by_side(one_thread()(fit_one), tasks)
        modules |= dict(zip(together, fitted_modules, strict=True))
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
        moments=moments if keep_moments and "" not in keys else None,
        left_out=tuple(
            StoredBasis(
                modules={
                    name: fitted.left_out[number]
                    for name, fitted in used.items()
                    if any(map(len, fitted.left_out[number]))
                }
            )
            for number in range(len(left_out))
        ),
    )


def _of_one_shape(members: Sequence[FitMember], module: str) -> list[FitMember]:
    """Return the members that have a module in its most common shape, of equals the largest."""
    counts = Counter(member.shapes[module] for member in members)
    shape = max(counts, key=lambda each: (counts[each], each))
    return [member for member in members if member.shapes[module] == shape]


def _fit_module(
    members: Sequence[FitMember],
    fresh: Sequence[FitMember],
    module: str,
    rule: FitRule,
    before: tuple[KeptSide, KeptSide] | None,
    device: str,
    streamed: Moments | None,
    left_out: Sequence[FitMember],
) -> _FittedModule:
    judged = _spread(members) if rule.weighs_bytes else []
    sizes = rule.size_of(module)
    having = {id(member) for member in members}
    taken_off = [member for member in left_out if id(member) in having]
    looked_at = list({id(member): member for member in (*fresh, *judged, *taken_off)}.values())
    shape = members[0].shapes[module]
    a, b = (
        _gather(looked_at, members[0].rows, module, side, shape[number], before, device, on_axes)
        for number, (side, on_axes) in enumerate(zip(Side, _sides(streamed), strict=True))
    )
    tasks = {
        id(member): TaskCoefficients(A=A, B=B, weight=member.weight(module, rule.weighting))
        for member, A, B in zip(looked_at, a.coordinates, b.coordinates, strict=True)
    }
    moments = Moments(a.moments, b.moments)
    moments.add([tasks[id(member)] for member in fresh])
    most_a, most_b = sizes or (rule.max_rank, rule.max_rank)
    spectra = _spectrum(moments.a, rule, most_a), _spectrum(moments.b, rule, most_b)
    widths = a.frame.rows.shape[1], b.frame.rows.shape[1]
    k_a, k_b = sizes or _limits(
        [tasks[id(member)] for member in judged], len(members), spectra, widths, rule
    )
    rows_a, captured_a = _round(a.frame, spectra[0], k_a, rule.precision, moments.a)
    rows_b, captured_b = _round(b.frame, spectra[1], k_b, rule.precision, moments.b)

    def rows_without(task: TaskCoefficients | None) -> tuple[Ints, Ints]:
        if task is None:
            return rows_a, rows_b
        others = Moments(moments.a.clone(), moments.b.clone())
        others.add([replace(task, weight=-task.weight)])
        return (
            _leading(a.frame, others.a, moments.a, k_a, rule),
            _leading(b.frame, others.b, moments.b, k_b, rule),
        )

    return _FittedModule(
        rows=(rows_a, rows_b),
        left_out=[rows_without(tasks.get(id(member))) for member in left_out],
        captured=(captured_a, captured_b),
        sides=(a.kept(moments.a), b.kept(moments.b)),
    )


def _spectrum(moments: Tensor, rule: FitRule, most: int | None) -> Spectrum:
    """Return the directions that a rule may ask for, the strongest first."""
    if most is None or rule.energy is not None:
        return spectrum(moments)
    return leading_spectrum(moments, most)


def _leading(frame: Frame, others: Tensor, moments: Tensor, k: int, rule: FitRule) -> Ints:
    """Return the rows of the strongest directions of the moments of other tasks, at most k.

    What is less than rounding leaves of the moments of all, in float32, is no direction.
    """
    energies, U = leading_spectrum(others, k)
    told = int((energies > _ROUNDING * moments.trace()).sum())
    return _round(frame, (energies, U), min(k, told), rule.precision, others)[0]


def _sides(moments: Moments | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if moments is None else (moments.a, moments.b)


def _count(blocks: Mapping[Digest, Tensor]) -> int:
    return sum(map(len, blocks.values()))


def _round(
    frame: Frame, spectrum: Spectrum, k: int, precision: float, moments: Tensor
) -> tuple[Ints, float]:
    energies, U = spectrum
    rows = round_rows(frame.directions(U[:, :k]), energies[:k], precision=precision)
    captured = energies[:k].sum() / moments.trace().clamp_min(1e-300)
    return rows.cpu().numpy(), min(1.0, float(captured))


def _gather(
    members: Sequence[FitMember],
    read_rows: Callable[[Digest, str, Side], Tensor],
    module: str,
    side: Side,
    width: int,
    before: tuple[KeptSide, KeptSide] | None,
    device: str,
    on_axes: Tensor | None,
) -> _GatheredSide:
    """Return one side of tasks in orthonormal coordinates of the rows in use.

    The rows that were in use before come first. Where there are more than columns, the axes are the
    coordinates: neither what they cost nor what is kept then depends on the number of tasks.
    """
    factors = [
        {key: K.to(device) for key, K in member.factor(module, side).items()} for member in members
    ]
    kept = None if before is None else before[0 if side is Side.A else 1].to(device)
    blocks: dict[Digest, Tensor] = {}
    if kept is not None and on_axes is None:
        blocks |= {key: read_rows(key, module, side).to(device) for key in kept.blocks}
    for member, factor in zip(members, factors, strict=True):
        blocks |= {
            key: member.rows(key, module, side).to(device) for key in factor if key not in blocks
        }
    is_outgrown = (kept is not None and not kept.blocks) or _count(blocks) > width
    if on_axes is not None or is_outgrown:
        return _GatheredSide(
            coordinates=[combine(factor, blocks) for factor in factors],
            frame=axes(width, device),
            moments=_moments_on_axes(kept, blocks, width, device)
            if on_axes is None
            else on_axes.double(),
            blocks={},
        )
    rows = torch.cat(list(blocks.values()))
    coordinates, moments = _frame_after(rows, kept)
    counts = {key: len(block) for key, block in blocks.items()}
    roots = dict(zip(counts, torch.split(coordinates.root, list(counts.values())), strict=True))
    return _GatheredSide(
        coordinates=[combine(factor, roots) for factor in factors],
        frame=coordinates,
        moments=moments,
        blocks=counts,
    )


def _moments_on_axes(
    kept: KeptSide | None, blocks: Mapping[Digest, Tensor], width: int, device: str
) -> Tensor:
    if kept is None:
        return torch.zeros((width, width), dtype=torch.float64, device=device)
    if not kept.blocks:
        return kept.on_axes(width)
    E = kept.back @ torch.cat([blocks[key] for key in kept.blocks])
    return E.mT @ kept.moments @ E


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
