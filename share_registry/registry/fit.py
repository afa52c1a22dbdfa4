"""Fit a basis to tasks: those a space holds, adapters in hand, or both.

Every task enters as coefficients over rows: a stored one over the rows of the objects it refers to, an adapter in hand over its own factors. Module by module the
rows in use are gathered, so that memory is bounded by one module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from share_registry.algebra.error import norm
from share_registry.algebra.subspace import Frame, Moments, Spectrum, Task, axes, captured, frame, paying, rounded, savings, spectrum
from share_registry.exchange.config import parse_config
from share_registry.exchange.pairs import pairs_of, rows_of
from share_registry.exchange.scales import module_scales
from share_registry.materialize.expansion import Expansions, Factor
from share_registry.names import Digest, Side
from share_registry.registry.replay import read_note
from share_registry.stored import StoredBasis

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from share_registry.catalog.task_version import TaskVersion
    from share_registry.exchange.adapter import Adapter
    from share_registry.registry.home import Home

_Rows = tuple["NDArray[np.int32]", float]
"""Rows of one side, and the share of the energy they capture."""
UNIT: Final = "unit"
ENERGY: Final = "energy"
_MAX_CONFIG_BYTES: Final = 64 << 20
_FOLDS: Final = 4
_JUDGED: Final = 128
"""Tasks on which it is judged how many directions pay: their mean stands for all, so that the price does not grow with their number."""
_KEPT: Final = 64
"""Notes and configs remembered: neighbours tend to share them."""
_NOTHING: Final = 1e-14
"""Directions with less than this share of the strongest one's energy are rounding noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How many directions, and how much each task counts.

    Attributes:
        max_rank: At most this many per module and side.
        energy: As few as capture this share of the energy.
        weighting: "unit": every task alike; "energy": by the square of its norm.
        tasks: Tasks to come that the basis is to serve, where coded bytes decide how many directions pay; 0: it serves the tasks it is fitted to.
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
class Member:
    """One task in a fit.

    Attributes:
        scales: The LoRA scale of every module it has.
        norm: Frobenius norm of its scaled dW.
        factor: One side of a module as coefficients over the rows of objects.
        rows: The rows (k, m) of one of these objects for a module and side.
    """

    scales: Mapping[str, float]
    norm: float
    factor: Callable[[str, Side], Factor] = field(repr=False)
    rows: Callable[[Digest, str, Side], Tensor] = field(repr=False)


def stored_members(home: "Home", versions: "Sequence[TaskVersion]") -> list[Member]:
    """Return stored versions as members; their rows and coefficients are read when they are asked for."""
    reader = home.reader()
    expansions = Expansions(reader)
    note_of = lru_cache(maxsize=_KEPT)(lambda digest: read_note(home.store, digest))

    @lru_cache(maxsize=_KEPT)
    def scales_of(config: Digest | None, layout: Digest) -> dict[str, float]:
        described = reader.layout(layout)
        shapes = described.modules()
        found = module_scales(parse_config(home.store.get(config, limit=_MAX_CONFIG_BYTES)), described) if config else [1.0] * len(shapes)
        return {shape.module: scale for shape, scale in zip(shapes, found, strict=True)}

    def member(row: "TaskVersion") -> Member:
        note = note_of(row.note_digest)
        config = note.of(row.note_task).config if note is not None else None
        return Member(
            scales=scales_of(config, row.layout_digest),
            norm=row.norm,
            factor=lambda module, side: expansions.factor(row.adapter_digest, module, side),
            rows=expansions.rows,
        )

    return [member(row) for row in versions]


def member_in_hand(name: str, adapter: "Adapter") -> Member:
    """Return an adapter that is not stored as a member: its rows are its factors, in float64 while they are looked at."""
    scales = module_scales(adapter.config, adapter.layout)
    shapes = [shape.module for shape in adapter.layout.modules()]
    places = {
        module: (factor, expert)
        for module, (factor, expert) in zip(shapes, ((factor, expert) for factor in adapter.layout.factors for expert in range(factor.experts)), strict=True)
    }

    def rows(_: Digest, module: str, side: Side) -> Tensor:
        factor, expert = places[module]
        return rows_of(adapter.layout, factor, adapter.tensors)[expert][0 if side is Side.A else 1].double()

    def factor_of(module: str, side: Side) -> Factor:
        factor, _ = places[module]
        rank = adapter.layout.tensors[factor.a].shape[0] // factor.experts
        return {Digest(name): torch.eye(rank, dtype=torch.float64)}

    energy = norm(pairs_of(adapter.layout, adapter.tensors, scales))
    return Member(scales=dict(zip(shapes, scales, strict=True)), norm=energy, factor=factor_of, rows=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A basis, and the share of the tasks' energy that its directions capture, per module and side."""

    basis: StoredBasis
    captured: Mapping[str, tuple[float, float]]


def fit(members: Sequence[Member], rule: Rule) -> Fit:
    """Return the basis of tasks: for every module and side as many directions as the rule says, none where none pays."""
    names = sorted({module for member in members for module in member.scales})
    made = {module: _module([member for member in members if module in member.scales], module, rule) for module in names}
    kept = {module: found for module, found in made.items() if any(len(rows) for rows, _ in found)}
    return Fit(
        basis=StoredBasis(modules={module: (a[0], b[0]) for module, (a, b) in kept.items()}),
        captured={module: (a[1], b[1]) for module, (a, b) in kept.items()},
    )


def _module(members: Sequence[Member], module: str, rule: Rule) -> "tuple[_Rows, _Rows]":
    """Return the rows of one module, and what they capture."""
    tasks, frames = _tasks(members, module, rule.weighting)
    spectra = _spectra(tasks, frames)
    limits = _limits(tasks, spectra, frames, rule)
    sides = [
        (rounded(found.directions(U[:, :k]), energies[:k], precision=rule.precision).numpy(), float(energies[:k].sum() / energies.sum().clamp_min(1e-300)))
        for found, (energies, U), k in zip(frames, spectra, limits, strict=True)
    ]
    return sides[0], sides[1]


def _spectra(tasks: Sequence[Task], frames: tuple[Frame, Frame]) -> tuple[Spectrum, Spectrum]:
    moments = Moments.empty(*(found.root.shape[1] for found in frames))
    moments.add_all(tasks)
    return spectrum(moments.a), spectrum(moments.b)


def _tasks(members: Sequence[Member], module: str, weighting: str) -> tuple[list[Task], tuple[Frame, Frame]]:
    """Return the tasks of one module in coordinates, and the frames they are coordinates in."""
    coordinates, frames = zip(*(_coordinates(members, module, side) for side in (Side.A, Side.B)), strict=True)
    weights = [(1.0 / member.norm**2 if weighting == UNIT and member.norm > 0 else 1.0) * member.scales[module] ** 2 for member in members]
    return [Task(A=A, B=B, weight=weight) for A, B, weight in zip(*coordinates, weights, strict=True)], (frames[0], frames[1])


def _coordinates(members: Sequence[Member], module: str, side: Side) -> tuple[list[Tensor], Frame]:
    """Return one side of every task in orthonormal coordinates of the rows in use."""
    factors = [member.factor(module, side) for member in members]
    blocks = {key: member.rows(key, module, side) for member, factor in zip(members, factors, strict=True) for key in factor}
    rows = torch.cat(list(blocks.values()))
    starts = dict(zip(blocks, torch.tensor([0, *map(len, blocks.values())]).cumsum(0).tolist(), strict=False))
    if len(rows) > rows.shape[1]:
        return [sum((K @ blocks[key] for key, K in factor.items()), torch.zeros(())) for factor in factors], axes(rows.shape[1])
    found = frame(rows)
    return [sum((K @ found.root[starts[key] : starts[key] + K.shape[1]] for key, K in factor.items()), torch.zeros(())) for factor in factors], found


def _limits(tasks: Sequence[Task], spectra: tuple[Spectrum, Spectrum], frames: tuple[Frame, Frame], rule: Rule) -> tuple[int, int]:
    """Return how many directions each side keeps."""
    some = [_alive(found) for found in spectra]
    if rule.energy is not None:
        limits = [captured(energies, rule.energy) for energies, _ in spectra]
    elif rule.max_rank is not None:
        limits = some
    else:
        limits = _paying(tasks, spectra, frames, rule)
    cap = rule.max_rank if rule.max_rank is not None else max(some)
    return min(limits[0], some[0], cap), min(limits[1], some[1], cap)


def _alive(found: Spectrum) -> int:
    """Return the number of directions that carry more than rounding noise."""
    energies = found[0]
    return int((energies > _NOTHING * energies.amax()).sum()) if len(energies) and float(energies.amax()) > 0 else 0


def _paying(tasks: Sequence[Task], spectra: tuple[Spectrum, Spectrum], frames: tuple[Frame, Frame], rule: Rule) -> list[int]:
    """Return how many directions save more bytes than they cost: on the tasks themselves, or, for tasks to come, on each part with the directions of the others."""
    widths = (frames[0].rows.shape[1], frames[1].rows.shape[1])
    times = (rule.tasks or len(tasks)) / min(len(tasks), _JUDGED)
    tasks = tasks if len(tasks) <= _JUDGED else [tasks[number * len(tasks) // _JUDGED] for number in range(_JUDGED)]
    if rule.tasks:
        folds: list[tuple[Sequence[Task], Sequence[Task]]] = [
            ([task for place, task in enumerate(tasks) if place % _FOLDS != fold], tasks[fold::_FOLDS]) for fold in range(min(_FOLDS, len(tasks)))
        ]
    else:
        folds = [(tasks, tasks)]
    saved = [torch.zeros(len(energies) + 1, dtype=torch.float64) for energies, _ in spectra]
    for fitted, judged in folds:
        found = _spectra(fitted, frames)
        for side, bits in enumerate(savings(judged, (found[0][1], found[1][1]), widths=widths, budget=rule.budget)):
            bits[_alive(found[side]) + 1 :] = -torch.inf  # the frame spans the judged tasks too: other axes are not what the fit has found
            saved[side] += times * bits
    return [paying(saved[side], spectra[side][0], width=widths[side], precision=rule.precision) for side in (0, 1)]
