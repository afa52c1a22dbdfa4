"""Fit a basis to tasks: those a space holds, adapters in hand, or both.

Every task enters as coefficients over rows: a stored one over the rows of the objects it refers to,
an adapter in hand over its own factors. Module by module the rows in use are gathered, so that
memory is bounded by one module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

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
from share_registry.exchange.config import MAX_CONFIG_BYTES, parse_config
from share_registry.exchange.factor_pairs import rows_of
from share_registry.exchange.scales import module_scales
from share_registry.names import Digest, Side
from share_registry.registry.basis.expansion import Expansions, Factor
from share_registry.registry.basis.moments import Carried, CarriedSide
from share_registry.stored import StoredBasis
from share_registry.values.policy import UNIT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.context import Context
    from share_registry.values.task_version import TaskVersion

_Rows = tuple["NDArray[np.int32]", float]
"""Rows of one side, and the share of the energy they capture."""
_FOLDS: Final = 4
_JUDGED: Final = 128
"""Tasks on which it is judged how many directions pay.

Their mean stands for all, so that the price does not grow with their number.
"""
_KEPT: Final = 64
"""Notes and configs remembered: neighbours tend to share them."""
_NOTHING: Final = 1e-14
"""Directions with less than this share of the strongest one's energy are rounding noise."""


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
        key: What its part in a fit follows from; equal for equal parts, empty for an adapter in
            hand.
        scales: The LoRA scale of every module it has.
        norm: Frobenius norm of its scaled dW.
        factor: One side of a module as coefficients over the rows of objects.
        rows: The rows (k, m) of one of these objects for a module and side.
    """

    key: str
    scales: Mapping[str, float]
    norm: float
    factor: Callable[[str, Side], Factor] = field(repr=False)
    rows: Callable[[Digest, str, Side], Tensor] = field(repr=False)


def stored_members(context: "Context", versions: "Sequence[TaskVersion]") -> list[FitMember]:
    """Return stored versions as members.

    Their rows and coefficients are read when they are asked for.
    """
    reader = context.reader()
    expansions = Expansions(reader)

    @lru_cache(maxsize=_KEPT)
    def scales_of(config: Digest | None, layout: Digest) -> dict[str, float]:
        described = reader.layout(layout)
        shapes = described.modules()
        found = (
            module_scales(
                parse_config(context.store.get(config, limit=MAX_CONFIG_BYTES)), described
            )
            if config
            else [1.0] * len(shapes)
        )
        return {shape.module: scale for shape, scale in zip(shapes, found, strict=True)}

    def member(row: "TaskVersion") -> FitMember:
        return FitMember(
            key=f"{row.adapter_digest} {row.config_digest} {row.norm!r}",
            scales=scales_of(row.config_digest, row.layout_digest),
            norm=row.norm,
            factor=lambda module, side: expansions.factor(row.adapter_digest, module, side),
            rows=expansions.rows,
        )

    return [member(row) for row in versions]


def member_in_hand(name: str, adapter: "Adapter") -> FitMember:
    """Return an adapter that is not stored as a member.

    Its rows are its factors, in float64 while they are looked at.
    """
    scales = module_scales(adapter.config, adapter.layout)
    shapes = [shape.module for shape in adapter.layout.modules()]
    places = {
        module: (factor, expert)
        for module, (factor, expert) in zip(
            shapes,
            (
                (factor, expert)
                for factor in adapter.layout.factors
                for expert in range(factor.experts)
            ),
            strict=True,
        )
    }

    def rows(_: Digest, module: str, side: Side) -> Tensor:
        factor, expert = places[module]
        return rows_of(adapter.layout, factor, adapter.tensors)[expert][
            0 if side is Side.A else 1
        ].double()

    def factor_of(module: str, side: Side) -> Factor:
        factor, _ = places[module]
        rank = adapter.layout.tensors[factor.a].shape[0] // factor.experts
        return {Digest(name): torch.eye(rank, dtype=torch.float64, device="cpu")}

    energy = norm(adapter.factor_pairs())
    return FitMember(
        key="",
        scales=dict(zip(shapes, scales, strict=True)),
        norm=energy,
        factor=factor_of,
        rows=rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBasis:
    """A basis, and what was seen on the way.

    Attributes:
        basis: The rows.
        captured: Share of the tasks' energy that the directions of a module capture, per side.
        carried: Moments from which the next fit of these tasks and more may go on; None where a
            task is in hand.
    """

    basis: StoredBasis
    captured: Mapping[str, tuple[float, float]]
    carried: Carried | None


def fit(
    members: Sequence[FitMember],
    rule: FitRule,
    carried: Carried | None = None,
    *,
    device: str = "cpu",
) -> FittedBasis:
    """Return the basis of tasks.

    For every module and side as many directions as the rule says, none where none pays.

    Args:
        members: The tasks.
        rule: How many directions.
        carried: Moments of some of the tasks: these are not read again, but for those on which it
            is judged how many directions pay.
        device: Where it is computed.
    """
    names = sorted({module for member in members for module in member.scales})
    seen = carried.seen if carried is not None else frozenset()
    made = {}
    for module in names:
        mine = [member for member in members if module in member.scales]
        made[module] = _module(
            mine,
            module,
            rule,
            carried.modules.get(module) if carried is not None else None,
            seen,
            device,
        )
    kept = {
        module: found for module, found in made.items() if any(len(rows) for rows, _ in found.rows)
    }
    keys = frozenset(member.key for member in members)
    return FittedBasis(
        basis=StoredBasis(
            modules={module: (found.rows[0][0], found.rows[1][0]) for module, found in kept.items()}
        ),
        captured={module: (found.rows[0][1], found.rows[1][1]) for module, found in kept.items()},
        carried=None
        if "" in keys
        else Carried(
            weighting=rule.weighting,
            seen=keys,
            modules={
                module: found.sides for module, found in made.items() if found.sides is not None
            },
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _FittedModule:
    """One module: its rows and what they capture, per side, and what the next fit may go on from."""

    rows: tuple[_Rows, _Rows]
    sides: tuple[CarriedSide, CarriedSide] | None


def _module(
    members: Sequence[FitMember],
    module: str,
    rule: FitRule,
    before: tuple[CarriedSide, CarriedSide] | None,
    seen: frozenset[str],
    device: str,
) -> _FittedModule:
    fresh = members if before is None else [member for member in members if member.key not in seen]
    judged = [] if rule.energy is not None or rule.max_rank is not None else _spread(members)
    looked_at = list({id(member): member for member in (*fresh, *judged)}.values())
    reading = members[0].rows
    gathered = [
        _gathered(
            looked_at, reading, module, side, before[place].to(device) if before else None, device
        )
        for place, side in enumerate((Side.A, Side.B))
    ]
    whole = any(
        found.blocks is None for found in gathered
    )  # more rows than columns: seen from the axes, in which moments are too large to be carried
    if whole and before is not None:
        return _module(members, module, rule, None, seen, device)
    tasks = dict(
        zip(map(id, looked_at), _tasks(looked_at, gathered, module, rule.weighting), strict=True)
    )
    moments = Moments(*(found.moments for found in gathered))
    moments.add([tasks[id(member)] for member in fresh])
    frames, spectra = (
        (gathered[0].frame, gathered[1].frame),
        (spectrum(moments.a), spectrum(moments.b)),
    )
    limits = _limits([tasks[id(member)] for member in judged], len(members), spectra, frames, rule)
    rows = [
        (
            round_rows(found.directions(U[:, :k]), energies[:k], precision=rule.precision)
            .cpu()
            .numpy(),
            float(energies[:k].sum() / energies.sum().clamp_min(1e-300)),
        )
        for found, (energies, U), k in zip(frames, spectra, limits, strict=True)
    ]
    sides = None if whole else (gathered[0].carried(moments.a), gathered[1].carried(moments.b))
    return _FittedModule(rows=(rows[0], rows[1]), sides=sides)


def _spectra(
    tasks: Sequence[TaskCoefficients], frames: tuple[Frame, Frame]
) -> tuple[Spectrum, Spectrum]:
    moments = Moments.empty(frames[0].root.shape[1], frames[1].root.shape[1], frames[0].root.device)
    moments.add(tasks)
    return spectrum(moments.a), spectrum(moments.b)


def _tasks(
    members: Sequence[FitMember], gathered: "Sequence[_Gathered]", module: str, weighting: str
) -> list[TaskCoefficients]:
    """Return tasks of one module in coordinates."""
    weights = [
        (1.0 / member.norm**2 if weighting == UNIT and member.norm > 0 else 1.0)
        * member.scales[module] ** 2
        for member in members
    ]
    return [
        TaskCoefficients(A=A, B=B, weight=weight)
        for A, B, weight in zip(
            gathered[0].coordinates, gathered[1].coordinates, weights, strict=True
        )
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gathered:
    """One side of one module.

    Attributes:
        coordinates: Of the tasks looked at, in `frame`.
        frame: Orthonormal coordinates of the rows in use.
        moments: Of the tasks that are carried, in `frame`.
        blocks: Rows in use of each object; None where there are more than columns.
    """

    coordinates: list[Tensor]
    frame: Frame
    moments: Tensor
    blocks: Mapping[Digest, int] | None

    def carried(self, moments: Tensor) -> CarriedSide:
        """Return what the next fit may go on from."""
        assert self.blocks is not None
        return CarriedSide(
            blocks=tuple(self.blocks),
            rows=tuple(self.blocks.values()),
            back=self.frame.back.cpu(),
            moments=moments.cpu(),
        )


def _gathered(
    members: Sequence[FitMember],
    reading: Callable[[Digest, str, Side], Tensor],
    module: str,
    side: Side,
    before: CarriedSide | None,
    device: str,
) -> _Gathered:
    """Return one side of tasks in orthonormal coordinates of the rows in use, those that are carried first."""
    factors = [
        {key: K.to(device) for key, K in member.factor(module, side).items()} for member in members
    ]
    blocks = (
        {key: reading(key, module, side).to(device) for key in before.blocks}
        if before is not None
        else {}
    )
    for member, factor in zip(members, factors, strict=True):
        blocks |= {
            key: member.rows(key, module, side).to(device) for key in factor if key not in blocks
        }
    rows = torch.cat(list(blocks.values()))
    starts = dict(
        zip(
            blocks,
            torch.tensor([0, *map(len, blocks.values())], dtype=torch.int64, device="cpu")
            .cumsum(0)
            .tolist(),
            strict=False,
        )
    )
    if len(rows) > rows.shape[1]:
        made = [
            sum(
                (K @ blocks[key] for key, K in factor.items()),
                torch.zeros((), dtype=torch.float64, device="cpu"),
            )
            for factor in factors
        ]
        return _Gathered(
            coordinates=made,
            frame=axes(rows.shape[1], device),
            moments=rows.new_zeros((rows.shape[1],) * 2),
            blocks=None,
        )
    found, moments = _framed(rows, before)
    made = [
        sum(
            (K @ found.root[starts[key] : starts[key] + K.shape[1]] for key, K in factor.items()),
            torch.zeros((), dtype=torch.float64, device="cpu"),
        )
        for factor in factors
    ]
    return _Gathered(
        coordinates=made,
        frame=found,
        moments=moments,
        blocks={key: len(block) for key, block in blocks.items()},
    )


def _framed(rows: Tensor, before: CarriedSide | None) -> tuple[Frame, Tensor]:
    """Return coordinates of rows, and carried moments of their first ones in these.

    The coordinates they were carried in come first, unless that would lose digits.
    """
    if before is None:
        found = frame(rows)
        return found, rows.new_zeros((found.root.shape[1],) * 2)
    longer = extend(before.back, rows)
    if longer is not None:
        more = longer.root.shape[1] - len(before.moments)
        return longer, pad(before.moments, (0, more, 0, more))
    found = frame(rows)
    turn = (before.back @ rows[: before.back.shape[1]]) @ (found.back @ rows).mT
    return found, turn.mT @ before.moments @ turn


def _spread(members: Sequence[FitMember]) -> list[FitMember]:
    """Return at most `_JUDGED` of the tasks, spread evenly."""
    if len(members) <= _JUDGED:
        return list(members)
    return [members[number * len(members) // _JUDGED] for number in range(_JUDGED)]


def _limits(
    tasks: Sequence[TaskCoefficients],
    count: int,
    spectra: tuple[Spectrum, Spectrum],
    frames: tuple[Frame, Frame],
    rule: FitRule,
) -> tuple[int, int]:
    """Return how many directions each side keeps, judged on some of `count` tasks where bytes decide."""
    some = [_alive(found) for found in spectra]
    if rule.energy is not None:
        limits = [count_capturing(energies, rule.energy) for energies, _ in spectra]
    elif rule.max_rank is not None:
        limits = some
    else:
        limits = _paying(tasks, count, spectra, frames, rule)
    cap = rule.max_rank if rule.max_rank is not None else max(some)
    return min(limits[0], some[0], cap), min(limits[1], some[1], cap)


def _alive(found: Spectrum) -> int:
    """Return the number of directions that carry more than rounding noise."""
    energies = found[0]
    return (
        int((energies > _NOTHING * energies.amax()).sum())
        if len(energies) and float(energies.amax()) > 0
        else 0
    )


def _paying(
    tasks: Sequence[TaskCoefficients],
    count: int,
    spectra: tuple[Spectrum, Spectrum],
    frames: tuple[Frame, Frame],
    rule: FitRule,
) -> list[int]:
    """Return how many directions save more bytes than they cost.

    On the tasks themselves, or, for tasks to come, on each part with the directions of the
    others.
    """
    widths = (frames[0].rows.shape[1], frames[1].rows.shape[1])
    times = (rule.tasks or count) / len(tasks)
    if rule.tasks:
        folds: list[tuple[Sequence[TaskCoefficients], Sequence[TaskCoefficients]]] = [
            (
                [task for place, task in enumerate(tasks) if place % _FOLDS != fold],
                tasks[fold::_FOLDS],
            )
            for fold in range(min(_FOLDS, len(tasks)))
        ]
    else:
        folds = [(tasks, tasks)]
    saved = [energies.new_zeros(len(energies) + 1) for energies, _ in spectra]
    for fitted, judged in folds:
        found = _spectra(fitted, frames)
        for side, bits in enumerate(
            savings(judged, (found[0][1], found[1][1]), widths=widths, budget=rule.budget)
        ):
            bits[
                _alive(found[side]) + 1 :
            ] = (
                -torch.inf
            )  # the frame spans the judged tasks too: other axes are not what the fit has found
            saved[side] += times * bits
    return [
        choose_size(saved[side], spectra[side][0], width=widths[side], precision=rule.precision)
        for side in (0, 1)
    ]
